"""The cache's packed weights: which files are there, and which of them may go.

A file's time of change is when it was last used. Files can always be made again, so removing one costs some
seconds at the next start, and a process that has mapped a file keeps it.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from eyas.models.store import cache_dir

LIMIT = 16 << 30  # bytes of all packed files; beyond it those go that were used longest ago
OTHER_LAYOUT_DAYS = 7  # unused for so long, a file that another version of eyas has written goes


def packed_dir() -> Path:
    """Where packed weights are kept."""
    return cache_dir() / "packed"


def packed_files() -> list[Path]:
    """The packed files, those used longest ago first."""
    files = [path for path in packed_dir().glob("*.safetensors") if path.is_file()]
    return sorted(files, key=_last_used)


def packed_bytes() -> int:
    """Size of all packed files."""
    return sum(map(_size, packed_files()))


def touch(path: Path) -> None:
    """Note that a file is in use now."""
    with suppress(OSError):  # a cache that cannot be written can be read
        os.utime(path)


def remove_stale(*, keep: Path, layout: str) -> None:
    """Remove files of other layouts that are not used any more, then the oldest ones beyond the limit.

    Args:
        keep: a file that stays: the one in use.
        layout: the layout key of this version, for the format of `keep`.
    """
    weight_format = keep.stem.split("-")[-2]
    oldest = time.time() - OTHER_LAYOUT_DAYS * 86_400
    for path in packed_files():
        parts = path.stem.split("-")
        is_other = parts[-2:-1] == [weight_format] and parts[-1] != layout
        if path != keep and is_other and _last_used(path) < oldest:
            _remove(path)
    total = packed_bytes()
    for path in packed_files():
        if total <= LIMIT:
            return
        if path != keep:
            total -= _size(path)
            _remove(path)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    with suppress(OSError):  # in use on Windows, or gone already
        path.unlink()
