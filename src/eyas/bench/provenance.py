"""Where numbers come from: versions, machine, source code, command, times."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import eyas
from eyas.models import is_gguf
from eyas.models.machine import cpu_model

PACKAGE = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "tokenizers", "safetensors", "torch", "transformers")
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth")


def provenance(command_line: str) -> dict[str, Any]:
    """What this process measures with; add `ended` when it is done."""
    return {
        "command_line": command_line,
        "versions": versions(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "git_commit": git_commit(),
        "sources": sources_hash(),
        "started": now(),
    }


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Versions of eyas, Python and the packages that compute; None where one is absent."""
    found: dict[str, str | None] = {"eyas": eyas.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def sources_hash() -> str:
    """SHA-256 over the package's Python files, names and contents."""
    return hash_files(PACKAGE.rglob("*.py"), PACKAGE)


def head_hash(directory: Path | None) -> str | None:
    """SHA-256 over a head's configuration and weights, or over a GGUF file; None for no head."""
    if directory is None:
        return None
    if is_gguf(directory):
        return hash_files([directory], directory.parent)
    weights = [path for path in directory.iterdir() if path.suffix in WEIGHT_FILES]
    return hash_files([directory / "config.json", *weights], directory)


def hash_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over files: each one's path below `root`, then its content."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()}\0".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def git_commit() -> str | None:
    """The commit of the package's own repository, `+changes` where it differs; None outside of one."""
    # An installed package may lie inside another repository, whose commit says nothing about it.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str | None:
    # Without locks: a `status` killed while it refreshes the index would leave the repository locked.
    command = ["git", "--no-optional-locks", "-C", str(PACKAGE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
