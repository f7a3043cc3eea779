"""The examples of README and docs/serving.md run as they are written, against the tiny model."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def examples(page, language):
    text = (ROOT / page).read_text()
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.S) if ":8000" in block]


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_curl(server, page):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    found = examples(page, "sh")
    assert found
    for block in found:
        command = block.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert '"choices"' in done.stdout
        assert '"error"' not in done.stdout


def test_the_openai_client(server, capsys):
    [block] = examples("docs/serving.md", "python")
    code = block.replace("http://127.0.0.1:8000", server.url).replace('"default"', '"tiny"')
    exec(compile(code, "serving.md", "exec"), {})  # our own documentation
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("library", ["openai", "ollama"])
def test_lines_to_paste(server, capsys, library):
    """Those of the libraries that are installed here."""
    blocks = [block for block in examples("docs/clients.md", "python") if "instructor" not in block]
    [block] = [block for block in blocks if re.match(rf"(from|import) {library}\b", block)]
    exec(compile(block.replace("http://127.0.0.1:8000", server.url), "clients.md", "exec"), namespace := {})
    namespace["client"].__exit__(None, None, None)
    assert capsys.readouterr().out.strip()
