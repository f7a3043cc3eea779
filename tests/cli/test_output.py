"""Tables on a terminal and in a pipe, and sizes."""

import re
import sys

import pytest

from eyas.cli.output import size_text, write_table

ROWS = [("small", "3 B", "/somewhere/[bold]"), ("a-long-name", "2.5 MB", "/else" * 30)]


def table(monkeypatch, capsys, is_terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    write_table(("model", "size", "directory"), ROWS, right={"size"})
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()  # without colours


def test_a_pipe_gets_one_line_a_row(monkeypatch, capsys):
    assert [line.split() for line in table(monkeypatch, capsys, False)] == [
        [word for cell in row for word in cell.split()] for row in ROWS
    ]


def test_a_terminal_gets_headings_and_no_line_beyond_its_width(monkeypatch, capsys):
    lines = table(monkeypatch, capsys, True)
    assert lines[0].split() == ["model", "size", "directory"]
    assert all(len(line) <= 60 for line in lines)
    assert "".join(line[22:].strip() for line in lines[3:]) == ROWS[1][2], "nothing is cut"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (273e6, "273 MB"), (9.99e9, "10.0 GB"), (2.5e9, "2.5 GB")],
)
def test_sizes(count, text):
    assert size_text(int(count)) == text
