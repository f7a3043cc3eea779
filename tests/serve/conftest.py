"""A tiny chat model behind a real server on a free port of this machine, and clients for it."""

import contextlib

import pytest
from serving import Server, tiny_model


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    """A random model with a random head."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


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
