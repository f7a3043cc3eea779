"""Methods with networks of their own, from the command line: options, whole models, what is refused."""

import json

import pytest

from tiny import write_eagle3
from tiny_chat import VOCAB

WORDS = ("--max-new-tokens", "12", "--threads", "1", "--json")


@pytest.mark.parametrize("sampled", [(), ("--temperature", "1", "--seed", "3")], ids=["greedy", "sampled"])
def test_any_local_model_of_the_same_vocabulary_drafts(eyas, bare_model, sampled):
    words = ("generate", "hi", "--model", bare_model, *WORDS, *sampled)
    plain = eyas(*words, "--method", "autoregressive").document
    for options in ((), ("--sps-length", "3"), ("--sps-length", "confidence")):
        drafted = eyas(*words, "--method", "sps", "--head", bare_model, *options).document
        assert drafted["token_ids"] == plain["token_ids"]
        assert drafted["config"]["lossless"] == "ids"
        assert drafted["stats"]["acceptance_length"] >= 2, "the target is its own draft here"


def test_rules_that_change_the_ids_say_so(eyas, bare_model):
    words = ("generate", "hi", "--model", bare_model, *WORDS, "--temperature", "1")
    ratio = eyas(*words, "--method", "sps", "--head", bare_model, "--sps-ratio")
    assert ratio.document["config"]["lossless"] == "distribution"
    assert (
        "lossy_typical is not an option of sps"
        in eyas(*words, "--method", "sps", "--head", bare_model, "--lossy-typical").error
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "medusa"], "no draft head for this target in"),
        (["--method", "sps"], "no draft head for this target in"),
        (["--method", "sps", "--sps-length", "0"], "sps_length is '0'"),
        (["--method", "medusa", "--medusa-draft-tokens", "0"], "medusa_draft_tokens is 0"),
    ],
    ids=str,
)
def test_what_is_missing_or_impossible_is_one_line(eyas, bare_model, argv, message):
    assert message in eyas("generate", "hi", "--model", bare_model, "--threads", "1", *argv).error


def test_a_named_eagle3_head_drafts_without_a_method(eyas, bare_model, tmp_path):
    """In eyas's own layout and in the authors'; the ids are plain decoding's."""
    write_eagle3(tmp_path / "own", vocab_size=VOCAB, draft_ids=range(0, VOCAB, 3))
    assert eyas("export-head", tmp_path / "own", tmp_path / "theirs", "--layout", "eagle3").out
    words = ("generate", "hi", "--model", bare_model, *WORDS)
    plain = eyas(*words, "--method", "autoregressive").document
    for head in ("own", "theirs"):
        drafted = eyas(*words, "--head", tmp_path / head, "--tree", "fixed").document
        assert drafted["config"]["method"] == "eagle3"
        assert drafted["config"]["draft_tokens"] == 59
        assert drafted["token_ids"] == plain["token_ids"]
    message = "holds a head of the kind 'eagle3', but one of 'eagle' is needed"
    assert message in eyas(*words, "--head", tmp_path / "own", "--method", "eagle2").error


def test_networks_of_another_kind_are_refused(eyas, bare_model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"medusa_num_heads": 1, "medusa_num_layers": 1}))
    words = ("generate", "hi", "--model", bare_model, "--threads", "1", "--head", tmp_path)
    assert "has neither model.safetensors" in eyas(*words, "--method", "medusa").error
    (tmp_path / "model.safetensors").write_bytes((bare_model / "model.safetensors").read_bytes())
    assert "lacks 0.0.linear.bias" in eyas(*words, "--method", "medusa").error
    assert (
        "holds a head of the kind 'medusa', but one of 'hydra' is needed"
        in eyas(*words, "--method", "hydra").error
    )
