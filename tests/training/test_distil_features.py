"""Features that distilling keeps: those of a later pass, together with their answers, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from eyas.engine.interfaces import FINAL
from eyas.engine.sequence import sequence_features
from eyas.errors import ConfigError, DataError
from eyas.runtimes import load_runtime
from eyas.runtimes.torch import load_torch_draft_runtime
from eyas.training.answer_file import AnswerFile
from eyas.training.config import DistilConfig
from eyas.training.data import read_samples
from eyas.training.distil import distil
from eyas.training.feature_store import FeatureOptions, FeatureStore
from eyas.training.features import FeatureSource
from eyas.training.prompts import Prompt, Question
from eyas.training.taps import parse_taps
from tiny import write_llama
from tiny_gguf import write_gguf

TAPS = (0, 1, FINAL)
PROMPTS = [Prompt(f"{n}", Question(f"5 6 7 8 {9 + n} {40 - n}")) for n in range(9)]
KINDS = {
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
}


class Words:
    """A tokenizer whose words are ids."""

    stop_token_ids = (2,)

    def apply_chat_template(self, messages):
        return [int(word) for word in messages[0]["content"].split()]


def store(runtime, folder, shard_bytes=6000, **options):
    target = runtime.target
    return FeatureStore(
        folder, target.fingerprint, target.hidden_size, FeatureOptions(**options), shard_bytes
    )


def run(runtime, folder, prompts=PROMPTS, taps=TAPS, **options):
    config = DistilConfig(max_new_tokens=12, batch_size=4)
    kept = store(runtime, folder / "kept", **options)
    return distil(runtime, Words(), prompts, folder / "a.jsonl", config, store=kept, taps=taps)


def check_kept(runtime, folder, taps=TAPS, count=None, dtype="bfloat16"):
    """Every answer has the features of a pass over it, rounded, and no pass is needed to read them."""
    samples, kept = read_samples([folder / "a.jsonl"]), store(runtime, folder / "kept", feature_dtype=dtype)
    assert len({sample.id for sample in samples}) == len(samples) == (count or len(PROMPTS))
    for sample in samples:
        expected = np.asarray(sequence_features(runtime, sample.token_ids[:-1], taps))
        found = kept.read(sample.digest, len(sample) - 1, taps)
        np.testing.assert_array_equal(found, kept.rounded(expected))


@pytest.fixture(scope="module", params=[*KINDS, "q4_k_m"])
def native(request, tmp_path_factory):
    """Targets in block formats; those of Q4_K need rows of 256."""
    folder = tmp_path_factory.mktemp("native")
    if request.param in KINDS:
        model = write_gguf(folder / "m.gguf", kind=KINDS[request.param])
        return load_runtime("native", model, name="tiny", threads=1)
    sizes = {"hidden_size": 256, "intermediate_size": 256}
    return load_runtime("native", write_llama(folder, **sizes), name="tiny", dtype="q4_k_m", threads=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_kept_features_are_bit_for_bit_those_of_a_later_pass(native, tmp_path, dtype):
    """Prompts come from the prefill and from other answers' caches, answers from batches (law L8)."""
    made = run(native, tmp_path, feature_dtype=dtype)
    assert (made.answers, made.without_features, made.read_again) == (len(PROMPTS), 0, 0)
    assert len(list((tmp_path / "kept").iterdir())) > 1
    check_kept(native, tmp_path, dtype=dtype)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("target") / "m.gguf", kind=KINDS["Q8_0"])


@pytest.fixture(scope="module")
def target(model):
    return load_runtime("native", model, name="tiny", threads=1)


class KilledError(BaseException):
    """A kill: nothing in the program runs after it."""


def killed_at(monkeypatch, event):
    """Kill before or after the write of this number; returns the list of what was written."""
    seen = []

    def watched(kind, name):
        original = getattr(kind, name)

        def write(self, *args):
            for when in ("before", "after"):
                if len(seen) == event:
                    raise KilledError
                seen.append((name, when))
                if when == "before":
                    original(self, *args)

        monkeypatch.setattr(kind, name, write)

    watched(FeatureStore, "_write")
    watched(AnswerFile, "_write")
    close = AnswerFile.close
    monkeypatch.setattr(AnswerFile, "close", lambda self: None if len(seen) == event else close(self))
    return seen


def test_a_kill_at_any_write_loses_nothing_and_repeats_nothing(target, tmp_path, monkeypatch):
    run(target, tmp_path / "whole")
    whole = sorted((tmp_path / "whole" / "a.jsonl").read_text().splitlines())
    event = 0
    while True:
        folder = tmp_path / str(event)
        with monkeypatch.context() as patch:
            seen = killed_at(patch, event)
            try:
                run(target, folder)
            except KilledError:
                assert len(seen) == event
            else:
                break
        known = len((folder / "a.jsonl").read_text().splitlines())
        made = run(target, folder)
        assert (made.answers, made.read_again) == (len(PROMPTS) - known, 0)
        assert sorted((folder / "a.jsonl").read_text().splitlines()) == whole
        check_kept(target, folder)
        event += 1
    assert event > 12
    assert {name for name, _ in seen} == {"_write"}


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_distil_features as tests
from eyas.runtimes import load_runtime
target = load_runtime("native", Path(sys.argv[2]), name="tiny", threads=1)
prompts = [tests.Prompt(f"{n}", tests.Question(f"5 6 {7 + n % 90} {3 + n // 90}")) for n in range(2000)]
print("ready", flush=True)
tests.run(target, Path(sys.argv[3]), prompts)
"""


@pytest.mark.slow
def test_a_real_kill_leaves_whole_answers_with_their_features(tmp_path):
    model = write_gguf(tmp_path / "m.gguf", kind=KINDS["Q8_0"])
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), str(here.parents[1] / "src")])
    out = tmp_path / "run" / "a.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(here), str(model), str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": paths},
    )
    try:
        deadline = time.monotonic() + 120
        while not out.is_file() or out.stat().st_size < 4000:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    target = load_runtime("native", model, name="tiny", threads=1)
    lines = out.read_bytes()
    out.write_bytes(lines[: lines.rfind(b"\n") + 1])  # the next run drops a line that was cut
    check_kept(target, tmp_path / "run", count=out.read_text().count("\n"))


def test_features_that_are_lost_are_read_again_without_new_answers(target, tmp_path):
    run(target, tmp_path)
    answers = (tmp_path / "a.jsonl").read_text()
    first, *_ = shards = sorted((tmp_path / "kept").iterdir())
    first.write_bytes(first.read_bytes()[:-7])
    made = run(target, tmp_path)
    assert made.answers == 0
    assert 0 < made.read_again < len(PROMPTS)
    assert (tmp_path / "a.jsonl").read_text() == answers
    assert first.read_bytes() if first.exists() else len(shards) > 1
    check_kept(target, tmp_path)
    assert run(target, tmp_path).read_again == 0


def test_answers_of_before_get_features(target, tmp_path):
    """Those of a run that kept none, and other hidden states of those that did."""
    distil(target, Words(), PROMPTS[:4], tmp_path / "a.jsonl", DistilConfig(max_new_tokens=12))
    made = run(target, tmp_path, taps=(FINAL,))
    assert (made.answers, made.read_again) == (len(PROMPTS) - 4, 4)
    check_kept(target, tmp_path, taps=(FINAL,))
    made = run(target, tmp_path, taps=(1, FINAL))
    assert (made.answers, made.read_again) == (0, len(PROMPTS))
    check_kept(target, tmp_path, taps=(1, FINAL))


def test_where_the_folder_is_full_answers_go_on_without_features(target, tmp_path):
    made = run(target, tmp_path, feature_gb=12e-6, shard_bytes=3000)
    assert made.answers == len(PROMPTS)
    assert 0 < made.without_features < len(PROMPTS)
    assert sum(path.stat().st_size for path in (tmp_path / "kept").iterdir()) <= 12_000
    again = run(target, tmp_path, feature_gb=12e-6)
    assert again.answers == again.read_again == 0
    assert again.without_features == made.without_features
    more = run(target, tmp_path)
    assert (more.read_again, more.without_features) == (made.without_features, 0)
    check_kept(target, tmp_path)


def test_training_reads_the_states_that_its_head_asks_for(model, target, tmp_path):
    """Of those that were kept, without the target; others cannot be had without it."""
    run(target, tmp_path)
    runtime, kept = load_torch_draft_runtime(model, dtype="float32"), store(target, tmp_path / "kept")
    samples = read_samples([tmp_path / "a.jsonl"])
    source = FeatureSource(runtime, 64, kept, (1, FINAL))
    source.check(samples)
    for sample, rows in zip(samples, source.get(samples), strict=True):
        states = np.asarray(sequence_features(target, sample.token_ids[:-1], (1, FINAL)))
        np.testing.assert_array_equal(rows.numpy(), kept.rounded(states))
    other = FeatureSource(runtime, 64, kept, (2, FINAL))
    with pytest.raises(DataError, match=r"of 9 answers \(layers 2, final\) are missing"):
        other.check(samples)
    whole = load_torch_draft_runtime(model, dtype="float32", whole=lambda: target)
    computed = FeatureSource(whole, 64, None, (0, FINAL)).get(samples[:2])
    states = np.asarray(sequence_features(target, samples[1].token_ids[:-1], (0, FINAL)))
    np.testing.assert_array_equal(computed[1].numpy(), states)


def test_a_target_without_layers_has_the_embedding_and_the_lm_head_of_the_whole_one(model, target):
    part, whole = (
        load_torch_draft_runtime(model, dtype="float32"),
        load_runtime("torch", model, name="tiny", dtype="float32"),
    )
    ids = np.array([3, 50, 200])
    np.testing.assert_array_equal(part.embed(ids).numpy(), whole.embed(ids).numpy())
    for columns in (None, ids):
        ours, theirs = (runtime.lm_head(columns).weight.numpy() for runtime in (part, whole))
        np.testing.assert_array_equal(ours, theirs)
    assert part.target.fingerprint == whole.target.fingerprint == target.target.fingerprint
    assert part.target.context_limit == whole.target.context_limit
    assert part.layer_weights(1).keys() == whole.layer_weights(1).keys()
    for name, weight in part.layer_weights(1).items():
        np.testing.assert_array_equal(weight.numpy(), whole.layer_weights(1)[name].numpy())
    np.testing.assert_array_equal(part.norm_weight.numpy(), whole.norm_weight.numpy())


def test_taps_are_named_or_numbered(target, tmp_path):
    class Deep:
        name, num_layers = "deep", 28

    assert parse_taps(None, Deep) == (FINAL,)
    assert parse_taps("2,14", Deep) == (2, 14, FINAL)
    assert parse_taps("eagle3", Deep) == (2, 14, 25, FINAL)
    for text in ("2,28", "-1", "2,2"):
        with pytest.raises(ConfigError, match=r"different numbers in 0\.\.27"):
            parse_taps(text, Deep)
    for text in ("", "a", "2;3"):
        with pytest.raises(ConfigError, match="give numbers of layers"):
            parse_taps(text, Deep)
    with pytest.raises(ConfigError, match="tiny has 2 layers"):
        parse_taps("eagle3", target.target)
