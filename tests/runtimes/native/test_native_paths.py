"""Laws L6 and L7, bit for bit: a tree is its paths, chunks are one pass, a commit is plain decoding."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_nets import CASES, ISAS, LIMIT, NETS, SHAPES, net, same_bits

quick = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
every_kind = pytest.mark.parametrize("kind", NETS)
every_shape = pytest.mark.parametrize("name", list(SHAPES))


@st.composite
def grown_trees(draw, most=4):
    """Sizes of several forwards and each row's parent: any earlier pending row, or -1."""
    sizes = draw(st.lists(st.integers(1, 24), min_size=1, max_size=most))
    deep = draw(st.booleans())  # many levels, or many siblings
    parents = [
        draw(st.integers(max(-1, row - 4) if deep else -1, row - 1), label=f"parent {row}")
        for row in range(sum(sizes))
    ]
    return sizes, np.array(parents)


def path_to(parents, node):
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, int(parents[path[0]]))
    return path


def grow(network, cache, tokens, sizes, parents):
    """Features and logits of all rows, from one forward per size."""
    ends = np.cumsum(sizes)
    parts = [
        network.forward(cache, tokens[end - size : end], parents[end - size : end])
        for end, size in zip(ends, sizes, strict=True)
    ]
    return [np.concatenate(results) for results in zip(*parts, strict=True)]


@pytest.mark.parametrize(("isa", "name"), CASES)
@every_kind
@quick
@given(prefix=st.integers(0, 40), grown=grown_trees(), seed=st.integers(0, 99), data=st.data())
def test_a_tree_is_its_paths_and_a_commit_is_plain_decoding(isa, kind, name, prefix, grown, seed, data):
    network, vocab, (sizes, parents) = net(name, kind, isa), SHAPES[name].vocab, grown
    generator = np.random.default_rng(seed)
    prompt, tokens = generator.integers(0, vocab, prefix), generator.integers(0, vocab, len(parents))
    cache = network.prefill(prompt)
    features, logits = grow(network, cache, tokens, sizes, parents)
    assert (cache.length, cache.num_pending) == (prefix, len(tokens))

    leaves = np.setdiff1d(np.arange(len(tokens)), parents)
    for leaf in generator.permutation(leaves)[:6]:
        path = path_to(parents, leaf)
        wanted_features, wanted_logits = network.forward(network.prefill(prompt), tokens[path])
        assert same_bits(features[path], wanted_features)
        assert same_bits(logits[path], wanted_logits)

    path = path_to(parents, data.draw(st.integers(0, len(tokens) - 1), label="accepted node"))
    cache.commit(path)
    kept, more = np.concatenate((prompt, tokens[path])), generator.integers(0, vocab, 9)
    assert (cache.length, cache.num_pending) == (len(kept), 0)
    assert same_bits(network.forward(cache, more)[1], network.forward(network.prefill(kept), more)[1])

    length = data.draw(st.integers(0, len(kept)), label="cut to")
    cache.truncate(length)
    assert same_bits(
        network.forward(cache, more)[1], network.forward(network.prefill(kept[:length]), more)[1]
    )


@pytest.mark.parametrize(("isa", "name"), [*CASES[:3], (ISAS[0], "long-window"), (ISAS[-1], "windows")])
@every_kind
def test_chunks_are_one_pass(isa, kind, name):
    """Also across the cut at 256 rows, and where one pass has several threads."""
    network, vocab = net(name, kind, isa), SHAPES[name].vocab
    prompt = np.random.default_rng(7).integers(0, vocab, 270)
    cache = network.new_cache()
    features, logits = network.forward(cache, prompt)
    cache.commit(list(range(270)))
    _, wanted = network.forward(cache, [5])
    for chunk in (256, 255, 100, 33, 270):
        other = network.new_cache()
        parts = []
        for start in range(0, 270, chunk):
            parts.append(network.forward(other, prompt[start : start + chunk]))
            other.commit(list(range(len(prompt[start : start + chunk]))))
        chunked_features, chunked_logits = (np.concatenate(rows) for rows in zip(*parts, strict=True))
        assert same_bits(chunked_features, features)
        assert same_bits(chunked_logits, logits)
        assert same_bits(network.forward(other, [5])[1], wanted)
    threaded = net(name, kind, isa, 2)
    assert same_bits(threaded.forward(threaded.new_cache(), prompt)[1], logits)


@every_kind
def test_chunks_behind_pending_rows_go_on_from_the_last(kind):
    network = net("plain", kind)
    cache = network.prefill([1, 2])
    network.forward(cache, [3, 4], [-1, -1])
    _, logits = network.forward(cache, np.arange(300) % 61)
    _, wanted = network.forward(network.prefill([1, 2, 4]), np.arange(300) % 61)
    assert same_bits(logits, wanted)


@every_kind
@every_shape
@settings(quick, max_examples=3)
@given(grown=st.lists(grown_trees(2), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_trees_of_several_sequences_do_not_mix(kind, name, grown, seed):
    network, vocab = net(name, kind), SHAPES[name].vocab
    generator = np.random.default_rng(seed)
    calls, wanted = [], []
    for _, parents in grown:
        prompt, tokens = (
            generator.integers(0, vocab, 1 + seed % 30),
            generator.integers(0, vocab, len(parents)),
        )
        wanted.append(network.forward(network.prefill(prompt), tokens, parents))
        calls.append((network.prefill(prompt), tokens, parents, False))
    for (features, logits), (wanted_features, wanted_logits) in zip(
        network.forward_all(calls), wanted, strict=True
    ):
        assert same_bits(features, wanted_features)
        assert same_bits(logits, wanted_logits)


@every_kind
@pytest.mark.parametrize("name", ["windows", "wide-heads"])
def test_a_long_life_of_one_cache(kind, name):
    """Trees, commits and cuts in turns while the buffers grow: in the end, one pass over what is left."""
    network, vocab = net(name, kind), SHAPES[name].vocab
    generator = np.random.default_rng(8)
    cache, kept = network.new_cache(), []
    while len(kept) < 330:
        count = int(generator.integers(1, 40))
        parents = np.array([int(generator.integers(max(-1, row - 3), row)) for row in range(count)])
        tokens = generator.integers(0, vocab, count)
        network.forward(cache, tokens, parents)
        path = path_to(parents, int(generator.integers(count)))
        cache.commit(path)
        kept += tokens[path].tolist()
        if generator.random() < 0.2:
            kept = kept[: int(generator.integers(len(kept) // 2, len(kept) + 1))]
            cache.truncate(len(kept))
    _, wanted = network.forward(network.new_cache(), np.array([*kept, 3, 1, 4]))
    _, got = network.forward(cache, [3, 1, 4])
    assert same_bits(got, wanted[-3:])


def test_the_last_position_is_served_whatever_stands_beside_it():
    """More rows than positions are left: siblings need slots, not positions."""
    network = net("plain")
    prompt = np.arange(LIMIT - 2) % 61
    cache = network.prefill(prompt)
    parents = np.concatenate((np.full(200, -1), np.arange(200)))
    tokens = np.arange(400) % 61
    _, logits = network.forward(cache, tokens, parents)
    _, wanted = network.forward(network.prefill(prompt), tokens[[150, 350]])
    assert same_bits(logits[[150, 350]], wanted)


@pytest.mark.parametrize(
    ("tokens", "parents"),
    [
        pytest.param([1, 2, 3], None, id="a chain"),
        pytest.param([1, 2, 3, 4], [-1, 0, -1, 1], id="a tree"),
    ],
)
def test_too_many_positions_are_an_error_before_work(tokens, parents):
    network = net("plain")
    prompt = np.arange(LIMIT - 2) % 61
    cache, other = network.prefill(prompt), network.prefill([1, 2])
    for calls in (
        [(cache, tokens, parents, False)],
        [(other, [4], None, False), (cache, tokens, parents, False)],
    ):
        with pytest.raises(ValueError, match="beyond the last position"):
            network.forward_all(calls)
    assert (cache.length, cache.num_pending) == (LIMIT - 2, 0)
    assert (other.length, other.num_pending) == (2, 0)
    assert same_bits(network.forward(cache, [7])[1], network.forward(network.prefill(prompt), [7])[1]), (
        "what was there is untouched"
    )


@pytest.mark.parametrize("parents", [[-2, -1], [0, -1], [-1, 1], [-1, 5]])
def test_parents_stand_before_their_children(parents):
    network = net("plain")
    cache = network.prefill([1])
    with pytest.raises(ValueError, match="parent"):
        network.forward(cache, [2, 3], parents)
    assert (cache.length, cache.num_pending) == (1, 0)


@pytest.mark.parametrize("path", [[1], [0, 3], [2, 0], [0, 4], [0, 0], [-1]])
def test_a_path_must_be_one(path):
    network = net("plain")
    cache = network.prefill([1])
    network.forward(cache, [1, 2, 3, 4], [-1, 0, 0, 1])
    with pytest.raises(ValueError, match="path"):
        cache.commit(path)
    assert (cache.length, cache.num_pending) == (1, 4), "refused before anything moved"


def test_a_cache_is_cut_to_fewer_rows_only():
    cache = net("plain").prefill([1, 2])
    for length in (-1, 3):
        with pytest.raises(ValueError, match="cut"):
            cache.truncate(length)
    assert cache.length == 2


def test_bad_calls_are_refused_before_work():
    network, foreign = net("plain"), net("windows").new_cache()
    cache = network.prefill([1])
    for calls, message in [
        ([(foreign, [1], None, False)], "another network"),
        ([(net("plain", "bfloat16").new_cache(), [1], None, False)], "another network"),
        ([(cache, [61], None, False)], "outside the vocabulary"),
        ([(cache, [-1], None, False)], "outside the vocabulary"),
        ([(cache, [], None, False)], "needs a cache and tokens"),
        ([(None, [1], None, False)], "needs a cache and tokens"),
        ([(cache, [1, 2], [-1, 2**32], False)], "a parent is a pending token"),
        ([(cache, [1, 2], [-1], False)], "one parent per token"),
        ([(cache, [1], None, False), (cache, [2], None, False)], "two calls"),
    ]:
        with pytest.raises(ValueError, match=message):
            network.forward_all(calls)
        assert (cache.length, cache.num_pending) == (1, 0)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        network.target.embed(np.array([3, 61]))
    with pytest.raises(ValueError, match="another network"):
        network.stack.forward(foreign, np.zeros((1, 40), dtype="f4"))
    with pytest.raises(ValueError, match="hidden size"):
        network.stack.forward(cache, np.zeros((1, 39), dtype="f4"))
