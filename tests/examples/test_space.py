"""The hosted demo starts, and answers through Gradio's own client."""

import os
import socket
import subprocess
import sys
import time
from ast import literal_eval
from pathlib import Path

import pytest

import eyas
from tiny_chat import write_chat_model

APP = Path(__file__).parents[2] / "examples/space/app.py"
MINUTE = 60

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason='gradio is not installed: pip install ".[demo]"')


@pytest.fixture
def model(tmp_path):
    return write_chat_model(tmp_path / "model")


@pytest.fixture
def url(model, tmp_path):
    """A running demo of a tiny model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "EYAS_MODEL": str(model),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    with subprocess.Popen([sys.executable, APP], env=os.environ | settings, cwd=tmp_path) as running:
        deadline = time.monotonic() + MINUTE
        while True:
            assert running.poll() is None, "the demo ended"
            assert time.monotonic() < deadline, "the demo does not listen"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        running.terminate()


def test_the_demo_answers(model, url):
    asked = (
        "import sys, gradio_client;"
        "client = gradio_client.Client(sys.argv[1], verbose=False);"
        "print(ascii(client.predict('Hi', 0, 0, api_name='/answer')))"
    )
    # On a process of its own: its client leaves warnings that are not ours.
    command = [sys.executable, "-c", asked, url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=MINUTE)
    assert result.returncode == 0, result.stderr
    message = [{"role": "user", "content": "Hi"}]
    expected = eyas.load(model).generate(message, temperature=0, seed=0, max_new_tokens=256).text
    assert literal_eval(result.stdout) == expected
