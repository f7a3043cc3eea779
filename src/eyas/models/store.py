"""The user's cache: models and heads as folders that appear whole or not at all.

    <cache>/models/<name>/           ordinary Hugging Face directories
    <cache>/heads/<fingerprint>/     EAGLE heads, by the fingerprint of their target

`EYAS_CACHE` moves it. A folder is made under a temporary name beside its place and renamed when complete, so
an interruption leaves nothing under the final name; what it left under a temporary one is swept away by the
next call, once the process that made it is gone.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from eyas.errors import FetchError, ModelError

_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the cache."""

    name: str
    path: Path
    size_bytes: int


def cache_dir() -> Path:
    """The cache folder: `EYAS_CACHE`, or the system's own place for caches."""
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
    folders = sorted(path.parent for path in models_dir().glob("*/config.json"))
    return [
        StoredModel(folder.name, folder, sum(file.stat().st_size for file in folder.rglob("*")))
        for folder in folders
        if not folder.name.startswith(".")
    ]


def remove_model(name: str) -> Path:
    """Delete a model from the cache.

    Raises:
        ModelError: there is none of that name; names those that there are.
    """
    known = {model.name: model.path for model in list_models()}
    if name not in known:
        have = ", ".join(known) or "none"
        raise ModelError(f"no model {name!r} in {models_dir()}; the cache holds: {have}.")
    with locked(known[name]):
        doomed = known[name].with_name(f"{_UNFINISHED}{os.getpid()}-{name}")
        known[name].rename(doomed)  # gone at once, whatever happens to the rest
        shutil.rmtree(doomed)
    return known[name]


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the lock of a folder that may not exist yet, across processes.

    Raises:
        FetchError: the cache cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = (place.parent / f".{place.name}.lock").open("w")
    except OSError as error:
        raise _unwritable(place, error) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def installing(place: Path) -> Iterator[Path]:
    """A temporary folder that becomes `place` when the block ends without an error.

    Call it under `locked(place)`. An existing `place` is replaced.

    Raises:
        FetchError: the disk is full or the cache cannot be written.
    """
    sweep(place.parent)
    folder = place.with_name(f"{_UNFINISHED}{os.getpid()}-{place.name}")
    try:
        folder.mkdir(parents=True)
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                _sync(file)
        if place.exists():
            shutil.rmtree(place)
        folder.rename(place)
        _sync(place.parent)
    except OSError as error:
        raise _unwritable(place, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove temporary folders whose process is gone."""
    for folder in parent.glob(f"{_UNFINISHED}*"):
        pid = folder.name.removeprefix(_UNFINISHED).split("-")[0]
        if not (pid.isdigit() and Path(f"/proc/{pid}").exists() and int(pid) != os.getpid()):
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(place: Path, error: OSError) -> FetchError:
    return FetchError(
        f"{place} cannot be written ({error.strerror or error}); free some space, or move the cache with "
        "EYAS_CACHE."
    )
