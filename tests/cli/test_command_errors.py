"""What a user can get wrong: one line with value, limit and remedy, exit code 2, nothing half-written."""

import json
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tiny import write_head
from tiny_chat import SHORT, VOCAB

OPTIONS = [
    pytest.param(["--temperature", "-0.1"], "temperature is -0.1", id="temperature-below-0"),
    pytest.param(["--temperature", "nan"], "temperature is nan", id="temperature-nan"),
    pytest.param(
        ["--top-p", "0"],
        "top_p is 0.0, but it must be a number above 0 and at most 1; 1 is off",
        id="top-p-0",
    ),
    pytest.param(["--top-p", "1.01"], "top_p is 1.01", id="top-p-above-1"),
    pytest.param(["--top-p", "nan"], "top_p is nan", id="top-p-nan"),
    pytest.param(["--min-p", "2"], "min_p is 2.0", id="min-p"),
    pytest.param(["--top-k", "-1"], "top_k is -1", id="top-k"),
    pytest.param(["--repetition-penalty", "0"], "repetition_penalty is 0.0", id="repetition"),
    pytest.param(["--presence-penalty", "3"], "presence_penalty is 3.0", id="presence"),
    pytest.param(["--logit-bias", "3=inf"], "logit_bias has 3=inf", id="bias-inf"),
    pytest.param(["--seed", "-1"], "seed is -1", id="seed"),
    pytest.param(["--max-new-tokens", "0"], "max_new_tokens is 0", id="no-tokens"),
    pytest.param(["--min-new-tokens", "9999"], "min_new_tokens is 9999", id="min-above-max"),
    pytest.param(
        ["--stop", ""], "stop is ('',), but a stop string must have at least one character", id="empty-stop"
    ),
    pytest.param(["--draft-tokens", "0"], "draft_tokens is 0", id="no-draft-tokens"),
    pytest.param(["--depth", "0"], "depth is 0", id="no-depth"),
    pytest.param(["--tree-top-k", "0"], "tree_top_k is 0", id="no-top-k"),
    pytest.param(
        ["--depth", "1000000"], "depth is 1000000, but it must be a whole number from 1 to 128", id="deep"
    ),
    pytest.param(["--tree-top-k", "1000000"], "tree_top_k is 1000000", id="wide"),
    pytest.param(
        ["--method", "sps", "--sps-length", "100000"],
        "sps_length is '100000', but it must be",
        id="sps-length",
    ),
    pytest.param(
        ["--tree", "auto", "--no-rerank"], "needs expand_by_value and rerank", id="auto-and-ablation"
    ),
    pytest.param(["--draft-tokens", "100", "--depth", "1"], "give only 10 candidates", id="too-many"),
    pytest.param(["--n", "0"], "n is 0", id="no-answers"),
    pytest.param(["--logprobs", "-1"], "logprobs is -1", id="logprobs"),
    pytest.param(["--raw", "--system", "x"], "exclude each other", id="raw-and-system"),
    pytest.param(["--method", "fastest"], "unknown method 'fastest'; the methods are", id="method"),
    pytest.param(["--no-such-flag"], "--no-such-flag (see `eyas generate --help`)", id="flag"),
]


@pytest.mark.parametrize(("argv", "message"), OPTIONS)
def test_options_are_refused_before_anything_is_loaded(eyas, argv, message):
    assert message in eyas("generate", "hello", "--model", "/nowhere", *argv).error


def test_no_command_and_unknown_commands(eyas):
    assert "COMMAND" in eyas().error
    assert "invalid choice: 'write'" in eyas("write").error


def test_empty_prompts(eyas, model, monkeypatch):
    for prompt in ("", "  \n"):
        assert "the prompt is empty" in eyas("generate", prompt, "--model", model).error
        assert "the prompt is empty" in eyas("tree", prompt, "--model", model).error


def test_a_prompt_that_is_no_utf8(eyas, model):
    assert "not UTF-8" in eyas("generate", "caf\udce9", "--model", model).error


def test_a_prompt_longer_than_the_context(eyas, model):
    error = eyas("generate", "a" * 300, "--model", model, *SHORT).error
    assert "the prompt has 302 tokens" in error
    assert "holds 256" in error


def test_an_answer_longer_than_the_context(eyas, model):
    error = eyas("generate", "hello", "--model", model, *SHORT[2:], "--max-new-tokens", "257").error
    assert "max_new_tokens is 257" in error
    assert "holds 256" in error


def test_a_bias_beyond_the_vocabulary(eyas, model):
    error = eyas("generate", "hello", "--model", model, *SHORT, "--logit-bias", f"{VOCAB}=1").error
    assert f"token id {VOCAB}" in error


def test_a_stop_token_beyond_the_vocabulary(eyas, model):
    done = eyas("generate", "a", "--model", model, *SHORT, "--stop-token-ids", "3", VOCAB)
    assert f"stop_token_ids has {VOCAB}, but the ids of" in done.error


def test_a_model_without_a_name(eyas):
    assert "leave --model out" in eyas("generate", "a", "--model", "").error


def test_unknown_runtime_dtype_and_threads(eyas, model):
    for flag, value in (("--runtime", "abacus"), ("--dtype", "float12"), ("--threads", "0")):
        assert value in eyas("generate", "hello", "--model", model, flag, value).error


def test_unknown_models(eyas, tmp_path):
    assert str(tmp_path / "absent") in eyas("generate", "hello", "--model", tmp_path / "absent").error


@pytest.fixture
def copy(bare_model, tmp_path):
    """A model that may be broken."""
    return shutil.copytree(bare_model, tmp_path / "copy")


def test_a_directory_without_config(eyas, copy):
    (copy / "config.json").unlink()
    assert "config.json" in eyas("generate", "hello", "--model", copy).error


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no-such-family"}'])
def test_a_broken_config(eyas, copy, content):
    (copy / "config.json").write_text(content)
    assert str(copy) in eyas("generate", "hello", "--model", copy).error


def weights(directory):
    return directory / "model.safetensors"


def test_truncated_and_corrupt_weights(eyas, copy):
    content = weights(copy).read_bytes()
    for broken in (content[:-100], content[:4], b"\xff" * 64, b""):
        weights(copy).write_bytes(broken)
        assert str(copy) in eyas("generate", "hello", "--model", copy, *SHORT).error


def test_weights_of_another_shape_or_missing(eyas, copy):
    tensors = load_file(weights(copy))
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(tensors | {name: np.zeros((3, 5), np.float32)}, weights(copy), {"format": "pt"})
    assert name.removesuffix(".weight") in eyas("generate", "hello", "--model", copy, *SHORT).error
    del tensors[name]
    save_file(tensors, weights(copy), {"format": "pt"})
    assert "q_proj" in eyas("generate", "hello", "--model", copy, *SHORT).error


def test_a_directory_without_tokenizer(eyas, copy):
    (copy / "tokenizer.json").unlink()
    assert "tokenizer" in eyas("generate", "hello", "--model", copy, *SHORT).error


def with_head(eyas, model, head):
    return eyas("generate", "hello", "--model", model, "--head", head, *SHORT).error


def test_no_head(eyas, bare_model, tmp_path):
    assert "no draft head" in eyas("generate", "hello", "--model", bare_model, "--method", "eagle2").error
    assert "no draft head" in eyas("tree", "hello", "--model", bare_model, *SHORT).error
    assert "config.json" in with_head(eyas, bare_model, tmp_path / "absent")


def test_a_head_for_another_target(eyas, bare_model, tmp_path):
    other = write_head(tmp_path / "other", vocab_size=VOCAB, target_fingerprint="0123456789abcdef")
    assert "fingerprint" in with_head(eyas, bare_model, other)


def test_a_head_of_another_size(eyas, bare_model, tmp_path):
    head = write_head(tmp_path / "head", vocab_size=VOCAB)
    config = json.loads((head / "config.json").read_text())
    (head / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert str(head) in with_head(eyas, bare_model, head)


@pytest.mark.parametrize("change", ["unknown", "missing", "misnamed", "shape"])
def test_keys_of_a_head_are_checked(eyas, bare_model, tmp_path, change):
    head = write_head(tmp_path / "head", vocab_size=VOCAB)
    tensors = load_file(weights(head))
    name = "layers.0.mlp.up_proj.weight"
    match change:
        case "unknown":
            tensors["extra.weight"] = np.zeros(3, np.float32)
        case "missing":
            del tensors[name]
        case "misnamed":
            tensors["layers.0.mlp.upproj.weight"] = tensors.pop(name)
        case "shape":
            tensors[name] = tensors[name][:, :-1].copy()
    save_file(tensors, weights(head))
    assert {"unknown": "extra.weight"}.get(change, "up") in with_head(eyas, bare_model, head)


def test_truncated_heads(eyas, bare_model, tmp_path):
    head = write_head(tmp_path / "head", vocab_size=VOCAB)
    weights(head).write_bytes(weights(head).read_bytes()[:-50])
    assert str(head) in with_head(eyas, bare_model, head)
    (head / "config.json").write_text("{")
    assert str(head) in with_head(eyas, bare_model, head)


def test_a_pickle_that_would_run_code(eyas, bare_model, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    head = write_head(tmp_path / "head", vocab_size=VOCAB)
    weights(head).unlink()
    (head / "pytorch_model.bin").write_bytes(pickle.dumps({"fc.weight": Evil()}))
    assert str(head) in with_head(eyas, bare_model, head)
    assert not (tmp_path / "ran").exists()


def test_question_files(eyas, model, tmp_path, monkeypatch):
    questions, out = tmp_path / "q.jsonl", tmp_path / "out"
    questions.write_text('{"question_id": 1, "turns": ["a"]}\n{"question_id": 2}\n')
    error = eyas("eval", "--questions", questions, "--model", model, "--out", out).error
    assert f"{questions}, line 2: turns is missing" in error
    monkeypatch.delenv("EYAS_EVAL_DATA", raising=False)
    assert "no question file 'absent'" in eyas("eval", "--questions", "absent", "--out", out).error
    assert "no question files" in eyas("eval", "--out", out).error
    monkeypatch.setenv("EYAS_EVAL_DATA", str(tmp_path / "empty"))
    assert "holds no .jsonl file" in eyas("eval", "--out", out).error
    assert not out.exists(), "nothing was written"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limit", "0"], "limit is 0"),
        (["--methods", "fastest"], "unknown method 'fastest'"),
        (["--methods", ","], "methods is empty"),
        (["--temperature", "0,-1"], "temperature is -1.0"),
        (["--temperature", "a"], "'a' is not a list of numbers"),
        (["--temperature", "0,0"], "has a value twice"),
        (["--seeds", "-1"], "seed is -1"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--draft-tokens", "0"], "draft_tokens is 0"),
    ],
)
def test_what_eval_refuses(eyas, tmp_path, argv, message):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question_id": 1, "turns": ["a"]}\n')
    assert message in eyas("eval", "--questions", questions, "--out", tmp_path / "out", *argv).error
    assert not (tmp_path / "out").exists()


def test_eval_without_a_head_writes_nothing(eyas, bare_model, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question_id": 1, "turns": ["a"]}\n')
    error = eyas("eval", "--questions", questions, "--model", bare_model, "--out", tmp_path / "out").error
    assert "no draft head" in error
    assert not (tmp_path / "out").exists()


def test_an_svg_that_cannot_be_written(eyas, model, tmp_path):
    place = tmp_path / "absent" / "tree.svg"
    error = eyas("tree", "hello", "--model", model, "--method", "eagle2", *SHORT, "--svg", place).error
    assert str(place) in error
