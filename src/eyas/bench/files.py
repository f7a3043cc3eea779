"""Writes a file as a whole or not at all."""

import os
import tempfile
from pathlib import Path

from eyas.errors import ConfigError


def write_whole(path: Path, text: str) -> None:
    """Write `text` to a temporary file, then rename it: a reader sees the old file or the new one.

    A link is followed. A device or a pipe is written to directly, since it cannot be replaced.

    Raises:
        ConfigError: it is a folder, its folder does not exist, or it cannot be written.
    """
    # File names need not be UTF-8; their undecodable bytes are lone surrogates, which JSON can escape.
    content = text.encode(errors="backslashreplace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place.") from None


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path}: {error.strerror}; choose another place.") from None


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
