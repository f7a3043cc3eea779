"""Files of JSON lines that runs append to: one run at a time, and whole again after a kill."""

import fcntl
import json
from pathlib import Path
from typing import IO, Any

from eyas.errors import DataError


def hold(file: IO[Any], path: Path, option: str) -> None:
    """Lock an open file until it is closed.

    Raises:
        DataError: another run has locked it; `option` names another place.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(
            f"{path} is in use by another run; wait for it, or choose another {option}."
        ) from None


def mended(content: bytes, beginning: bytes) -> bytes:
    """What a file should hold: a line that a kill cut off goes, a whole one that lacks its line feed gets it.

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
