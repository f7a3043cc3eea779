"""Whole commands on the tiny chat model, and result folders made by hand."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "cli"))
sys.path.insert(0, str(TESTS / "bench"))

from eyas.cli import main  # noqa: E402
from tiny_chat import write_chat_model  # noqa: E402 - found by the path above

OPTIONS = (
    "--dtype",
    "float32",
    "--threads",
    "1",
    "--max-new-tokens",
    "16",
    "--draft-tokens",
    "7",
    "--depth",
    "2",
)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
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
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def questions(tmp_path):
    """Two questions, the second of two turns."""
    file = tmp_path / "tides.jsonl"
    rows = [{"question_id": n, "category": "qa", "turns": [f"question {n}", "more"][:n]} for n in (1, 2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def argv(model, questions, tmp_path):
    """`eyas bench run` into the folder out."""
    return ("bench", "run", "--questions", questions, "--model", model, "--out", tmp_path / "out", *OPTIONS)


@pytest.fixture
def rows(tmp_path):
    """Read the rows of a folder."""

    def read(name="out"):
        return [json.loads(line) for line in (tmp_path / name / "rows.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def start():
    """Start a command in a process of its own."""
    started = []

    def run(*argv, **settings):
        environment = os.environ | {"PYTHONPATH": str(TESTS.parent / "src"), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "eyas", *map(str, argv)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **settings,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
