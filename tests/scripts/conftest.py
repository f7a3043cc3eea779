"""The scripts of benchmarks/, on result folders made by hand."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "bench")]

if not (ROOT / "benchmarks").is_dir():  # a source distribution has no scripts
    collect_ignore_glob = ["*"]


@pytest.fixture
def report(monkeypatch, capsys):
    """Run `python -m benchmarks.paper`; returns exit code, stdout and stderr."""
    from benchmarks.paper.__main__ import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["benchmarks.paper", *map(str, words)])
        code = main()
        return code, *capsys.readouterr()

    return run
