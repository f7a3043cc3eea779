"""What the documentation shows is run, not believed. The default model is a tiny random one here."""

import io
import json
import re
from pathlib import Path

import pytest

from eyas.cli import main
from eyas.drafters.registry import _METHODS, find_method
from eyas.engine.cycle import Engine
from eyas.engine.stopping import StoppingConfig
from eyas.models import default_model_dir
from eyas.runtimes import load_runtime
from fake import answer, make_request
from pages import ROOT, blocks, commands
from tiny import write_llama
from tiny_chat import write_chat_model

# Reads questions or prompts of the reader's, serves until it is stopped, or fetches.
NOT_HERE = {"bench", "eval", "export-head", "pull", "serve", "train"}
PAGES_WITH_EXAMPLES = [ROOT / "README.md", ROOT / "docs/start.md", ROOT / "docs/index.md"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache folder for all examples, so that costs are measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def default_model(cache, monkeypatch):
    """A tiny model with a draft head, in the place of the default model."""
    monkeypatch.setenv("EYAS_CACHE", str(cache))
    directory = default_model_dir()
    if not directory.exists():
        write_chat_model(directory, head=True, max_positions=1024)
    return directory


def examples():
    for page in PAGES_WITH_EXAMPLES:
        for words in commands(page):
            if words[0] not in NOT_HERE:
                yield pytest.param(words, id=f"{page.name}: {' '.join(words)}")


@pytest.mark.parametrize("words", examples())
def test_commands(default_model, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Explain tides.")))
    words = [str(default_model) if word.startswith("path/") else word for word in words]
    assert main(words) == 0
    assert capsys.readouterr().out


@pytest.mark.slow
def test_training(default_model, tmp_path, monkeypatch, capsys):
    """The commands of docs/training.md in their order, but for those of other methods and of GGUF files."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("prompts", 30), ("others", 3)):
        lines = [json.dumps({"prompt": f"{name}: name {number} rivers."}) for number in range(count)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    for words in commands(ROOT / "docs/training.md"):
        is_asked = words[0] == "generate" or words[1] in ("distil", "eagle", "acceptance")
        if is_asked and "model.gguf" not in words:
            assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/start.md"], ids=lambda page: page.name)
def test_python(default_model, page, capsys):
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})  # our own documentation
    assert capsys.readouterr().out


def _answer(engine, prompt):
    stopping = StoppingConfig(max_new_tokens=40, ignore_eos=True)
    return answer(engine, make_request(prompt, stopping=stopping, vocab_size=64))[0]


def test_the_documented_method_keeps_the_contract(tmp_path, monkeypatch):
    source = re.search(r"```python\n(.*?)```", (ROOT / "docs/add-a-method.md").read_text(), re.S)[1]
    assert len(source.splitlines()) < 50
    monkeypatch.setattr("eyas.drafters.registry._METHODS", dict(_METHODS))
    names = {"__name__": "echo"}
    exec(compile(source, "echo.py", "exec"), names)  # our own documentation
    runtime = load_runtime("torch", write_llama(tmp_path / "m"), name="tiny", dtype="float64")
    from eyas.drafters.autoregressive import Autoregressive

    drafted = _answer(Engine(runtime, names["Echo"]()), [5, 6, 7, 5])
    plain = _answer(Engine(runtime, Autoregressive()), [5, 6, 7, 5])
    assert drafted.generated == plain.generated
    assert drafted.stats().draft_tokens > 0
    assert find_method("echo").is_sizable  # so `--tree auto` works
