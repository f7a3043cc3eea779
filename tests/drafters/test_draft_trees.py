"""Laws L5 and L6 on the pure side: expansion and rerank against the paper's definition, by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from eyas.drafters.eagle import TREE as EAGLE_TREE
from eyas.drafters.eagle2 import Eagle2Options, grow_tree
from eyas.drafters.expansion import grow_static
from eyas.engine.tree import ancestor_mask, chain, node_depths, root_only
from eyas.engine.tree_options import TreeOptions
from eyas.errors import ConfigError
from fake import parent_lists
from reference.candidates import best_of


def draft_from(confidences, k, log=np.log):
    """A `draft` callback over confidences by path; remembers each frontier's paths."""
    paths = [[()]]

    def draft(frontier, _k):
        if frontier is not None:
            above = paths[-1]
            paths.append(
                [
                    above[row] + (int(token),)
                    for row, token in zip(frontier.parent_rows, frontier.token_ids, strict=True)
                ]
            )
        children = [confidences(path)[:k] for path in paths[-1]]
        tokens = np.array([[token for token, _ in row] for row in children])
        with np.errstate(divide="ignore"):
            return tokens, log(np.array([[p for _, p in row] for row in children]))

    return draft


def confidences_from(seed, vocab, ties):
    """Random confidences below any path; powers of two tie often, and their products are exact."""

    def confidences(path):
        rng = np.random.default_rng([seed, *path])
        p = rng.dirichlet(np.full(vocab, 0.3))
        if ties:
            p = 2.0 ** np.clip(np.round(np.log2(np.maximum(p, 0.125))), -3, 0)
        order = sorted(range(vocab), key=lambda token: (-p[token], token))
        return [(token, float(p[token])) for token in order]

    return confidences


def kept_paths(tree):
    return [
        tuple(int(tree.token_ids[node]) for node in tree.path(node)[1:])
        for node in range(1, len(tree.token_ids))
    ]


@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 4),
    depth=st.integers(1, 4),
    draft_tokens=st.integers(1, 30),
    ties=st.booleans(),
    by_value=st.booleans(),
    rerank=st.booleans(),
)
def test_expand_and_rerank_follow_the_paper(seed, k, depth, draft_tokens, ties, by_value, rerank):
    """Also without values and without rerank, as in the ablations of its Table 3."""
    confidences = confidences_from(seed, vocab=5, ties=ties)
    draft_tokens = min(draft_tokens, k + (depth - 1) * k * k)
    config = Eagle2Options(
        draft_tokens=draft_tokens, depth=depth, tree_top_k=k, expand_by_value=by_value, rerank=rerank
    )
    # The base of the logarithm is free: to base 2 the sums of powers of two are as exact as their products,
    # so that both sides see the same ties.
    log = np.log2 if ties else np.log
    tree = grow_tree(7, config, draft_from(confidences, k, log), max_depth=99)
    expected = reference.eagle2_tree(confidences, k, depth, draft_tokens, by_value, rerank)
    np.testing.assert_allclose(tree.log_values[1:], [log(value) for _, value in expected], atol=1e-12)
    assert kept_paths(tree) == [path for path, _ in expected]
    assert tree.token_ids[0] == 7


@given(
    data=st.data(),
    k=st.integers(1, 4),
    depth=st.integers(1, 4),
    precision=st.sampled_from([1, 2, 23]),
    parts=st.tuples(st.booleans(), st.booleans()),
)
def test_every_tree_is_ancestor_closed_under_ties_in_every_precision(data, k, depth, precision, parts):
    """L5: with scores rounded to a few bits nearly everything ties; parents still come too."""
    levels = st.sampled_from([0.0, -0.5, -1.0, -np.inf])

    def rounding(values):
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(values), np.round(values * precision) / precision, values)

    def draft(frontier, _k):
        rows = 1 if frontier is None else len(frontier.token_ids)
        logs = np.array([sorted((data.draw(levels) for _ in range(k)), reverse=True) for _ in range(rows)])
        return np.tile(np.arange(k), (rows, 1)), logs

    config = Eagle2Options(
        draft_tokens=min(6, k + (depth - 1) * k * k),
        depth=depth,
        tree_top_k=k,
        expand_by_value=parts[0],
        rerank=parts[1],
    )
    tree = grow_tree(0, config, draft, max_depth=99, rounding=rounding)
    # DraftTree itself asserts that parents stand before children; kept values never rise downwards.
    assert all(
        tree.log_values[node] <= tree.log_values[tree.parents[node]] for node in range(1, len(tree.parents))
    )
    assert tree.num_draft_tokens <= config.draft_tokens


@given(seed=st.integers(0, 10**6), size=st.integers(1, 5))
def test_no_connected_set_of_the_same_size_is_worth_more(seed, size):
    confidences = confidences_from(seed, vocab=3, ties=False)
    whole = grow_tree(
        0, Eagle2Options(draft_tokens=6, depth=2, tree_top_k=2), draft_from(confidences, 2), max_depth=9
    )
    best = grow_tree(
        0, Eagle2Options(draft_tokens=size, depth=2, tree_top_k=2), draft_from(confidences, 2), max_depth=9
    )
    values = np.exp(whole.log_values)
    rivals = [sum(values[list(chosen)]) for chosen in reference.connected_sets(whole.parents, size)]
    assert np.exp(best.log_values[1:]).sum() == pytest.approx(max(rivals))


@given(seed=st.integers(0, 10**6), size=st.integers(1, 10), more=st.integers(0, 10))
def test_a_tree_can_show_what_was_dropped(seed, size, more):
    config = Eagle2Options(depth=3, tree_top_k=3, draft_tokens=size)
    tree = grow_tree(9, config, draft_from(confidences_from(seed, 4, False), 3), max_depth=9)
    larger = tree.best(size + more)
    assert larger.num_draft_tokens == size + more
    assert set(kept_paths(tree)) <= set(kept_paths(larger))
    dropped = set(kept_paths(larger)) - set(kept_paths(tree))
    values = dict(zip(kept_paths(larger), larger.log_values[1:], strict=True))
    assert all(values[path] <= min(tree.log_values) for path in dropped)


def test_the_worked_example_of_the_documentation():
    """docs/algorithm.md, section 2: K = 2, three levels, five tokens kept."""
    below = {
        (): [("a", 0.6), ("b", 0.3)],
        ("a",): [("c", 0.7), ("d", 0.2)],
        ("b",): [("e", 0.9), ("f", 0.05)],
        ("a", "c"): [("g", 0.5), ("h", 0.4)],
        ("b", "e"): [("i", 0.8), ("j", 0.1)],
    }

    def confidences(path):
        return [(ord(token), p) for token, p in below[tuple(map(chr, path))]]

    config = Eagle2Options(draft_tokens=5, depth=3, tree_top_k=2)
    tree = grow_tree(0, config, draft_from(confidences, 2), max_depth=9)
    assert "".join(map(chr, tree.token_ids[1:])) == "abcei"
    assert tree.parents.tolist() == [-1, 0, 0, 1, 2, 4]
    assert tree.depths.tolist() == [0, 1, 1, 2, 2, 3]
    assert list(tree.leaf_paths()) == [[0, 1, 3], [0, 2, 4, 5]]
    np.testing.assert_allclose(np.exp(tree.log_values), [1, 0.6, 0.3, 0.42, 0.27, 0.216])


def test_stop_tokens_are_kept_but_never_expanded():
    confidences = confidences_from(3, vocab=4, ties=False)
    stop = confidences(())[0][0]
    config = Eagle2Options(draft_tokens=12, depth=3, tree_top_k=3)
    tree = grow_tree(0, config, draft_from(confidences, 3), max_depth=9, terminal=[stop])
    ends = [node for node in range(1, len(tree.token_ids)) if tree.token_ids[node] == stop]
    assert ends
    assert not set(ends) & set(tree.parents.tolist())


@pytest.mark.parametrize("rerank", [True, False])
def test_not_a_number_is_an_error(rerank):
    def draft(frontier, _k):
        return np.array([[0]]), np.array([[np.nan]])

    config = Eagle2Options(draft_tokens=1, depth=1, tree_top_k=1, rerank=rerank)
    with pytest.raises(FloatingPointError, match="not a number"):
        grow_tree(0, config, draft, max_depth=1)


@pytest.mark.parametrize("max_depth", [0, 1, 2, 5])
def test_the_context_bounds_the_depth(max_depth):
    confidences = confidences_from(1, vocab=4, ties=False)
    config = Eagle2Options(draft_tokens=20, depth=4, tree_top_k=3)
    tree = grow_tree(0, config, draft_from(confidences, 3), max_depth=max_depth)
    assert tree.depth == min(4, max_depth)


@pytest.mark.parametrize(
    "sizes",
    [{"draft_tokens": 0}, {"depth": 0}, {"tree_top_k": 0}, {"draft_tokens": 11, "depth": 2, "tree_top_k": 2},
     {"score_precision": "half"}],
    ids=str,
)  # fmt: skip
def test_impossible_trees_are_refused(sizes):
    with pytest.raises(ConfigError):
        Eagle2Options(**sizes)


@pytest.mark.parametrize("given", [{"draft_sampling": "none"}, {"tree": "wide"}, {"lookup": 1}], ids=str)
def test_impossible_policies_are_refused(given):
    with pytest.raises(ConfigError):
        TreeOptions(**given)


CHOICES = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 0)]
shapes = st.sampled_from([CHOICES, EAGLE_TREE])


@given(
    shape=shapes,
    seed=st.integers(0, 10**6),
    max_depth=st.integers(1, 6),
    stops=st.sets(st.integers(0, 4), max_size=2),
    vocab=st.integers(1, 5),
)
def test_static_trees_take_the_named_ranks(shape, seed, max_depth, stops, vocab):
    """Every named node is there, but those below the context, a stop token, or what the draft cannot give."""
    confidences = confidences_from(seed, vocab, ties=False)
    draft = draft_from(confidences, 4)
    passes = []

    def counted(frontier, k):
        passes.append(0 if frontier is None else len(frontier.token_ids))
        return draft(frontier, k)

    tree = grow_static(9, shape, counted, max_depth=max_depth, terminal=stops)
    expected, values = [], []
    for ranks in shape:
        path, value = (), 1.0
        for rank in ranks:
            below = confidences(path)
            if len(ranks) > max_depth or rank >= len(below) or stops & {*path}:
                break
            path, value = (*path, below[rank][0]), value * below[rank][1]
        else:
            expected.append(path)
            values.append(value)
    assert kept_paths(tree) == expected
    np.testing.assert_allclose(np.exp(tree.log_values[1:]), values, atol=1e-12)
    parents = {(): 0} | {path: node for node, path in enumerate(expected, start=1)}
    assert tree.parents[1:].tolist() == [parents[path[:-1]] for path in expected]
    named = [ranks for ranks in shape if len(ranks) < max_depth]
    most = {
        depth: sum(len(r) == depth and any(s[:-1] == r for s in shape) for r in named) for depth in range(7)
    }
    assert all(count <= most[depth] for depth, count in enumerate(passes) if depth), "only what has children"


def test_eagles_tree_is_the_papers():
    assert len(EAGLE_TREE) == len(set(EAGLE_TREE)) == 25
    assert [sum(len(node) == depth for node in EAGLE_TREE) for depth in range(1, 6)] == [4, 8, 8, 3, 2]
    leaves = [node for node in EAGLE_TREE if not any(other[:-1] == node for other in EAGLE_TREE)]
    assert len(leaves) == 15
    for node in EAGLE_TREE:
        assert node[:-1] in {(), *EAGLE_TREE}, "with a node its parent"
        assert not node[-1] or (*node[:-1], node[-1] - 1) in EAGLE_TREE, "and its better sibling"


def test_a_static_tree_refuses_what_is_not_a_number():
    with pytest.raises(FloatingPointError, match="not a number"):
        grow_static(0, CHOICES, lambda *_: (np.array([[1, 2]]), np.array([[np.nan, -1.0]])), max_depth=3)


@given(parents=parent_lists)
def test_the_mask_is_the_transitive_closure_of_parents(parents):
    mask = ancestor_mask(parents)
    for node in range(len(parents)):
        ancestors, at = {node}, node
        while (at := parents[at]) >= 0:
            ancestors.add(at)
        assert set(np.flatnonzero(mask[node])) == ancestors
        assert node_depths(parents)[node] == len(ancestors) - 1


def test_chains_and_roots():
    assert root_only(4).num_draft_tokens == 0
    line = chain(4, [5, 6])
    assert line.parents.tolist() == [-1, 0, 1]
    assert list(line.leaf_paths()) == [[0, 1, 2]]


@given(values=st.lists(st.sampled_from([0.0, -1.0, -2.0, -np.inf]), min_size=1), count=st.integers(1, 12))
def test_best_of_breaks_ties_by_index(values, count):
    finite = [i for i in range(len(values)) if np.isfinite(values[i])]
    expected = sorted(finite, key=lambda i: (-values[i], i))[:count]
    assert best_of(np.array(values), count) == sorted(expected)
