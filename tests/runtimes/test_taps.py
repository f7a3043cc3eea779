"""A drafter's taps on every runtime and family: the hidden states of a stock model, in trees too."""

import numpy as np
import pytest

from eyas.engine.interfaces import FINAL, TargetCall
from eyas.errors import ModelError

TREE = np.array([-1, 0, 0, 1, -1])
TOKENS = np.array([5, 9, 13, 21, 7])


def wanted(stock, token_ids, taps):
    """(T, len(taps) * H)"""
    states = stock.hidden_states(token_ids)
    return np.concatenate([states[tap] for tap in taps], axis=1)


def features(runtime, cache, token_ids, taps, parents=None, last_only=False):
    [rows] = runtime.forward([TargetCall(cache, np.asarray(token_ids), parents, last_only, taps)])
    return np.asarray(rows.features)


def close(got, expected, stock):
    np.testing.assert_allclose(got, expected, rtol=0, atol=max(stock.atol, 1e-9) * 10)


@pytest.mark.parametrize("taps", [(FINAL,), (1,), (0, 2, FINAL), (FINAL, 1, 1)], ids=str)
def test_taps_are_the_models_hidden_states_in_the_order_asked_for(served, taps):
    runtime, stock = served
    cache, prompt = runtime.new_cache(), [3, 1, 4, 1, 5]
    close(features(runtime, cache, prompt, taps, last_only=True), wanted(stock, prompt, taps), stock)
    cache.commit(range(5))
    nodes = features(runtime, cache, TOKENS, taps, TREE)
    for path in ([0, 1, 3], [0, 2], [4]):
        close(nodes[path], wanted(stock, [*prompt, *TOKENS[path]], taps)[5:], stock)


def test_taps_are_right_after_a_commit_with_a_gap_and_on_a_kept_prefix(served):
    runtime, stock = served
    cache, prompt, taps = runtime.new_cache(), [3, 1, 4], (2, FINAL)
    features(runtime, cache, prompt, taps)
    cache.commit(range(3))
    features(runtime, cache, TOKENS, taps, TREE)
    cache.commit([0, 2])
    kept = [*prompt, 5, 13]
    close(features(runtime, cache, [8, 6], taps), wanted(stock, [*kept, 8, 6], taps)[5:], stock)
    cache.truncate(2)
    close(features(runtime, cache, [7, 7, 2], taps), wanted(stock, [*prompt[:2], 7, 7, 2], taps)[2:], stock)


def test_calls_of_one_pass_have_taps_of_their_own(served):
    runtime, stock = served
    ids, wants = [[1, 2, 3], [4, 5], [6, 7]], [(1,), (FINAL,), (FINAL, 0)]
    calls = [
        TargetCall(runtime.new_cache(), np.array(i), taps=taps) for i, taps in zip(ids, wants, strict=True)
    ]
    for rows, token_ids, taps in zip(runtime.forward(calls), ids, wants, strict=True):
        close(np.asarray(rows.features), wanted(stock, token_ids, taps), stock)


def test_taps_leave_choices_and_later_features_alone(served):
    runtime, _ = served
    plain, other = runtime.new_cache(), runtime.new_cache()
    [one] = runtime.forward([TargetCall(plain, TOKENS)])
    [two] = runtime.forward([TargetCall(other, TOKENS, taps=(1, 2))])
    np.testing.assert_array_equal(one.logits(4), two.logits(4))
    assert np.asarray(features(runtime, other, [3], (FINAL,))).shape[1] == runtime.target.hidden_size


@pytest.mark.parametrize("tap", [3, 99, -2])
def test_a_tap_beyond_the_layers_is_refused(served, tap):
    runtime, _ = served
    with pytest.raises(ModelError, match=rf"tap {tap} .*0\.\.2"):
        runtime.forward([TargetCall(runtime.new_cache(), TOKENS, taps=(tap,))])
