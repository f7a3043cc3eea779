"""Laws L6 and L7 on every runtime and family, against a stock model that forwards whole sequences."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.engine.interfaces import TargetCall

VOCAB = 89

token_lists = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14)


@st.composite
def grown_trees(draw):
    """Several forwards' (token ids, parents): each row's parent is any earlier pending row, or -1."""
    forwards, pending = [], 0
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 5))
        parents = [draw(st.integers(-1, pending + row - 1)) for row in range(size)]
        tokens = draw(st.lists(st.integers(0, VOCAB - 1), min_size=size, max_size=size))
        forwards.append((np.array(tokens), np.array(parents)))
        pending += size
    return forwards


def forward(runtime, cache, token_ids, parents=None, last_only=False):
    [rows] = runtime.forward([TargetCall(cache, np.asarray(token_ids), parents, last_only)])
    return rows


def all_logits(rows, count):
    return np.stack([rows.logits(row) for row in range(count)])


def prefill(runtime, token_ids, chunk=None):
    cache = runtime.new_cache()
    chunk = chunk or max(1, len(token_ids))
    for start in range(0, len(token_ids), chunk):
        piece = token_ids[start : start + chunk]
        forward(runtime, cache, piece, last_only=True)
        cache.commit(range(len(piece)))
    return cache


def path_to(parents, node):
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, int(parents[path[0]]))
    return path


@settings(max_examples=20)
@given(prefix=st.just([]) | token_lists, grown=grown_trees(), data=st.data())
def test_a_tree_is_its_paths_and_a_commit_is_plain_decoding(served, prefix, grown, data):
    runtime, stock = served
    cache = prefill(runtime, prefix)
    logits, features = [], []
    for token_ids, parents in grown:
        rows = forward(runtime, cache, token_ids, parents)
        logits.extend(all_logits(rows, len(token_ids)))
        features.extend(np.asarray(rows.features))
    tokens = np.concatenate([token_ids for token_ids, _ in grown])
    parents = np.concatenate([parents for _, parents in grown])
    assert (cache.length, cache.num_pending) == (len(prefix), len(tokens))

    for leaf in np.setdiff1d(np.arange(len(tokens)), parents):
        path = path_to(parents, leaf)
        wanted_logits, wanted_features = stock([*prefix, *tokens[path]])
        np.testing.assert_allclose(
            np.stack(logits)[path], wanted_logits[len(prefix) :], rtol=0, atol=stock.atol
        )
        np.testing.assert_allclose(
            np.stack(features)[path], wanted_features[len(prefix) :], rtol=0, atol=stock.atol
        )

    path = path_to(parents, data.draw(st.integers(0, len(tokens) - 1), label="accepted node"))
    cache.commit(path)
    kept = [*prefix, *tokens[path]]
    assert (cache.length, cache.num_pending) == (len(kept), 0)
    more = data.draw(token_lists, label="continuation")
    rows = forward(runtime, cache, more)
    np.testing.assert_allclose(
        all_logits(rows, len(more)), stock([*kept, *more])[0][len(kept) :], rtol=0, atol=stock.atol
    )

    length = data.draw(st.integers(0, len(kept)), label="truncated to")
    cache.truncate(length)
    rows = forward(runtime, cache, more)
    np.testing.assert_allclose(
        all_logits(rows, len(more)), stock([*kept[:length], *more])[0][length:], rtol=0, atol=stock.atol
    )


@settings(max_examples=15)
@given(prefix=token_lists, grown=grown_trees(), data=st.data())
def test_a_fork_is_a_fresh_prefill_and_its_own(served, prefix, grown, data):
    """Bit for bit on native, whatever was pending, and whatever either cache does later."""
    runtime, stock = served
    atol = 0 if runtime.target.runtime == "native" else stock.atol
    cache = prefill(runtime, prefix)
    for token_ids, parents in grown:
        forward(runtime, cache, token_ids, parents)
    length = data.draw(st.integers(0, len(prefix)), label="forked rows")
    fork = cache.fork(length)
    assert (fork.length, fork.num_pending) == (length, 0)

    cache.commit([])
    cache.truncate(data.draw(st.integers(0, len(prefix)), label="the first is cut to"))
    first = data.draw(token_lists, label="the first goes on")
    forward(runtime, cache, first)
    cache.commit(range(len(first)))
    more = data.draw(token_lists, label="the fork goes on")
    got = all_logits(forward(runtime, fork, more), len(more))
    wanted = all_logits(forward(runtime, prefill(runtime, prefix[:length]), more), len(more))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)
    fork.commit(range(len(more)))

    kept = cache.length
    got = forward(runtime, cache, [5]).logits(0)
    wanted, _ = stock([*prefix[: kept - len(first)], *first, 5])
    np.testing.assert_allclose(got, wanted[-1], rtol=0, atol=stock.atol)


def test_a_long_fork_holds_its_rows(llama):
    """Beyond the first capacity of a cache, and again beyond that of the fork."""
    prompt = np.random.default_rng(3).integers(0, VOCAB, llama.target.context_limit - 3)
    cache = prefill(llama, prompt)
    fork = cache.fork(len(prompt))
    atol = 0 if llama.target.runtime == "native" else 1e-9
    for token in (5, 6):
        got, wanted = (forward(llama, each, [token]).logits(0) for each in (fork, cache))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)
        fork.commit([0])
        cache.commit([0])


def test_prefill_in_chunks_is_prefill_at_once(served):
    runtime, stock = served
    prompt = np.random.default_rng(1).integers(0, VOCAB, 30)
    wanted, _ = stock([*prompt, 5])
    for chunk in (30, 7, 1):
        cache = prefill(runtime, prompt, chunk)
        assert cache.length == 30
        np.testing.assert_allclose(
            forward(runtime, cache, [5]).logits(0), wanted[-1], rtol=0, atol=stock.atol
        )


def test_last_only_answers_for_the_last_row(served):
    runtime, stock = served
    rows = forward(runtime, runtime.new_cache(), [3, 1, 4, 1, 5], last_only=True)
    assert len(rows.features) == 5
    np.testing.assert_allclose(rows.logits(4), stock([3, 1, 4, 1, 5])[0][-1], rtol=0, atol=stock.atol)


def test_calls_of_several_sequences_do_not_mix(served):
    runtime, stock = served
    first, second = prefill(runtime, [1, 2, 3]), prefill(runtime, [9, 8, 7, 6])
    rows = runtime.forward(
        [TargetCall(first, np.array([4, 5]), np.array([-1, -1])), TargetCall(second, np.array([5]))]
    )
    np.testing.assert_allclose(rows[0].logits(1), stock([1, 2, 3, 5])[0][-1], rtol=0, atol=stock.atol)
    np.testing.assert_allclose(rows[1].logits(0), stock([9, 8, 7, 6, 5])[0][-1], rtol=0, atol=stock.atol)


def test_a_chain_behind_pending_rows_continues_the_last_one(llama):
    cache = prefill(llama, [1, 2])
    forward(llama, cache, [3, 4], np.array([-1, -1]))
    got = forward(llama, cache, [5, 6]).logits(1)
    wanted = forward(llama, prefill(llama, [1, 2, 4, 5]), [6]).logits(0)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)


def test_commit_of_nothing_drops_pending_rows(llama):
    cache = prefill(llama, [1, 2])
    forward(llama, cache, [3, 4], np.array([-1, 0]))
    cache.commit([])
    assert (cache.length, cache.num_pending) == (2, 0)
    got = forward(llama, cache, [7]).logits(0)
    np.testing.assert_allclose(got, forward(llama, prefill(llama, [1, 2]), [7]).logits(0), rtol=0, atol=1e-9)


def test_the_last_position_of_the_context_is_served(served):
    runtime, stock = served
    limit = runtime.target.context_limit
    prompt = np.random.default_rng(2).integers(0, VOCAB, limit)
    cache = prefill(runtime, prompt[: limit - 2])
    parents = np.array([-1, -1, 0, 0, 1])  # siblings: more slots than positions are left
    rows = forward(runtime, cache, [prompt[-2], 5, prompt[-1], 6, 7], parents)
    np.testing.assert_allclose(rows.logits(2), stock(prompt)[0][-1], rtol=0, atol=stock.atol)
