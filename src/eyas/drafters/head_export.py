"""Writes a head in a layout that other programs read (`eyas.drafters.heads.HeadLayout`)."""

import os
import shutil
from pathlib import Path
from typing import Any

from eyas.drafters.heads import HeadKind, HeadLayout, HeadTarget, head_kinds, read_head
from eyas.errors import CheckpointError, ConfigError
from eyas.models import is_gguf


def head_layouts() -> dict[str, tuple[HeadKind[Any], HeadLayout]]:
    """The layouts by name, with the kinds of heads that they hold."""
    return {layout.name: (kind, layout) for kind in head_kinds().values() for layout in kind.layouts}


def export_head(source: Path, out: Path, layout: str, model: str | None = None) -> None:
    """Write a head as a whole or not at all.

    Args:
        source: of the head.
        out: a folder, or a file where the layout is one.
        layout: a name in `head_layouts`.
        model: of the head's target: its GGUF file or its folder, or what other programs call it.

    Raises:
        ConfigError: an unknown layout.
        CheckpointError: a broken head, one of another kind, one that the layout cannot hold, or a place that
            exists.
    """
    known = head_layouts()
    if layout not in known:
        raise ConfigError(f"unknown layout {layout!r}; the layouts are {', '.join(known)}.")
    kind, wanted = known[layout]
    if out.exists():
        raise CheckpointError(f"{out} exists already; name a new folder or file.")
    if out.suffix != wanted.suffix and wanted.suffix:
        raise CheckpointError(
            f"{out} is no name of a file of the layout {layout}; end it in {wanted.suffix}."
        )
    path = None if model is None else Path(model).expanduser()
    target = HeadTarget(model, path if path is not None and (is_gguf(path) or path.is_dir()) else None)
    unfinished = out.with_name(f".unfinished-{os.getpid()}-{out.name}")
    try:
        wanted.write(read_head(kind, source), unfinished, target)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.unlink(missing_ok=True)
