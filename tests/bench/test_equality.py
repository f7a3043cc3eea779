"""Law L1's judge: the first difference counts, and only a near tie excuses it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.bench.equality import compare, first_difference, plain_scores
from eyas.drafters.autoregressive import Autoregressive
from eyas.engine.cycle import Engine
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.stopping import StoppingConfig
from fake import FakeRuntime, answer, make_request

PROMPT = [1, 2, 3]


def request(runtime, temperature=0.0):
    sampling, stopping = SamplingConfig(temperature=temperature, seed=3), StoppingConfig(max_new_tokens=12)
    return make_request(PROMPT, sampling, stopping, vocab_size=runtime.target.vocab_size)


def plain_answer(runtime, temperature=0.0):
    return answer(Engine(runtime, Autoregressive()), request(runtime, temperature))[0].generated


def near_tie(gap, dtype):
    """A runtime whose two best logits are `gap` apart everywhere."""
    runtime = FakeRuntime()
    runtime.target = dataclasses.replace(runtime.target, dtype=dtype)
    runtime.logits = lambda _: np.array([0.0, 5.0, 0, 0, 5.0 - gap, 0, 0, 0])
    return runtime


@given(left=st.lists(st.integers(0, 2)), right=st.lists(st.integers(0, 2)))
def test_first_difference(left, right):
    at = first_difference(left, right)
    if at is None:
        assert left == right
    else:
        assert left[:at] == right[:at]
        assert left[at : at + 1] != right[at : at + 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_are_those_that_plain_decoding_saw(temperature):
    runtime = FakeRuntime()
    plain = plain_answer(runtime, temperature)
    for at, token in enumerate(plain):
        scores = plain_scores(runtime, request(runtime, temperature), plain[:at])
        assert int(np.argmax(scores)) == token


@pytest.mark.parametrize(
    ("dtype", "gap", "state"),
    [
        ("float64", 0.0, "failed"),
        ("float32", 0.0009, "excused"),
        ("float32", 0.0011, "failed"),
        ("bfloat16", 0.49, "excused"),
        ("bfloat16", 0.51, "failed"),
        ("unheard-of", 0.0, "failed"),
    ],
)
def test_only_near_ties_are_excused(dtype, gap, state):
    runtime = near_tie(gap, dtype)
    found = compare(runtime, request(runtime), [1, 1, 1], [1, 4, 6])
    assert (found.state, found.position, found.plain_token, found.token) == (state, 1, 1, 4)
    assert found.gap == pytest.approx(gap)


def test_an_answer_that_goes_on_is_no_near_tie():
    runtime = near_tie(0.0, "bfloat16")
    assert compare(runtime, request(runtime), [1, 1], [1, 1, 1]).state == "failed"
    assert compare(runtime, request(runtime), [1, 1], [1]).state == "failed"
    assert compare(runtime, request(runtime), [1, 1], [1, 1]).state == "equal"


def test_a_lone_candidate_has_no_gap():
    runtime = FakeRuntime()
    alone = dataclasses.replace(
        request(runtime),
        sampler=Sampler(SamplingConfig(temperature=1, top_k=1), prompt_ids=PROMPT, vocab_size=8, seed=3),
    )
    found = compare(runtime, alone, [1], [2])
    assert (found.state, found.gap) == ("failed", None)
