"""Writing a file whole or not at all."""

import os
import tempfile
from pathlib import Path

from eyas.errors import ConfigError


def write_whole(path: Path, text: str) -> None:
    """Write `text` beside `path`, then put it in place: a reader sees the old file or the new one.

    Raises:
        ConfigError: the folder does not exist or cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place.") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
