"""Folders and files of a training run: what it may replace, and that no other run uses them."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eyas.drafters.heads import find_head_kind, kind_of
from eyas.errors import ConfigError, DataError
from eyas.models import installing, locked
from eyas.models.appending import hold
from eyas.training.data import why_unwritten

FILES = ("config.json", "model.safetensors")  # of what a training run makes


def check_apart(place: Path, kept: Iterable[Path]) -> None:
    """Refuse a `place` that is, or contains, something that the run reads or continues from.

    Raises:
        ConfigError: names it.
    """
    for path in kept:
        if path.resolve().is_relative_to(place.resolve()):
            raise ConfigError(f"--out {place} would replace {path}; name another folder.")


def check_replaceable(place: Path, kind: str) -> None:
    """Refuse a `place` with content that would be lost: anything not made by a run of this kind.

    Args:
        place: where the result goes; the folder is replaced whole.
        kind: of `eyas.drafters.heads`. Heads in folders below that of another kind stay.

    Raises:
        ConfigError: names what is in the way.
    """
    if not place.exists():
        return
    if not place.is_dir():
        raise ConfigError(f"--out {place} is a file; name a new or an empty folder.")
    entries = sorted(place.iterdir())
    own = {path.name for path in entries} & set(FILES)
    foreign = [path.name for path in entries if not _may_be_there(path, kind)]
    if not foreign and own and (own != set(FILES) or _kind_of(place) != kind):
        foreign = sorted(own)
    if foreign:
        raise ConfigError(
            f"--out {place} holds {foreign[0]}, which `eyas train {kind}` has not made and which would be "
            "lost; name a new or an empty folder."
        )


@contextmanager
def replacing(place: Path, kind: str) -> Iterator[Path]:
    """An empty folder that becomes `place` when the block ends without an error.

    Raises:
        ConfigError: as in `check_replaceable`.
        FetchError: the disk is full or the folder cannot be written.
    """
    with locked(place):
        check_replaceable(place, kind)  # again: a run is long enough to put something there
        with installing(place) as folder:
            yield folder


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a run's state, and lock it against other runs.

    Raises:
        DataError: it cannot be made, or another run has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder, "--work", folder / ".lock")
    except OSError as error:
        raise DataError(
            f"--work {folder} cannot be written ({why_unwritten(error)}); name another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _may_be_there(path: Path, kind: str) -> bool:
    if path.is_dir():
        is_other = (path / "config.json").is_file()  # another kind's head: copied over
        return not find_head_kind(kind).folder and (is_other or path.name.startswith(".unfinished-"))
    return path.name in FILES or (path.name.startswith(".") and path.name.endswith(".lock"))


def _kind_of(network: Path) -> str | None:
    """The kind of head that a run has made there; None for anything else."""
    try:
        document = json.loads((network / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not {"target_fingerprint", "provenance"} <= document.keys():
        return None
    return kind_of(document)
