"""A tiny random chat model on disk, with a random head, for whole commands."""

import pytest

from commands import processes, runner
from tiny_chat import write_chat_model


@pytest.fixture(scope="session")
def bare_model(tmp_path_factory):
    """A model without a head."""
    return write_chat_model(tmp_path_factory.mktemp("models") / "bare")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model with a head beside it."""
    return write_chat_model(tmp_path_factory.mktemp("models") / "tiny", head=True)


@pytest.fixture
def eyas(capsys):
    """Run a command in this process."""
    return runner(capsys)


@pytest.fixture
def command():
    """Start a command in a process of its own."""
    yield from processes()
