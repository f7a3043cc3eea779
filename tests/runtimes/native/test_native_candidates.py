"""The compiled candidates and sizes of draft trees against their twins in Python: equal to the last bit."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas import _native
from eyas.drafters.acceptance import AcceptanceMap
from eyas.drafters.candidates import BELOW_ROOT, Candidates, new_candidates, unrounded


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


def children(rng, rows, k, ties):
    """(rows, k) random tokens and log confidences, most confident first; some are impossible."""
    p = rng.choice([1.5, 1.0, 0.5, 0.25, 0.0], size=(rows, k)) if ties else rng.random((rows, k)) ** 3
    with np.errstate(divide="ignore"):
        return rng.integers(0, 6, size=(rows, k)), np.log(-np.sort(-p))


@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 5),
    top_k=st.integers(1, 5),
    depth=st.integers(0, 5),
    ties=st.booleans(),
    by_value=st.booleans(),
    terminal=st.sets(st.integers(0, 5), max_size=3),
    confidence=st.one_of(st.none(), maps),
    copied=st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 0.99)), max_size=7),
)
def test_both_grow_the_same_tree(seed, k, top_k, depth, ties, by_value, terminal, confidence, copied):
    rng = np.random.default_rng(seed)
    given = (top_k, terminal, unrounded, by_value, confidence)
    compiled, python = new_candidates(*given), Candidates(*given)
    assert isinstance(compiled, _native.Candidates)
    if by_value:
        for twin in (compiled, python):
            twin.expect([token for token, _ in copied], [rate for _, rate in copied])
    parents = BELOW_ROOT
    for _ in range(depth):
        tokens, logs = children(rng, len(parents), k, ties)
        compiled.grow(parents, tokens, logs)
        python.grow(parents, tokens, logs)
        assert compiled.newest_values() == python.newest_values()
        assert compiled.expected_values() == python.expected_values()
        frontier = python.frontier()
        assert compiled.frontier() == frontier
        parents = frontier[0][: rng.integers(1, top_k + 1)]  # a tree of measured size expands fewer
        if not parents:
            break
    for count in (1, 4, 9, 1000):
        assert_equal_arrays(compiled.expanded(7, count), python.expanded(7, count))
    compiled.add_rest()
    python.add_rest()
    for count in (1, 4, 9, 1000):
        assert_equal_arrays(compiled.best(7, count), python.best(7, count))


def assert_equal_arrays(theirs, ours):
    for left, right in zip(theirs, ours, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@given(log_confidence=st.floats(-800, 1), depth=st.integers(1, 3))
def test_maps_agree_with_numpys(log_confidence, depth):
    mapped = AcceptanceMap((0.0, 0.3, 1.0), ((0.0, 0.2, 0.9), (0.0, 0.0, 1.0)))
    candidates, parents = new_candidates(1, confidence=mapped), BELOW_ROOT
    for _ in range(depth):
        candidates.grow(parents, np.array([[1]]), np.array([[log_confidence]]))
        parents, _, _, _ = candidates.frontier()
    clamped = np.array([[min(log_confidence, 0.0)]])
    expected = sum(mapped(clamped, level).item() for level in range(1, depth + 1))
    _, _, log_values = candidates.best(0, depth)
    assert log_values[-1] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("twin", [new_candidates, Candidates])
def test_a_copy_that_the_draft_is_all_but_sure_of(twin):
    """Its joint rate rounds to 1, and the siblings' share still has a logarithm."""
    for sure in (0.0, -5e-17, -1.1e-16, -1e-15):
        candidates = twin(2)
        candidates.expect([5], [0.97])
        candidates.grow(BELOW_ROOT, np.array([[5, 6]]), np.array([[sure, -40.0]]))
        assert all(np.isfinite(candidates.newest_values()))
        assert candidates.frontier()[1] == [5, 6]


@pytest.mark.parametrize("twin", [new_candidates, Candidates])
def test_not_a_number_is_an_error(twin):
    candidates = twin(2)
    candidates.grow(BELOW_ROOT, np.array([[1, 2]]), np.array([[-1.0, -np.inf]]))
    with pytest.raises(FloatingPointError, match="a confidence that is not a number"):
        candidates.grow([0, 1], np.array([[1], [2]]), np.array([[-1.0], [np.nan]]))


def test_children_have_parents_in_the_newest_level():
    one, log = np.array([[1]]), np.array([[-1.0]])
    candidates = _native.Candidates(2, [], True)
    for parents in ([0], [-2]):
        with pytest.raises(ValueError, match="the root, or of the newest level"):
            candidates.grow(parents, one, log)
    candidates.grow([-1], one, log)
    candidates.grow([0], one, log)
    for parents in ([-1], [0], [2], [2**31 - 1]):
        with pytest.raises(ValueError, match="the root, or of the newest level"):
            candidates.grow(parents, one, log)
    for parents, tokens, logs in (
        ([1, 1], one, log),
        ([1], one, np.zeros((1, 2))),
        ([1], np.zeros((1, 0), np.int64), np.zeros((1, 0))),
    ):
        with pytest.raises(ValueError):
            candidates.grow(parents, tokens, logs)
    with pytest.raises(ValueError, match="knots"):
        _native.Candidates(2, [], True, np.array([0.5, 1.0]), np.array([[0.0, 1.0]]))


def test_views_of_arrays_serve_as_well():
    tokens, logs = np.arange(8).reshape(2, 4)[:, ::2], np.log(np.full((4, 2), 0.5)).T[:, :2]
    candidates, twin = new_candidates(4), Candidates(4)
    for grown in (candidates, twin):
        grown.grow(BELOW_ROOT, tokens[:1], logs[:1])
        grown.grow([0, 1], tokens, logs)
    assert candidates.frontier() == twin.frontier()
