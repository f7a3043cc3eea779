"""Speculative sampling: draft lengths, caches that keep what came true, and models that are refused."""

from functools import partial

import numpy as np
import pytest
from drafting import cycles, edit_network, engine_of, request

from eyas.drafters.heads import read_head
from eyas.drafters.sps import DRAFT_LM, SpsOptions
from eyas.engine.stopping import StoppingConfig
from eyas.errors import CheckpointError, ConfigError
from eyas.runtimes import load_runtime
from fake import make_request
from tiny import HIDDEN, VOCAB, write_draft_lm, write_llama


@pytest.fixture
def load(runtime):
    """Loads a whole model as the target is loaded."""
    precise = {"draft_dtype": "float32"} if runtime.target.runtime == "native" else {}
    return partial(
        load_runtime, runtime.target.runtime, name="draft", dtype=runtime.target.dtype, threads=1, **precise
    )


@pytest.fixture
def perfect(runtime, target_dir, load):
    """The target drafts for itself."""
    return engine_of("sps", runtime, target_dir, load)


def lengths(engine, wanted):
    return [run.last_cycle.tree.num_draft_tokens for run in cycles(engine, wanted)]


@pytest.mark.parametrize("given", [{}, {"sps_ratio": True}], ids=["coupled", "ratio"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_target_as_its_own_draft_is_always_accepted(perfect, temperature, given):
    """Tokens, positions and noise of the draft are the target's; and success makes drafts longer."""
    wanted = request("sps", [5, 9, 11], temperature, 40, given, top_k=20, repetition_penalty=1.1)
    if not temperature:
        wanted = request("sps", [5, 9, 11], new_tokens=40, given=given)
    drafted = []
    for run in cycles(perfect, wanted):
        drafted.append(run.last_cycle.tree.num_draft_tokens)
        assert run.last_cycle.num_accepted == drafted[-1]
    assert drafted[:4] == [5, 7, 9, 11]


def test_failure_makes_drafts_shorter(runtime, tmp_path):
    engine = engine_of("sps", runtime, write_draft_lm(tmp_path, draft_ids=[3, 4]))
    drafted, before = [], 5
    for run in cycles(engine, request("sps", [5, 9, 11], new_tokens=40)):
        drafted.append(run.last_cycle.tree.num_draft_tokens)
        assert drafted[-1] == before
        accepted = run.last_cycle.num_accepted
        before = before + 2 if accepted == drafted[-1] else max(1, before - 1)
    assert drafted[:2] == [5, 4]
    assert 1 in drafted


def test_a_number_is_kept_and_an_unsure_token_is_the_last(runtime, tmp_path, perfect):
    engine = engine_of("sps", runtime, write_draft_lm(tmp_path))
    assert set(lengths(engine, request("sps", [5, 9], given={"sps_length": "3"}))) == {3}
    assert set(lengths(engine, request("sps", [5, 9], given={"sps_length": 2}))) == {2}
    seen = set()
    for drafting in (engine, perfect):
        for temperature in (0.0, 1.0):
            wanted = request("sps", [5, 9], temperature, 30, {"sps_length": "confidence"})
            for run in cycles(drafting, wanted):
                tree = run.last_cycle.tree
                own = np.exp(np.diff(tree.log_values))
                assert (own[:-1] >= 0.4).all()
                assert own[-1] < 0.4 or tree.depth == 20
                seen.add(tree.depth)
    assert len(seen) > 2


def test_the_context_ends_a_draft_too(runtime, tmp_path, load):
    """The draft model's positions, and the target's."""
    short = engine_of("sps", runtime, write_llama(tmp_path, max_positions=20), load)
    drafted = lengths(short, request("sps", [5, 9, 11], new_tokens=40, given={"sps_length": 6}))
    assert drafted[0] == 6
    assert drafted[-1] == 0
    own = engine_of("sps", runtime, write_draft_lm(tmp_path / "own"))
    *_, run = cycles(own, request("sps", [*range(3, 63), 5, 9], new_tokens=34, given={"sps_length": 20}))
    assert len(run.token_ids) == 96


def test_nothing_is_drafted_below_a_stop_token(perfect):
    plain = request("sps", [5, 9, 11], new_tokens=30)
    *_, run = cycles(perfect, plain)
    stop = run.generated[6]
    wanted = make_request(
        [5, 9, 11], stopping=StoppingConfig(max_new_tokens=30, ignore_eos=True, stop_token_ids=(stop,)),
        options=SpsOptions(sps_length=20), vocab_size=VOCAB,
    )  # fmt: skip
    *_, run = cycles(perfect, wanted)
    assert run.last_cycle.tree.token_ids.tolist().count(stop) == 1
    assert run.last_cycle.tree.token_ids[-1] == stop


class Counting:
    """A draft model that remembers how many committed tokens each pass read."""

    def __init__(self, model):
        self._model = model
        self.read = []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def forward(self, cache, token_ids, parents):
        if parents is None:
            self.read.append(len(token_ids))
        return self._model.forward(cache, token_ids, parents)


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["own-layers", "whole-model", "perfect"])
def test_the_cache_is_one_pass_over_committed_tokens(runtime, target_dir, load, tmp_path, temperature, kind):
    """L7; and a cycle reads one missing token, or two where all were accepted."""
    directory = {
        "own-layers": lambda: write_draft_lm(tmp_path),
        "whole-model": lambda: write_llama(tmp_path, num_hidden_layers=1),
        "perfect": lambda: target_dir,
    }[kind]()
    engine = engine_of("sps", runtime, directory, load)
    engine.drafter._model = counting = Counting(engine.drafter._model)
    wanted = request("sps", [11, 12, 13], temperature, 20)
    atol = 0 if runtime.target.runtime == "native" else 1e-9
    run, _ = engine.start(wanted)
    missing = len(run.token_ids)  # the first tree reads the prompt
    while not run.is_finished:
        fresh = engine.drafter.open()
        fresh.begin(run.session._context)
        fresh._length.most = run.session._length.most
        expected = fresh.propose(run.token_ids, 100 - len(run.token_ids))
        counting.read.clear()
        engine.step([run])
        assert counting.read == [missing]
        cycle, tree = run.last_cycle, run.last_cycle.tree
        missing = 2 if cycle.num_accepted == tree.num_draft_tokens else 1
        assert tree.token_ids.tolist() == expected.token_ids.tolist()
        np.testing.assert_allclose(tree.log_values, expected.log_values, rtol=0, atol=atol)


def test_a_later_turn_keeps_what_was_read(runtime, tmp_path):
    engine = engine_of("sps", runtime, write_draft_lm(tmp_path))
    *_, run = cycles(engine, request("sps", [5, 9, 11]))
    turn = [*run.token_ids[:12], 8, 9]
    engine.drafter._model = counting = Counting(engine.drafter._model)
    run.session._model = counting
    run, _ = engine.start(request("sps", turn), run)
    engine.step([run])
    assert counting.read == [len(turn) + 1 - 11]


def test_the_ratio_test_says_what_it_keeps(runtime, tmp_path):
    assert SpsOptions().rule.lossless == "ids"
    assert SpsOptions(sps_ratio=True).rule.lossless == "distribution"
    engine = engine_of("sps", runtime, write_draft_lm(tmp_path, draft_ids=range(0, VOCAB, 2)))
    for run in cycles(engine, request("sps", [4, 9], 1.0, given={"sps_ratio": True})):
        tree = run.last_cycle.tree
        assert sorted(tree.proposals) == list(range(tree.num_draft_tokens))
        for node, child in enumerate(tree.token_ids[1:].tolist()):
            assert tree.proposals[node][child] > 0
            assert tree.proposals[node].sum() == pytest.approx(1)
            allowed = {*range(0, VOCAB, 2), 9, *run.token_ids}  # draft vocabulary, prompt and answer
            assert set(np.flatnonzero(tree.proposals[node])) <= allowed


@pytest.mark.parametrize("length", ["often", "0", 0, -1, "1.5", ""])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(ConfigError, match="sps_length is"):
        SpsOptions(sps_length=length)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"embed_tokens.weight": np.zeros((VOCAB, HIDDEN), np.float32)}, {}, "unknown tensor embed_tokens"),
        ({"norm.weight": None}, {}, "lacks norm.weight"),
        ({"norm.weight": np.zeros(3, np.float32)}, {}, "has shape"),
        ({}, {"num_hidden_layers": 3}, "lacks layers.2"),
        ({}, {"intermediate_size": None}, "lacks a usable"),
        ({}, {"draft_vocab_size": 3}, "lacks d2t"),
    ],
    ids=str,
)
def test_wrong_files_are_named(tmp_path, change, config, message):
    directory = edit_network(write_draft_lm(tmp_path), change, config)
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(DRAFT_LM, directory)
    assert "\n" not in str(error.value)


def test_models_of_another_target_are_refused(runtime, tmp_path, load):
    def refused(directory, message, model=load):
        with pytest.raises(CheckpointError, match=message):
            engine_of("sps", runtime, directory, model)

    refused(write_draft_lm(tmp_path / "a", target_fingerprint="f" * 16), "trained for the target")
    refused(write_draft_lm(tmp_path / "b", draft_ids=[3, VOCAB]), f"drafts token id {VOCAB}")
    wide = write_llama(tmp_path / "c", vocab_size=VOCAB + 8)
    refused(wide, f"vocabulary of {VOCAB + 8} tokens, but tiny has {VOCAB}")
    refused(wide, "is a whole model", model=None)
