"""Keeps cost tables, as JSON in <cache>/costs/.

A table belongs to everything that changes its numbers: target, runtime, precision, threads, method, draft
networks, machine, version and compiled engine. Its file is named by a hash of these.
"""

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import eyas
from eyas.engine.costs import CostTable
from eyas.engine.interfaces import Runtime
from eyas.errors import DataError
from eyas.models import cache_dir, is_gguf, locked
from eyas.models.digests import content_digest
from eyas.models.machine import cpu_model, engine_hash


def stored_table(path: Path) -> CostTable | None:
    """The table at `path`; None if there is none, or one that cannot be read."""
    try:
        return CostTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, DataError):
        return None


def store_table(path: Path, table: CostTable) -> None:
    """Write a table, whole or not at all.

    Raises:
        FetchError: the cache cannot be written.
    """
    with locked(path):
        new = path.with_suffix(".new")
        new.write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
        new.replace(path)


def forget_table(path: Path) -> None:
    """Remove a table, so that the next process measures again."""
    with suppress(OSError):
        path.unlink()


def table_path(runtime: Runtime, method: str, head: Path | None, draft_dtype: str) -> Path:
    """Where the table of this runtime, target, method and its networks on this machine is kept."""
    target = asdict(runtime.target)
    if target["fingerprint"] is not None:
        del target["name"]  # a folder may be called otherwise tomorrow
    identity: dict[str, Any] = {
        "target": target,
        "method": method,
        "head": None if head is None else _head_state(head),
        "draft_dtype": draft_dtype,
        "machine": [platform.machine(), cpu_model(), os.cpu_count()],
        "isa": os.environ.get("EYAS_ISA"),
        "eyas": [eyas.__version__, engine_hash()],
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "costs" / f"{name}.json"


def _head_state(head: Path) -> list[Any]:
    """What tells one head from another without reading its weights."""
    if is_gguf(head):
        return [content_digest([head])]
    files = sorted(path for path in head.iterdir() if path.is_file() and path.suffix != ".md")
    sizes = [[path.name, path.stat().st_size] for path in files]
    return [sizes, hashlib.sha256((head / "config.json").read_bytes()).hexdigest()]
