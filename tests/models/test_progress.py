"""Progress: a bar on a terminal, silence elsewhere."""

import io
import sys

from eyas.models import progress_bar, silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_no_bar_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar() as progress:
        assert progress is silent
        progress("converting", 1, 2)
    assert sys.stderr.getvalue() == ""


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as progress:
        progress("converting", 1, 2)
        progress("converting", 2, 2)
    assert "converting" in sys.stderr.getvalue()
