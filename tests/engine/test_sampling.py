"""Draws and processors, against Random123's vectors, plain integers and transformers' own processors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from eyas.engine.sampling import (
    REACH,
    Sampler,
    SamplingConfig,
    gumbel,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    philox,
)
from eyas.errors import ConfigError

words = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # The known-answer vectors of Random123 (kat_vectors, philox4x32 10).
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    arrays = [np.array([word], dtype=np.uint64) for word in counter]
    assert tuple(int(word[0]) for word in philox(arrays, key)) == expected


@given(seed=words, choice=words, position=words, token=words)
def test_gumbel_equals_the_reference(seed, choice, position, token):
    value = gumbel(seed, choice, position, np.array([token]))[0]
    assert value == pytest.approx(reference.gumbel(seed, choice, position, token), rel=1e-12)
    assert -3.14 < value < 22.89


def test_gumbel_numbers_have_the_gumbel_distribution():
    """Mean 0.5772, variance pi^2/6; 4 standard errors at 200,000 draws."""
    draws = gumbel(7, 0, 3, np.arange(200_000))
    assert draws.mean() == pytest.approx(np.euler_gamma, abs=4 * np.sqrt(np.pi**2 / 6 / 200_000))
    assert draws.var() == pytest.approx(np.pi**2 / 6, rel=0.03)


rows = st.lists(
    st.floats(-8, 8).map(lambda x: round(x, 1)) | st.sampled_from([-1.0, 0.0, 2.5]),  # ties are normal
    min_size=2,
    max_size=40,
).map(np.array)


def _transformers(row, *warpers):
    import torch

    scores = torch.tensor(row, dtype=torch.float64)[None]
    for warper in warpers:
        scores = warper(torch.zeros(1, 1, dtype=torch.long), scores)
    return scores[0].numpy()


def _distinct(row):
    return len(set(row.tolist())) == len(row)


@given(row=rows, k=st.integers(1, 45))
def test_top_k_is_transformers_where_nothing_ties(row, k):
    from transformers import TopKLogitsWarper

    ours = keep_top_k(row, k)
    assert np.isfinite(ours).sum() == min(k, len(row))
    if _distinct(row):
        np.testing.assert_array_equal(ours, _transformers(row, TopKLogitsWarper(k)))
    kept, left = np.flatnonzero(np.isfinite(ours)), np.flatnonzero(~np.isfinite(ours))
    for index in left:  # what was left out is worse, or equal with a higher id
        assert all((row[k], -k) > (row[index], -index) for k in kept)


@given(row=rows, p=st.floats(0.01, 0.999))
def test_top_p_is_transformers_where_nothing_ties(row, p):
    from transformers import TopPLogitsWarper

    ours = keep_top_p(row, p)
    assert np.isfinite(ours[np.argmax(row)])
    if _distinct(row):
        np.testing.assert_array_equal(ours, _transformers(row, TopPLogitsWarper(p)))


@given(row=rows, min_p=st.floats(0.001, 1))
def test_min_p_is_transformers(row, min_p):
    from transformers import MinPLogitsWarper

    ours = keep_min_p(row, min_p)
    theirs = _transformers(row, MinPLogitsWarper(min_p))
    probs = np.exp(row - row.max())
    edge = np.abs(probs - min_p) < 1e-9  # where both sides round
    np.testing.assert_array_equal(ours[~edge], theirs[~edge])


@given(
    row=rows,
    temperature=st.floats(0.2, 3),
    k=st.integers(0, 10),
    p=st.floats(0.3, 1),
    penalty=st.floats(0.5, 2),
    data=st.data(),
)
def test_processors_run_in_transformers_order(row, temperature, k, p, penalty, data):
    """Repetition penalty, temperature, top-k, top-p: the order of `generate`."""
    import torch
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    if not _distinct(row):
        row = row + np.arange(len(row)) * 1e-3
    tokens = st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=6)
    prompt, generated = data.draw(tokens), data.draw(tokens)
    config = SamplingConfig(temperature=temperature, top_k=k, top_p=p, repetition_penalty=penalty)
    sampler = Sampler(config, prompt_ids=prompt, vocab_size=len(row))
    ours = sampler.process(row, generated)

    ids = torch.tensor([prompt + generated])
    scores = RepetitionPenaltyLogitsProcessor(penalty)(ids, torch.tensor(row, dtype=torch.float64)[None])
    if len(set(scores[0].tolist())) < len(row):
        return  # the penalty made a tie
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(k)] if k else []
    warpers += [TopPLogitsWarper(p)] if p < 1 else []
    for warper in warpers:
        scores = warper(ids, scores)
    np.testing.assert_allclose(ours, scores[0].numpy(), rtol=1e-12)


def test_penalties_count_the_answer_only_as_openai_does():
    config = SamplingConfig(presence_penalty=0.5, frequency_penalty=0.25)
    sampler = Sampler(config, prompt_ids=[0, 0], vocab_size=4)
    np.testing.assert_allclose(sampler.process(np.zeros(4), [1, 2, 1]), [0, -0.5 - 0.5, -0.5 - 0.25, 0])


def test_greedy_still_applies_bias_and_penalties():
    config = SamplingConfig(logit_bias={2: 5.0}, repetition_penalty=10.0)
    sampler = Sampler(config, prompt_ids=[], vocab_size=3)
    assert not sampler.is_argmax
    assert sampler.choose(np.array([3.0, 4.0, 1.0]), []) == 2
    assert sampler.choose(np.array([3.0, 4.0, 1.0]), [2]) == 1  # 6 / 10 < 4


def test_ties_go_to_the_lowest_id():
    assert Sampler(SamplingConfig(), prompt_ids=[], vocab_size=3).choose(np.ones(3), []) == 0


def test_stop_tokens_are_withheld_until_the_minimum():
    sampler = Sampler(SamplingConfig(), prompt_ids=[5], vocab_size=3, withheld=[1], min_new_tokens=2)
    logits = np.array([0.0, 9.0, 1.0])
    assert [sampler.choose(logits, [0] * n) for n in range(3)] == [2, 2, 1]


@given(
    logits=st.lists(st.floats(-40, 40), min_size=8, max_size=8).map(np.array),
    seed=words,
    columns=st.sets(st.integers(0, 7), min_size=1).map(lambda s: np.array(sorted(s))),
    generated=st.lists(st.integers(0, 7), max_size=5),
)
def test_scores_over_some_columns_are_those_of_the_whole_row(logits, seed, columns, generated):
    """A draft vocabulary sees the very noise and penalties that the target's row gets."""
    config = SamplingConfig(
        temperature=0.8, repetition_penalty=1.3, presence_penalty=0.2, logit_bias={3: 1.0}
    )
    sampler = Sampler(config, prompt_ids=[0, 4], vocab_size=8, seed=seed)
    whole, some = sampler.scores(logits, generated), sampler.scores(logits[columns], generated, columns)
    alive = np.isfinite(whole[columns])  # the whole row may prune more: its best token may be elsewhere
    np.testing.assert_allclose(some[alive], whole[columns][alive], rtol=1e-12)


@given(logits=st.lists(st.floats(-60, 60), min_size=3, max_size=20).map(np.array), seed=words)
def test_pruning_never_changes_the_choice(logits, seed):
    sampler = Sampler(SamplingConfig(temperature=1.0), prompt_ids=[], vocab_size=len(logits), seed=seed)
    everything = logits + gumbel(seed, 0, 0, np.arange(len(logits)))
    assert sampler.choose(logits, []) == int(np.argmax(everything))
    assert REACH >= 22.88 + 3.13


def test_noise_is_kept_while_ahead_and_dropped_behind():
    sampler = Sampler(SamplingConfig(temperature=1.0), prompt_ids=[1, 2], vocab_size=16, seed=3)
    row = sampler.noise(5, np.arange(16))
    sampler.commit([0] * 3)
    np.testing.assert_array_equal(sampler.noise(5, np.arange(16)), row)
    assert list(sampler._noise) == [5]
    sampler.commit([0] * 4)
    assert not sampler._noise


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"top_k": -1},
        {"temperature": 1e-308},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-4},
        {"repetition_penalty": 1e4},
        {"presence_penalty": 3.0},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: float("inf")}},
        {"logit_bias": {1: -1e7}},
        {"seed": 2**32},
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused_in_one_line(options):
    with pytest.raises(ConfigError) as error:
        SamplingConfig(**options)
    assert "\n" not in str(error.value)
    assert next(iter(options)) in str(error.value)


def test_a_bias_beyond_the_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="token id 9"):
        Sampler(SamplingConfig(logit_bias={9: 1.0}), prompt_ids=[], vocab_size=9)
