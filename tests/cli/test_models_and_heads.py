"""`eyas pull`, `models`, `models rm`, `heads` and `export-head`."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from eyas.models.gguf_file import GGUFFile
from tiny import write_eagle3, write_head
from tiny_chat import VOCAB
from tiny_gguf import write_gguf


@pytest.fixture
def stored(bare_model):
    """A model in the cache."""
    place = Path(os.environ["EYAS_CACHE"]) / "models" / "bytes"
    return shutil.copytree(bare_model, place)


def test_models_are_listed_used_and_removed(eyas, stored):
    assert eyas("models").out.split()[:2] == ["bytes", "llama"]
    [row] = eyas("models", "--json").document["models"]
    assert row["path"] == str(stored)
    assert (row["family"], row["bits"], row["head"]) == ("llama", 32.0, None)
    assert row["parameters"] > 10_000
    done = eyas("generate", "hi", "--model", "bytes", "--max-new-tokens", "3", "--threads", "1", "--json")
    assert done.document["config"]["model"] == str(stored)
    assert eyas("models", "rm", "bytes").code == 0
    assert not stored.exists()
    assert "no model 'bytes'" in eyas("models", "rm", "bytes").error
    done = eyas("models")
    assert (done.code, done.out) == (0, "")
    assert "eyas pull" in done.err


def test_a_gguf_file_is_used_pulled_and_listed(eyas, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    words = ("generate", "hi", "--max-new-tokens", "3", "--threads", "1", "--runtime", "torch", "--json")
    wanted = eyas(*words, "--model", path).document
    assert wanted["config"]["model"] == str(path)
    place = Path(eyas("pull", "--from", path).out.strip())
    assert place == Path(os.environ["EYAS_CACHE"]) / "models/tiny/tiny.gguf"
    found = eyas(*words, "--model", "tiny").document
    assert found["config"]["model"] == str(place)
    assert found["text"] == wanted["text"]
    [row] = eyas("models", "--json").document["models"]
    assert (row["name"], row["path"], row["family"]) == ("tiny", str(place), "llama")
    assert "exclude each other" in eyas("pull", "tiny", "--from", path).error
    place.write_bytes(b"GGUF")
    [row] = eyas("models", "--json").document["models"]
    assert "is truncated" in row["problem"]
    assert "broken" in eyas("models").out
    assert "is truncated" in eyas("generate", "hi", "--model", "tiny").error
    assert eyas("models", "rm", "tiny").code == 0


def test_heads_are_listed_with_what_fits_and_why_others_do_not(eyas, model, bare_model):
    words = ("heads", "--model", model)
    [first, *others] = eyas(*words, "--json").document["heads"]
    assert (first["kind"], first["path"]) == ("eagle", str(model / "head"))
    assert {"eagle", "eagle2"} <= set(first["methods"])
    assert "problem" not in first
    assert others, "those of the default model ship"
    assert all("for the target with fingerprint d98fee29ff1c3cd1, not" in row["problem"] for row in others)
    lines = eyas(*words).out.splitlines()
    assert lines[0].endswith("yes")
    assert all("no: for the target" in line for line in lines[1:])
    done = eyas("heads", "--model", bare_model)
    assert done.code == 0
    assert f"no head fits {bare_model}" in done.err
    assert "eyas train" in done.err
    assert "'gone/' is not a directory" in eyas("heads", "--model", "gone/").error


def test_the_catalogue_is_in_the_help(eyas):
    text = " ".join(eyas("pull", "--help").out.split())
    for name in ("SmolLM2-135M-Instruct (98 MB, Apache-2.0)", "Qwen2.5-Coder-1.5B-Instruct (1.1 GB,"):
        assert name in text


def test_pull_from_what_is_no_model(eyas, tmp_path):
    assert "does not exist" in eyas("pull", "--from", tmp_path / "absent.gguf").error
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    assert "a.gguf" in eyas("pull", "--from", tmp_path / "a.gguf").error
    (tmp_path / "a.whl").write_bytes(b"PK")
    assert "a.whl" in eyas("pull", "--from", tmp_path / "a.whl").error
    cache = Path(os.environ["EYAS_CACHE"])
    assert not [path for path in cache.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_pull_without_an_index(eyas, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "eyas pull --from FILE" in eyas("pull").error
    assert "eyas pull --from FILE" in eyas("generate", "hi").error


def test_a_head_is_exported_plain(eyas, tmp_path):
    head = write_head(
        tmp_path / "head", vocab_size=VOCAB, draft_ids=range(0, 64, 2), target_fingerprint="f00d"
    )
    out = tmp_path / "plain"
    assert eyas("export-head", "--plain", head, out).out == f"{out}\n"
    with safe_open(out / "model.safetensors", "np") as weights:
        assert "d2t" not in weights.keys()  # noqa: SIM118 - a file, no dict
    config = json.loads((out / "config.json").read_text())
    assert not {"draft_vocab_size", "target_fingerprint"} & set(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head", "plain"]
    assert "exists already" in eyas("export-head", "--plain", head, out).error


def test_a_head_is_exported_for_llama_cpp(eyas, tmp_path):
    head, out = write_eagle3(tmp_path / "head"), tmp_path / "head.gguf"
    target = write_gguf(tmp_path / "target.gguf")
    words = ("export-head", head, out, "--layout", "gguf")
    assert "name the target's GGUF file with --model" in eyas(*words).error
    assert eyas(*words, "--model", target).out == f"{out}\n"
    assert GGUFFile(out).fields["general.architecture"] == "eagle3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head", "head.gguf", "target.gguf"]


def test_what_cannot_be_exported(eyas, tmp_path):
    head = write_head(tmp_path / "head", vocab_size=VOCAB, layers=2)
    assert "has 2 layers" in eyas("export-head", "--plain", head, tmp_path / "plain").error
    assert "--layout, one of eagle" in eyas("export-head", head, tmp_path / "plain").error
    assert "config.json" in eyas("export-head", "--plain", tmp_path / "absent", tmp_path / "plain").error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head"]
