"""Isotonic regression, by what defines it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.engine.isotonic import isotonic

values = st.lists(st.floats(-100, 100), max_size=12)


@given(values=values, data=st.data())
def test_nothing_that_never_falls_is_closer(values, data):
    """Among sequences made by small moves from the result, and those made of the values themselves."""
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(values), max_size=len(values)))
    got = np.array(isotonic(values, weights))
    assert len(got) == len(values)
    if not values:
        return
    assert (np.diff(got) >= -1e-9).all()

    def distance(other):
        return float(np.sum(np.array(weights) * (np.array(values) - other) ** 2))

    rng = np.random.default_rng(0)
    others = [np.maximum.accumulate(values), np.minimum.accumulate(values[::-1])[::-1]]
    others += [np.sort(got + rng.normal(size=len(got)) * size) for size in (0.01, 0.1, 1) for _ in range(5)]
    assert all(distance(got) <= distance(other) + 1e-6 for other in others)


@pytest.mark.parametrize(
    ("values", "weights", "wanted"),
    [
        ([1, 2, 3], None, [1, 2, 3]),
        ([3, 1, 2], None, [2, 2, 2]),
        ([1, 9, 2, 4, 5], None, [1, 5, 5, 5, 5]),
        ([4, 1], [1, 3], [1.75, 1.75]),
        ([], None, []),
    ],
    ids=str,
)
def test_small_ones_by_hand(values, weights, wanted):
    assert isotonic(values, weights) == wanted
