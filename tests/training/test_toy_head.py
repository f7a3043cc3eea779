"""A kind of heads that only tests bring: the toy beside this file, and the page that tells how to add one.

Each is installed as a package with an entry point, then trained, drafted with and measured like any other.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import runner
from eyas.drafters import heads, registry
from pages import ROOT, blocks
from tiny import VOCAB
from tiny_chat import write_chat_model

TOY = Path(__file__).with_name("toy_head.py").read_text()
[PAGE] = blocks(ROOT / "docs/add-a-head.md", "python")
QUICK = (
    *("--epochs", "2", "--batch-rows", "512", "--held-out-every", "6", "--draft-vocab", "64"),
    *("--dtype", "float32", "--threads", "1"),
)


@pytest.fixture(params=[("toy", TOY), ("linear", PAGE)], ids=lambda part: part[0])
def kind(request, tmp_path, monkeypatch):
    """A package of one module with an entry point; the name of its kind and of its method."""
    name, source = request.param
    package = f"{name}_package"
    (tmp_path / f"{package}.py").write_text(source)
    (tmp_path / f"{package}-1.dist-info").mkdir()
    (tmp_path / f"{package}-1.dist-info" / "entry_points.txt").write_text(
        f"[eyas.heads]\n{name} = {package}\n"
    )
    registry.methods()  # those of eyas register once
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(heads, "_KINDS", dict(heads._KINDS))
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    registry._discover.cache_clear()
    importlib.invalidate_caches()
    yield name
    registry._discover.cache_clear()
    sys.modules.pop(package, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("models") / "bare")


@pytest.fixture
def eyas(capsys):
    return runner(capsys)


def write_answers(file, model):
    """Answers as distil writes them, of random tokens."""
    from eyas.models import target_fingerprint

    rng = np.random.default_rng(0)
    rows = [
        {
            "id": str(number),
            "prompt_ids": rng.integers(3, VOCAB, 4).tolist(),
            "response_ids": rng.integers(3, VOCAB, 20).tolist(),
            "temperature": float(number % 2),
            "target": target_fingerprint(model),
        }
        for number in range(24)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_kind_of_one_file_is_trained_drafted_with_and_measured(eyas, model, kind, tmp_path):
    assert f"train a {kind} head on answers" in eyas("train", "--help").out
    answers = write_answers(tmp_path / "answers.jsonl", model)
    words = ("--answers", answers, "--work", tmp_path / "run", "--model", model)
    done = eyas("train", kind, *words, *QUICK, "--precision", "int8", "--json")
    assert done.code == 0, done.err
    head = Path(done.document["head"])
    assert head.name == kind
    document = json.loads((head / "config.json").read_text())
    assert document["head_kind"] == kind
    assert (
        document["provenance"]["simulated_acceptance_length"] == done.document["simulated_acceptance_length"]
    )

    plain = ("generate", "hi", "--model", model, "--max-new-tokens", "24", "--threads", "1", "--json")
    for temperature in ("0", "1"):
        drawn = ("--temperature", temperature, "--seed", "3")
        wanted = eyas(*plain, *drawn, "--method", "autoregressive").document
        found = eyas(*plain, *drawn, "--method", kind).document
        assert found["token_ids"] == wanted["token_ids"]
        assert found["config"]["head"] == str(head)
        assert found["config"]["lossless"] == "ids"
        assert found["stats"]["draft_tokens"] > 0

    questions = tmp_path / "tides.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "category": "qa", "turns": ["question"]}) + "\n")
    out = tmp_path / "out"
    run = (
        "bench",
        "run",
        "--questions",
        questions,
        "--model",
        model,
        "--out",
        out,
        "--methods",
        f"{kind},pld",
    )
    assert eyas(*run, "--dtype", "float32", "--threads", "1", "--max-new-tokens", "16").code == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert {row["contender"].split()[0] for row in rows} == {"autoregressive", kind, "pld"}


def test_a_file_of_the_kind_is_read_strictly(eyas, model, kind, tmp_path):
    head = tmp_path / "head"
    head.mkdir()
    document = {"head_kind": kind, "hidden_size": 32, "toy_width": 8}
    (head / "config.json").write_text(json.dumps(document))
    words = ("generate", "hi", "--model", model, "--threads", "1", "--head", head)
    assert "has neither model.safetensors" in eyas(*words, "--method", kind).error
    (head / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    assert "unknown tensor" in eyas(*words, "--method", kind).error
    assert f"holds a head of the kind {kind!r}" in eyas(*words, "--method", "medusa").error
