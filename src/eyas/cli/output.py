"""What goes where: stdout is the answer, stderr everything else."""

import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eyas.engine.metrics import GenerationStats, mean_acceptance_length


def note(text: str) -> None:
    """A line on stderr; the answer goes on even if stderr cannot be written."""
    with suppress(OSError):
        print(f"eyas: {text}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Replace streams that the caller has closed: reading gives nothing, writing is ignored."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - open while the program runs
            setattr(sys, name, stream)


def write(text: str) -> None:
    """Write a part of the answer, without buffering."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """A table on stdout: within the width of a terminal; elsewhere one line a row, without headings.

    Args:
        columns: their headings.
        rows: the cells.
        right: columns whose cells end at the right, as numbers do.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    is_terminal = sys.stdout.isatty()
    made = Table(box=box.SIMPLE_HEAD, show_header=is_terminal, show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(escape, row))
    console = Console(file=sys.stdout, width=None if is_terminal else 10_000, highlight=False)
    with console.capture() as capture:
        console.print(made)
    write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def size_text(count: int) -> str:
    """Bytes as a person reads them: 988 MB, 1.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"


def write_json(document: Mapping[str, Any]) -> None:
    """The one document of --json, on one line; characters that stdout's encoding lacks are escaped."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    write(json.dumps(document, ensure_ascii=not is_unicode, allow_nan=False) + "\n")


def statistics_line(rows: Sequence[GenerationStats], config: Mapping[str, Any]) -> str:
    """Tokens, cycles, acceptance length, speed, and what computed them, over all answers to a prompt."""
    cycles = sum(row.cycles for row in rows)
    parts = [f"{sum(row.new_tokens for row in rows)} tokens in {cycles} cycles"]
    length = mean_acceptance_length(rows)
    if length is not None:
        parts.append(f"acceptance length {length:.2f}")
    timed = [row for row in rows if row.cycles]
    seconds = sum(row.decode_seconds for row in timed)
    if seconds > 0:
        parts.append(f"{sum(row.new_tokens - 1 for row in timed) / seconds:.1f} tokens/s")
    parts.append(f"{config['method']} on {config['runtime']} {config['dtype']}")
    known = {"shapes": "head checked by shapes only", "base": "head of another quantisation"}
    if config["head_check"] in known and any(row.draft_forwards for row in rows):
        parts.append(known[config["head_check"]])
    return ", ".join(parts)


def drop_stdout() -> None:
    """Send further output nowhere, so that Python's last flush does not fail after a reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a file, as under a test
        pass
    finally:
        os.close(nowhere)
