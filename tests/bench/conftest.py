"""Whole commands on the tiny chat model, and result folders made by hand."""

import json
import sys
from pathlib import Path

import pytest

from commands import processes, runner
from tiny_chat import write_chat_model

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "bench"))

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


@pytest.fixture
def eyas(capsys):
    """Run a command in this process."""
    return runner(capsys)


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
    yield from processes()
