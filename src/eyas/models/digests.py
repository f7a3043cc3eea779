"""Digests of files, remembered for as long as these stay as they are."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

from eyas.models.store import cache_dir

_MOST = 256  # remembered files


def content_digest(files: Sequence[Path]) -> str:
    """16 hexadecimal digits of the contents of `files`, whatever they are called and wherever they lie."""
    digests = sorted(remembered("sha256", [file], partial(_sha256, file)) for file in files)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def remembered(what: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """A digest of files, computed once for as long as they stay as they are.

    Reading gigabytes at each start would take seconds, so digests are remembered in the cache by path, size,
    inode and time of the last change. That a memory is lost costs time and nothing else.

    Args:
        what: the digest's name.
        files: what it depends on.
        compute: makes it.
    """
    key = " ".join([what, *map(_state, files)])
    memory = cache_dir() / "digests.json"
    known = _read(memory)
    if key not in known:
        known[key] = compute()
        _write(memory, known)
    return known[key]


def _state(file: Path) -> str:
    status = file.stat()
    return f"{file.resolve()} {status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(memory: Path) -> dict[str, str]:
    try:
        document = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict) or not all(isinstance(digest, str) for digest in document.values()):
        return {}
    return document


def _write(memory: Path, digests: dict[str, str]) -> None:
    newest = dict(list(digests.items())[-_MOST:])
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            "w", encoding="utf-8", dir=memory.parent, prefix=".digests-", delete=False
        ) as file:
            json.dump(newest, file, indent=1)
        Path(file.name).replace(memory)
