"""A tiny chat model behind a real server on a free port of this machine, and clients for it."""

import contextlib

import pytest
from serving import Server

import eyas
from eyas.runtimes.native import is_built
from fake import FAST
from tiny_chat import write_chat_model

RUNTIME = (
    {"runtime": "native", "dtype": "float32"} if is_built() else {"runtime": "torch", "dtype": "float64"}
)


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    """A random model with a random head; costs are given, so that nothing is measured."""
    directory = write_chat_model(tmp_path_factory.mktemp("models") / "tiny", head=True)
    loaded = eyas.load(directory, threads=1, **RUNTIME)
    loaded.loaded("eagle2")._costs = FAST
    return loaded


@pytest.fixture(scope="session")
def server(llm):
    """The server that most tests share."""
    running = Server(llm)
    yield running
    running.stop()


@pytest.fixture
def serve(llm):
    """Start servers with other settings."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            running = Server(llm, **settings)
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture
def client(server):
    """The official client."""
    with server.openai as opened:
        yield opened
