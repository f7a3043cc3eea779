"""A tiny random chat model on disk, with a random head, for whole commands."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from eyas.cli import main
from tiny_chat import write_chat_model


@pytest.fixture(scope="session")
def bare_model(tmp_path_factory):
    """A model without a head."""
    return write_chat_model(tmp_path_factory.mktemp("models") / "bare")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model with a head beside it."""
    return write_chat_model(tmp_path_factory.mktemp("models") / "tiny", head=True)


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


@pytest.fixture
def eyas(capsys):
    """Run a command in this process."""

    def run(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture
def command():
    """Start a command in a process of its own."""
    started = []

    def start(*argv, **settings):
        source = Path(__file__).parents[2] / "src"
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
