"""Tables as Markdown, as text for a terminal, and as one self-contained HTML page."""

import html
import io
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from eyas.bench.files import write_whole
from eyas.bench.tables import Table
from eyas.errors import DataError

UNLIMITED = 10_000  # columns: no table is that wide
# Tables go between such a pair of comments in a Markdown file; ids select some of them.
_PLACE = re.compile(r"(<!-- eyas bench:([^>]*)-->\n).*?(<!-- /eyas bench -->)", re.S)

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8885; white-space: nowrap; }
th { border-bottom-width: 2px; } .text { text-align: left; white-space: normal; }
p.note, dt { color: #777; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; background: #fff; } svg { max-width: 100%; height: auto; }
"""


def markdown(tables: Iterable[Table]) -> str:
    """The tables as Markdown."""
    return "\n".join(_markdown_table(table) for table in tables)


def _markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(name.strip() for name, _ in table.columns) + " |",
        "|" + "|".join("---" if form == "text" else "--:" for _, form in table.columns) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.cells()]
    note = f"\n{table.notes}\n" if table.notes else ""
    return f"### {table.title}\n\n" + "\n".join(lines) + "\n" + note


def write_markdown(path: Path, tables: Sequence[Table], heading: str) -> None:
    """Write the tables into a new file, or between the marks of one that exists.

    A mark is `<!-- eyas bench: ID ID -->`; without ids it takes all tables; `<!-- /eyas bench -->` ends it.

    Raises:
        DataError: the file has no marks or is not text, or a mark names a table that does not exist.
        ConfigError: it cannot be written.
    """
    if not path.is_file():
        write_whole(path, f"# {heading}\n\n{markdown(tables)}")
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8, so it cannot take tables; name another file.") from None
    known = {table.id: table for table in tables}

    def filled(place: re.Match[str]) -> str:
        wanted = place[2].split()
        missing = [name for name in wanted if name not in known]
        if missing:
            raise DataError(
                f"{path} asks for a table {missing[0]!r}, which these results cannot fill; choose from "
                f"{', '.join(known)}."
            )
        return place[1] + "\n" + markdown([known[name] for name in wanted] or tables) + "\n" + place[3]

    text, count = _PLACE.subn(filled, text)
    if not count:
        raise DataError(
            f"{path} exists and has no place for tables; add <!-- eyas bench: --> and <!-- /eyas bench --> "
            "to it, or name a new file."
        )
    write_whole(path, text)


def terminal(tables: Iterable[Table]) -> str:
    """The tables as aligned text: as wide as the terminal, or as they need where stdout is not one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for at, table in enumerate(tables):
        shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name, form in table.columns:
            shown.add_column(name.strip(), justify="left" if form == "text" else "right")
        for row in table.cells():
            shown.add_row(*map(Text, row))
        if at:
            console.print()
        for part in (table.title and Text(table.title), shown, table.notes and Text(table.notes)):
            if part:
                console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def page(tables: Iterable[Table], run: Mapping[str, Any], figures: Mapping[str, str], heading: str) -> str:
    """One HTML page: tables, figures as SVG text by title, and where the numbers come from."""
    body = [f"<h1>{html.escape(heading)}</h1>"]
    body += [_html_table(table) for table in tables]
    body += [f"<h2>{html.escape(title)}</h2><figure>{svg}</figure>" for title, svg in figures.items()]
    body.append("<h2>Where the numbers come from</h2><dl>")
    for session in run.get("sessions", []):
        for name, value in session.items():
            body.append(f"<dt>{html.escape(name)}</dt><dd>{html.escape(_flat(value))}</dd>")
    body.append("</dl>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(heading)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _html_table(table: Table) -> str:
    kinds = ["text" if form == "text" else "number" for _, form in table.columns]
    head = "".join(
        f'<th class="{kind}" scope="col">{html.escape(name)}</th>'
        for kind, (name, _) in zip(kinds, table.columns, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{html.escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in table.cells()
    )
    note = f'<p class="note">{html.escape(table.notes)}</p>' if table.notes else ""
    return (
        f'<h2 id="{html.escape(table.id)}">{html.escape(table.title)}</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    return str(value)
