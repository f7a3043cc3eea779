"""Progress: a bar on a terminal, a line a minute elsewhere."""

import io
import sys

from eyas.models import progress_bar
from eyas.models.progress import progress_lines


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_short_work_is_silent_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar() as progress:
        progress("converting", 1, 2)
    assert sys.stderr.getvalue() == ""


def test_long_work_writes_a_line_a_minute_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    seconds = iter([0.0, 1.0, 59.0, 61.0, 100.0, 125.0, 130.0, 186.0])
    show = progress_lines(lambda: next(seconds))
    for done in range(6):
        show("training", done, 6)
    show("simulating", 2, 3)
    assert sys.stderr.getvalue().splitlines() == [
        "eyas: training: 2 of 6 after 1 min",
        "eyas: training: 4 of 6 after 2 min",
        "eyas: simulating: 2 of 3 after 3 min",
    ]


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as progress:
        progress("converting", 1, 2)
        progress("converting", 2, 2)
    assert "converting" in sys.stderr.getvalue()
