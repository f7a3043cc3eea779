"""Trees built level by level, compiled and in Python, against a slow reference: equal to the last bit."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from eyas.drafters.acceptance import AcceptanceMap
from eyas.drafters.tree_builder import (
    NO_CHAIN,
    RANKS,
    CycleTimes,
    ExpectedChain,
    SizeCosts,
    TreeBuilder,
    TreeRules,
    TreeShape,
    unrounded,
)
from eyas.engine.tree import DraftTree
from eyas.models.compiled import native
from reference.candidates import BELOW_ROOT, Candidates
from reference.growth import Growth, grow_by_costs


def plain_builder(top_k, depth, terminal=(), *, chain=NO_CHAIN, costs=None, **rules):
    return TreeBuilder(TreeRules(top_k, terminal, **rules), depth, chain, costs)


def compiled_builder(top_k, depth, terminal=(), *, chain=NO_CHAIN, costs=None, **rules):
    return TreeRules(top_k, terminal, **rules).builder(depth, chain, costs)


BUILDERS = [plain_builder, *([compiled_builder] if native else [])]
each_builder = pytest.mark.parametrize("build", BUILDERS)


@dataclass(frozen=True)
class ExactMap(AcceptanceMap):
    """The same map with the C library's exp and log, whose last bits NumPy's may lack."""

    def __call__(self, log_confidences, depth):
        p = np.vectorize(math.exp)(log_confidences)
        rates = np.interp(p, self.knots, self.rates[min(depth, len(self.rates)) - 1])
        return np.vectorize(math.log)(np.maximum(rates, 1e-300))


def a_map(lines):
    """One line of rates per depth over evenly spaced knots."""
    return ExactMap(tuple(np.linspace(0, 1, 6)), tuple((0.0, *sorted(rates)) for rates in lines))


maps = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), min_size=5, max_size=5), min_size=1, max_size=3
).map(a_map)
chains = st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 0.99)), max_size=7).map(
    lambda pairs: ExpectedChain([token for token, _ in pairs], [rate for _, rate in pairs])
)


def children(rng, rows, k, ties):
    """(rows, k) random tokens and log confidences, most confident first; some are impossible."""
    p = rng.choice([1.5, 1.0, 0.5, 0.25, 0.0], size=(rows, k)) if ties else rng.random((rows, k)) ** 3
    with np.errstate(divide="ignore"):
        return rng.integers(0, 6, size=(rows, k)), np.log(-np.sort(-p))


def drafts(seed, k, ties):
    """Children of one level after the other, the same for all that expand as many nodes."""
    levels = [np.random.default_rng([seed, level]) for level in range(9)]

    def expand(frontier):
        rows = 1 if frontier is None else len(frontier[0])
        return children(levels.pop(0), rows, k, ties)

    return expand


def grow(builder, expand):
    """Levels until the builder ends the tree; what it expanded."""
    expanded, frontier = [], None
    while True:
        frontier = builder.step(*expand(frontier))
        if frontier is None:
            return expanded
        expanded.append([found.tolist() for found in frontier])


def assert_equal_trees(ours, wanted):
    for left, right in zip(ours, wanted, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@each_builder
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 5),
    top_k=st.integers(1, 5),
    depth=st.integers(1, 5),
    ties=st.booleans(),
    by_value=st.booleans(),
    terminal=st.sets(st.integers(0, 5), max_size=3),
    acceptance=st.one_of(st.none(), maps),
    chain=chains,
)
def test_fixed_trees_are_those_of_the_reference(
    build, seed, k, top_k, depth, ties, by_value, terminal, acceptance, chain
):
    chain = chain if by_value else NO_CHAIN
    candidates = Candidates(top_k, terminal, unrounded, by_value, acceptance)
    if chain.token_ids:
        candidates.expect(*chain)
    expand, parents, frontier, expanded = drafts(seed, k, ties), BELOW_ROOT, None, []
    for level in range(depth):
        candidates.grow(parents, *expand(frontier))
        parents, tokens, _, rows = candidates.frontier()
        if not parents or level == depth - 1:
            break
        frontier = [tokens, rows]
        expanded.append(frontier)
    builder = build(top_k, depth, terminal, by_value=by_value, acceptance=acceptance, chain=chain)
    assert grow(builder, drafts(seed, k, ties)) == expanded
    for count in (1, 4, 9, 1000):
        assert_equal_trees(builder.expanded(7, count), candidates.expanded(7, count))
    candidates.add_rest()
    for count in (1, 4, 9, 1000):
        assert_equal_trees(builder.finish(7, count), candidates.best(7, count))


SIZES = 24
ascending = st.lists(st.floats(0, 5), min_size=SIZES, max_size=SIZES).map(
    lambda steps: (0.01 + np.cumsum(steps)).tolist()
)


@each_builder
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(1, 5),
    depth=st.integers(1, 6),
    ties=st.booleans(),
    acceptance=st.one_of(st.none(), maps),
    chain=chains,
    cycle_ms=ascending,
    level_ms=ascending,
    root_ms=st.floats(0, 10),
    left_ms=st.floats(0, 200),
    most=st.integers(0, SIZES - 1),
    others=st.tuples(st.floats(0, 100), st.floats(0, 40)),
    drafts_too=st.booleans(),
)
def test_cost_aware_trees_are_those_of_the_reference(
    build, seed, top_k, depth, ties, acceptance, chain, cycle_ms, level_ms, root_ms, left_ms, most, others,
    drafts_too,
):  # fmt: skip
    """The same nodes, the same size, the same times and the same memory of what children were worth."""
    first_worth = np.tile(np.array([0.6, 0.12, 0.05]), (depth + 1, 1))
    assert first_worth.shape[1] == RANKS
    worth = first_worth.tolist()
    candidates = Candidates(top_k, (2,), confidence=acceptance)
    growth = Growth(cycle_ms, level_ms, root_ms, left_ms, most, *others)
    grow_by_costs(candidates, growth, worth, chain, drafts(seed, 4, ties), depth if drafts_too else 0)
    times = CycleTimes(cycle_ms, level_ms, root_ms)
    costs = SizeCosts(times, left_ms, most, *others, worth=first_worth)
    builder = build(top_k, depth, (2,), acceptance=acceptance, chain=chain, costs=costs)
    if drafts_too and builder.begins():
        grow(builder, drafts(seed, 4, ties))
    root_alone = np.array([7]), np.array([-1]), np.zeros(1)
    assert_equal_trees(builder.finish(7), candidates.best(7, growth.size) if growth.size else root_alone)
    assert (builder.spent_ms, builder.cycle_ms) == (growth.spent, growth.time)
    assert costs.worth.tolist() == worth


def shapes():
    """Sets of nodes by sibling ranks, closed towards the root and towards better siblings."""

    def closed(paths):
        nodes = set()
        for path in paths:
            for end in range(1, len(path) + 1):
                nodes |= {(*path[: end - 1], rank) for rank in range(path[end - 1] + 1)}
        return nodes

    ranks = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
    return st.lists(ranks, min_size=1, max_size=6).map(closed)


@each_builder
@given(shape=shapes(), seed=st.integers(0, 10**6), top_k=st.integers(1, 4), chain=chains)
def test_a_shape_confines_what_is_drafted_and_expanded(build, shape, seed, top_k, chain):
    """By definition (`reference.eagle2_tree`); a chain is no part of the shape, but keeps to the laws."""
    known = {}

    def confidences(path):
        rng = np.random.default_rng([seed, *path])
        p = np.sort(rng.dirichlet(np.full(5, 0.5)))[::-1][:4].tolist()
        return known.setdefault(path, [*zip(rng.permutation(6)[:4].tolist(), p, strict=True)])

    paths = [()]

    def expand(frontier):
        nonlocal paths
        if frontier is not None:
            tokens, rows = (found.tolist() for found in frontier)
            paths = [(*paths[row], token) for row, token in zip(rows, tokens, strict=True)]
        below = [confidences(path) for path in paths]
        tokens = np.array([[token for token, _ in row] for row in below])
        return tokens, np.log([[p for _, p in row] for row in below])

    builder = build(top_k, 4, shape=TreeShape(shape))
    grow(builder, expand)
    tree = DraftTree(*builder.finish(9, 1000))
    wanted = reference.eagle2_tree(confidences, top_k, 4, 1000, shape=shape)
    found = [tuple(tree.token_ids[tree.path(node)[1:]].tolist()) for node in range(1, len(tree.parents))]
    assert found == [path for path, _ in wanted]

    paths = [()]
    builder = build(top_k, 4, shape=TreeShape(shape), chain=chain)
    grow(builder, expand)
    tree = DraftTree(*builder.finish(9, 1000))
    assert tree.num_draft_tokens <= len(shape) + len(chain.token_ids)
    siblings = [*zip(tree.parents.tolist(), tree.token_ids.tolist(), strict=True)]
    assert len(set(siblings)) == len(siblings), "no token twice below one parent"


@given(log_confidence=st.floats(-800, 1), depth=st.integers(1, 3))
def test_maps_agree_with_numpys(log_confidence, depth):
    mapped = AcceptanceMap((0.0, 0.3, 1.0), ((0.0, 0.2, 0.9), (0.0, 0.0, 1.0)))
    clamped = np.array([[min(log_confidence, 0.0)]])
    expected = sum(mapped(clamped, level).item() for level in range(1, depth + 1))
    for build in BUILDERS:
        builder = build(1, depth, acceptance=mapped)
        for _ in range(depth):
            builder.step(np.array([[1]]), np.array([[log_confidence]]))
        assert builder.finish(0, depth)[2][-1] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@each_builder
def test_an_expected_token_that_the_draft_is_all_but_sure_of(build):
    """Its joint rate rounds to 1, and the siblings' share still has a logarithm."""
    for sure in (0.0, -5e-17, -1.1e-16, -1e-15):
        builder = build(2, 2, chain=ExpectedChain([5], [0.97]))
        frontier = builder.step(np.array([[5, 6]]), np.array([[sure, -40.0]]))
        assert frontier[0].tolist() == [5, 6]
        assert all(np.isfinite(builder.finish(0, 2)[2]))


@each_builder
def test_not_a_number_is_an_error(build):
    builder = build(2, 2)
    builder.step(np.array([[1, 2]]), np.array([[-1.0, -1.5]]))
    with pytest.raises(FloatingPointError, match="a confidence that is not a number"):
        builder.step(np.array([[1], [2]]), np.array([[-1.0], [np.nan]]))


@pytest.mark.skipif(native is None, reason="nothing is compiled")
def test_impossible_levels_are_refused():
    one, log = np.array([[1]]), np.array([[-1.0]])
    builder = native.TreeBuilder(native.TreeRules(2, [], True), 2)
    for tokens, logs in (
        (np.array([[1], [2]]), np.array([[-1.0], [-2.0]])),
        (one, np.zeros((1, 2))),
        (np.zeros((1, 0), np.int64), np.zeros((1, 0))),
    ):
        with pytest.raises(ValueError, match=r"a (confidence for each child|row of children for each node)"):
            builder.step(tokens, logs)
    builder.step(one, log)
    assert builder.step(one, log) is None
    with pytest.raises(ValueError, match="a row of children"):
        builder.step(one, log)  # the tree has ended
    with pytest.raises(ValueError, match="knots"):
        native.TreeRules(2, [], True, np.array([0.5, 1.0]), np.array([[0.0, 1.0]]))
    for first, count in (([0, 0], [1, 0]), ([2, 0], [1, 0]), ([1], [1, 0]), ([1, 0], [2, 0])):
        with pytest.raises(ValueError, match="child"):
            native.TreeRules(2, [], True, first_child=first, num_children=count)
    with pytest.raises(ValueError, match="a rate in"):
        native.TreeBuilder(native.TreeRules(2, [], True), 2, [1], [1.0])


@pytest.mark.skipif(native is None, reason="nothing is compiled")
def test_what_has_no_price_is_refused():
    worth = np.zeros((3, RANKS))
    for cycle, levels, most, means, message in (
        ([1.0, 2.0], [1.0, 2.0], 2, worth, "a time for each size"),
        ([1.0, 2.0], [1.0], 1, worth, "a time for each number"),
        ([1.0, 2.0], [1.0, 2.0], 1, worth[:2].copy(), "the worth of children"),
    ):
        builder = native.TreeBuilder(native.TreeRules(2, [], True), 2)
        with pytest.raises(ValueError, match=message):
            builder.size_by_costs(native.CycleTimes(cycle, levels, 0.0), 9.0, most, 0.0, 0.0, means)
