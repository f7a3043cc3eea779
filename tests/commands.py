"""Whole commands, run in this process or in one of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from eyas.cli import main


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line of a refused command."""
        assert self.code == 2, (self.code, self.err)
        [line] = self.err.splitlines()
        assert line.startswith("eyas: error: ")
        assert self.out == ""
        return line


def runner(capsys):
    """What runs a command and tells what it printed."""

    def run(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Done(code, *capsys.readouterr())

    return run


def processes():
    """Body of a fixture: what starts a command in a process of its own; those left over are killed."""
    started = []

    def start(*argv, **settings):
        source = Path(__file__).parents[1] / "src"
        process = subprocess.Popen(
            [sys.executable, "-m", "eyas", *map(str, argv)],
            env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **settings,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
