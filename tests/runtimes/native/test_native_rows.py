"""Law L8, bit for bit: a token's result depends neither on its batch nor on the number of threads."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_nets import CASES, ISAS, KINDS, NETS, SHAPES, engine, net, same_bits

from eyas import _native
from eyas.runtimes.native.matrices import make_matrix

quick = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
every_isa = pytest.mark.parametrize("isa", ISAS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_net = pytest.mark.parametrize("kind", NETS)
THREADS = (1, 2, 3)


def random_rows(generator, count, width):
    """Rows of many sizes side by side: a scale that a call shared would show."""
    return (generator.normal(size=(count, width)) * 10.0 ** generator.integers(-6, 6, (count, 1))).astype(
        "f4"
    )


@every_isa
@every_kind
@quick
@given(
    count=st.integers(1, 70), outputs=st.integers(1, 150), inputs=st.integers(1, 150), seed=st.integers(0, 99)
)
def test_a_row_of_a_product(isa, kind, count, outputs, inputs, seed):
    generator = np.random.default_rng(seed)
    matrix = make_matrix(generator.normal(size=(outputs, inputs)).astype("f4"), kind, "a matrix")
    rows = random_rows(generator, count, inputs)
    layers = [_native.Linear(engine(threads, isa), matrix) for threads in THREADS]
    alone = np.concatenate([layers[0].forward([rows[[t]]]) for t in range(count)])
    order = generator.permutation(count)
    for linear in layers:
        assert same_bits(linear.forward([rows]), alone)
        assert same_bits(linear.forward([rows[order]]), alone[order])
        assert same_bits(linear.forward([rows[order[: count // 2 + 1]]]), alone[order[: count // 2 + 1]])
        cut = inputs // 2
        assert same_bits(
            linear.forward([np.ascontiguousarray(rows[:, :cut]), np.ascontiguousarray(rows[:, cut:])]), alone
        )


@every_isa
@every_kind
@quick
@given(count=st.integers(1, 40), columns=st.integers(5, 200), seed=st.integers(0, 99))
def test_a_row_of_a_head(isa, kind, count, columns, seed):
    """Logits, the best and their log-probabilities."""
    generator = np.random.default_rng(seed)
    matrix = make_matrix(generator.normal(size=(columns, 20)).astype("f4"), kind, "a matrix")
    rows = generator.normal(size=(count, 20)).astype("f4")
    heads = [_native.LMHead(engine(threads, isa), [matrix]) for threads in THREADS]
    alone = []
    for t in range(count):
        found, log_probs = heads[0].top_k(rows[[t]], 5)
        alone.append((found[0], log_probs[0], heads[0].logits(0), heads[0].argmax(0)))
    for head in heads:
        found, log_probs = head.top_k(rows, 5)
        for t, (columns_, log_probs_, logits, argmax) in enumerate(alone):
            assert same_bits(found[t], columns_)
            assert same_bits(log_probs[t], log_probs_)
            assert same_bits(head.logits(t), logits)
            assert head.argmax(t) == argmax


@pytest.mark.parametrize(("isa", "name"), CASES)
@every_net
@settings(quick, max_examples=3)
@given(data=st.data())
def test_a_row_of_a_whole_target(isa, kind, name, data):
    """Sequences side by side, each with its own cache: the features and logits of each alone."""
    vocab = SHAPES[name].vocab
    prompts = data.draw(
        st.lists(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=9), min_size=1, max_size=5)
    )
    steps = data.draw(st.integers(1, 8))
    tokens = np.random.default_rng(len(prompts)).integers(0, vocab, (len(prompts), steps))
    first = net(name, kind, isa)
    alone = []
    for prompt, more in zip(prompts, tokens, strict=True):
        cache = first.prefill(prompt)
        rows = []
        for token in more:  # plain decoding, one row a call
            rows.append(first.forward(cache, [token]))
            cache.commit([0])
        alone.append([np.concatenate(parts) for parts in zip(*rows, strict=True)])
    for threads in THREADS:
        network = net(name, kind, isa, threads)
        caches = [network.prefill(prompt) for prompt in prompts]
        together = network.forward_all(
            [(cache, more, None, False) for cache, more in zip(caches, tokens, strict=True)]
        )
        for (features, logits), (wanted_features, wanted_logits) in zip(together, alone, strict=True):
            assert same_bits(features, wanted_features)
            assert same_bits(logits, wanted_logits)


@every_net
def test_more_rows_than_a_pass_holds(kind):
    """Sixty sequences of ten rows: the passes of 256 rows cut between them, and inside one."""
    network, vocab = net("windows", kind), SHAPES["windows"].vocab
    tokens = np.random.default_rng(5).integers(0, vocab, (60, 10))
    parents = [-1, 0, 0, 1, 1, 2, 5, 5, 6, -1]
    calls = [
        (network.new_cache(), row, None if index % 3 else parents, index % 2 == 1)
        for index, row in enumerate(tokens)
    ]
    together = network.forward_all(calls)
    for (_, row, above, last), (features, logits) in zip(calls, together, strict=True):
        wanted_features, wanted_logits = network.forward(network.new_cache(), row, above, last)
        assert same_bits(features, wanted_features)
        assert same_bits(logits, wanted_logits)


@every_isa
@every_net
def test_a_draft_stack_is_its_rows_one_by_one(isa, kind):
    generator = np.random.default_rng(6)
    rows = random_rows(generator, 70, SHAPES["plain"].hidden)
    first = net("plain", kind, isa)
    cache, alone = first.new_cache(), []
    for t in range(len(rows)):
        alone.append(first.stack.forward(cache, rows[[t]]))
        cache.commit([0])
    for threads in THREADS:
        network = net("plain", kind, isa, threads)
        assert same_bits(network.stack.forward(network.new_cache(), rows), np.concatenate(alone))
