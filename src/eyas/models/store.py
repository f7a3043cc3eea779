"""The user's cache: models and heads as folders that appear whole or not at all.

    <cache>/models/<name>/           a Hugging Face directory, or a folder with a GGUF file
    <cache>/heads/<fingerprint>/     EAGLE heads, by the fingerprint of their target

`EYAS_CACHE` moves it. A folder is made under a temporary name next to its place and renamed when complete, so
an interruption leaves nothing under the final name; what it left under a temporary one is removed by the next
call. A process that works in a temporary folder holds its lock, which ends with the process.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout
from platformdirs import user_cache_path

from eyas.errors import FetchError, ModelError

_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the cache.

    Attributes:
        name: of its folder.
        path: the directory or GGUF file that is the model.
        size_bytes: of all files in the folder.
    """

    name: str
    path: Path
    size_bytes: int


def cache_dir() -> Path:
    """The cache folder: `EYAS_CACHE`, or the operating system's place for caches."""
    chosen = os.environ.get("EYAS_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("eyas")


def models_dir() -> Path:
    """Where models are kept."""
    return cache_dir() / "models"


def heads_dir() -> Path:
    """Where heads are kept."""
    return cache_dir() / "heads"


def list_models() -> list[StoredModel]:
    """The models in the cache, by name."""
    folders = sorted(path for path in models_dir().glob("*") if not path.name.startswith("."))
    found = [(folder, stored_model(folder)) for folder in folders]
    return [StoredModel(folder.name, path, _size(folder)) for folder, path in found if path is not None]


def stored_model(folder: Path) -> Path | None:
    """The model in a folder of the cache: itself, or the GGUF file in it; None where there is none."""
    if (folder / "config.json").is_file():  # folders appear whole, so this says enough
        return folder
    return min(folder.glob("*.gguf"), default=None)  # of several parts the first


def remove_model(name: str) -> Path:
    """Delete a model from the cache; returns its folder.

    Raises:
        ModelError: there is none of that name; names those that there are.
    """
    known = [model.name for model in list_models()]
    if name not in known:
        have = ", ".join(known) or "none"
        raise ModelError(f"no model {name!r} in {models_dir()}; the cache holds: {have}.")
    folder = models_dir() / name
    with locked(folder):
        room = _room(folder)
        shutil.rmtree(room, ignore_errors=True)
        try:
            folder.rename(room)  # gone at once, whatever happens to the rest
        except FileNotFoundError:
            pass  # another process removed it first
        except OSError as error:
            raise _unwritable(folder, error) from error
        shutil.rmtree(room, ignore_errors=True)
    return folder


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say in one line that the cache cannot be written, if so.

    Raises:
        FetchError: the disk is full or the cache cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(place, error) from error


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the lock of a folder or file that may not exist yet, across processes; waits for its holder.

    Raises:
        FetchError: the cache cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(place)
        lock.acquire()
    except OSError as error:
        raise _unwritable(place, error) from error
    try:  # the end of the process gives the lock back, too
        yield
    finally:
        lock.release()


@contextmanager
def installing(place: Path) -> Iterator[Path]:
    """An empty folder that becomes `place` when the block ends without an error.

    Call it under `locked(place)`. An existing `place` is replaced. The folder's parent is temporary too:
    files put there vanish at the end, or with the next sweep.

    Raises:
        FetchError: the disk is full or the cache cannot be written.
    """
    room = _room(place)
    folder = room / "new"
    try:
        with writing(place):
            sweep(place.parent)
            shutil.rmtree(room, ignore_errors=True)  # ours: we hold its lock
            folder.mkdir(parents=True)
            yield folder
            for file in [*folder.rglob("*"), folder]:
                _sync(file)
            if place.exists():
                place.rename(room / "old")
            folder.rename(place)
            _sync(place.parent)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what interrupted processes left: temporary folders whose lock is free."""
    for room in parent.glob(f"{_UNFINISHED}*"):
        lock = _lock(room.with_name(room.name.removeprefix(_UNFINISHED)))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue  # another process is at work there
        try:
            shutil.rmtree(room, ignore_errors=True)
        finally:
            lock.release()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _lock(place: Path) -> BaseFileLock:
    return FileLock(place.with_name(f".{place.name}.lock"))


def _room(place: Path) -> Path:
    return place.with_name(f"{_UNFINISHED}{place.name}")


def _sync(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open folders, and syncs files that are open for writing only
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(place: Path, error: OSError) -> FetchError:
    return FetchError(
        f"{error.filename or place} cannot be written ({error.strerror or error}); make room or get rights "
        "there, or move the cache with EYAS_CACHE."
    )
