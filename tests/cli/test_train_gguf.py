"""`eyas train` on GGUF files: from prompts to a head that drafts, without the target on torch."""

import json

import gguf
import numpy as np
import pytest

from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.heads import read_head
from eyas.training.acceptance_map import MODES
from tiny_gguf import write_gguf

DISTIL = ("--max-new-tokens", "24", "--batch-size", "8", "--threads", "1")
RUN = (
    *("--epochs", "2", "--batch-rows", "512", "--held-out-every", "5", "--learning-rate", "1e-3"),
    *("--draft-vocab", "128", "--dtype", "float32", "--threads", "1"),
)
HEAD = (*RUN, "--closed-form-start")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return write_gguf(folder / "tiny.gguf", kind=gguf.GGMLQuantizationType.Q4_0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, model):
    """Answers of prompts of three kinds with their features."""
    from eyas.cli import main

    folder = tmp_path_factory.mktemp("kept")
    rows = [{"prompt": f"tell {n}"} for n in range(12)]
    rows += [{"instruction": "shout", "text": f"hello {n}"} for n in range(8)]
    rows += [{"messages": [{"role": "user", "content": f"and {n}"}]} for n in range(4)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("train", "distil", "--prompts", folder / "prompts.jsonl", "--out", folder / "a.jsonl", *DISTIL)
    options = ("--model", model, "--keep-features", folder / "features", "--taps", "1")
    assert main([str(word) for word in (*words, *options)]) == 0
    return folder


def distil(kept, model, out):
    return ("train", "distil", "--prompts", kept / "prompts.jsonl", "--model", model, "--out", out)


def train(kind, kept, model, folder, *more):
    words = ("train", kind, "--answers", kept / "a.jsonl", "--work", folder / "run", "--out", folder / "head")
    return (*words, "--model", model, "--json", *more)


def test_a_head_comes_from_kept_features_alone_and_drafts(eyas, kept, model, tmp_path):
    features = ("--features", kept / "features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "eyas.runtimes.load_runtime", lambda *args, **settings: pytest.fail("a target was loaded")
        )
        done = eyas(*train("eagle", kept, model, tmp_path, *features, *HEAD))
    assert done.code == 0, done.err
    assert "computed" not in done.err
    measured = done.document["simulated_acceptance_length"]
    assert measured["T=0, 60 rows"]["acceptance_length"] >= 1
    words = ("generate", "tell 3", "--model", model, "--max-new-tokens", "24", "--threads", "1", "--json")
    drafted = eyas(*words, "--head", tmp_path / "head").document
    plain = eyas(*words, "--method", "autoregressive").document
    assert drafted["config"]["method"] == "eagle2"
    assert drafted["token_ids"] == plain["token_ids"]


def test_an_eagle3_head_comes_from_kept_taps(eyas, kept, model, tmp_path):
    """Those that were kept are enough; the head drafts on the file that it was trained on."""
    more = ("--taps", "1", "--features", kept / "features", *RUN)
    done = eyas(*train("eagle3", kept, model, tmp_path, *more))
    assert done.code == 0, done.err
    words = ("generate", "tell 3", "--model", model, "--max-new-tokens", "24", "--threads", "1", "--json")
    drafted = eyas(*words, "--head", tmp_path / "head", "--method", "eagle3").document
    assert drafted["stats"]["draft_tokens"] > 0
    plain = eyas(*words, "--method", "autoregressive").document["token_ids"]
    assert drafted["token_ids"] == plain
    # calibrated, it is the method of its own accord
    watch = ("--prompts", kept / "prompts.jsonl", "--limit", "4", "--max-new-tokens", "16", "--threads", "1")
    done = eyas("train", "acceptance", "--head", tmp_path / "head", "--model", model, *watch)
    assert done.code == 0, done.err
    assert set(json.loads((tmp_path / "head" / "config.json").read_text())["acceptance_map"]) == set(MODES)
    drafted = eyas(*words, "--head", tmp_path / "head").document
    assert (drafted["config"]["method"], drafted["token_ids"]) == ("eagle3", plain)


@pytest.mark.slow
def test_missing_features_are_computed_by_the_engine_that_answered(eyas, kept, model, tmp_path, caplog):
    """The head is the same as from kept ones, and so is one that begins with a part of them."""
    heads, folders = {}, {"kept": kept / "features", "none": tmp_path / "none", "some": tmp_path / "some"}
    folders["some"].mkdir()
    words = distil(kept, model, tmp_path / "some.jsonl")
    eyas(*words, *DISTIL, "--limit", "8", "--keep-features", folders["some"])
    for name, features in folders.items():
        caplog.clear()
        done = eyas(*train("eagle", kept, model, tmp_path / name, "--features", features, *HEAD))
        assert done.code == 0, done.err
        heads[name] = read_head(EAGLE, tmp_path / name / "head").weights
        missing = {"kept": 0, "none": 24, "some": 16}[name]
        said = f"the features of {missing} of 24 answers (layers final), which {features} lacks, are computed"
        assert (said in caplog.text) == (missing > 0)
    for weights in heads.values():
        assert weights.keys() == heads["kept"].keys()
        for name, weight in weights.items():
            np.testing.assert_array_equal(heads["kept"][name], weight)


@pytest.mark.parametrize("kind", ["medusa", "hydra", "draft-lm"])
def test_other_kinds_of_heads_train_on_gguf_files(eyas, kept, model, tmp_path, kind):
    more = ("--epochs", "1", "--batch-rows", "512", "--held-out-every", "12", "--draft-vocab", "64")
    features = ("--features", kept / "features", "--dtype", "float32", "--threads", "1")
    done = eyas(*train(kind, kept, model, tmp_path, *more, *features))
    assert done.code == 0, done.err


def test_features_that_nothing_can_compute_are_asked_for(eyas, kept, model, tmp_path, monkeypatch):
    from eyas.runtimes import native

    monkeypatch.setattr(native, "is_built", lambda: False)
    error = eyas(*train("eagle", kept, model, tmp_path, *HEAD)).error
    assert "the features of 24 of 24 answers (layers final) are missing" in error
    assert "eyas train distil --keep-features" in error
    done = eyas(*train("eagle", kept, model, tmp_path, "--features", kept / "features", *HEAD))
    assert done.code == 0, done.err


def test_features_of_another_target_are_refused(eyas, kept, tmp_path):
    other = write_gguf(tmp_path / "other.gguf", kind=gguf.GGMLQuantizationType.Q4_0, seed=1)
    rows = [json.loads(line) for line in (kept / "a.jsonl").read_text().splitlines()]
    for row in rows:
        row["target"] = None
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = train("eagle", tmp_path, other, tmp_path, "--features", kept / "features", *HEAD)
    assert "holds features of the target with fingerprint" in eyas(*words).error
    assert not (tmp_path / "run").exists()


def distil_words(kept, model, folder):
    return ("train", "distil", "--prompts", kept / "prompts.jsonl", "--out", folder / "a", "--model", model)


def test_what_keeping_features_refuses(eyas, kept, model, tmp_path):
    words = distil_words(kept, model, tmp_path)
    assert "give --keep-features" in eyas(*words, "--taps", "1").error
    keep = ("--keep-features", tmp_path / "f")
    assert "taps are 1,7" in eyas(*words, *keep, "--taps", "1,7").error
    assert "feature_gb is 0" in eyas(*words, *keep, "--feature-gb", "0").error
    assert "invalid choice: 'int4'" in eyas(*words, *keep, "--feature-dtype", "int4").error
    assert not (tmp_path / "a").exists()


def test_a_full_folder_is_said_in_one_line(eyas, kept, model, tmp_path):
    words = distil_words(kept, model, tmp_path)
    done = eyas(*words, *DISTIL, "--keep-features", tmp_path / "f", "--feature-gb", "2e-5")
    first, second = done.err.splitlines()
    assert first.startswith("eyas: answers without features: ")
    assert first.endswith("f is full; raise --feature-gb")
    assert second == f"eyas: 24 new answers in {tmp_path / 'a'}"
