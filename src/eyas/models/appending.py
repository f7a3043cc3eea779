"""Files of JSON lines that runs append to: one run at a time, and whole again after a kill."""

import json
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from eyas.errors import DataError


def hold(path: Path, option: str, lock_file: Path | None = None) -> BaseFileLock:
    """Lock a file or folder against other runs, until the returned lock is released or the process ends.

    Args:
        path: what is locked, for the message.
        option: of the command line, which names another place.
        lock_file: None is `.NAME.lock` next to `path`.

    Raises:
        DataError: another run has locked it.
        OSError: the lock file cannot be written.
    """
    lock = FileLock(lock_file or path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(
            f"{path} is in use by another run; wait for it, or choose another {option}."
        ) from None
    return lock


def without_cut_line(content: bytes, beginning: bytes) -> bytes:
    """What a file should hold: without a last line that a kill cut off, and with a last line feed.

    Args:
        content: of the file.
        beginning: of every line that is written there; another last line is not ours to drop, and stays.
    """
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return content
    is_ours = last.startswith(beginning) or beginning.startswith(last)
    return content.removesuffix(last) if is_ours and not _is_json(last) else content + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
