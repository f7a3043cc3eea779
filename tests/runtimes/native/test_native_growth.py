"""The compiled growth of a tree against its twin in Python: the same numbers, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas import _native
from eyas.drafters.policy.growth import Growth

SIZES = 24
values = st.lists(st.floats(0, 1), max_size=SIZES - 1).map(lambda found: sorted(found, reverse=True))
levels = st.lists(st.tuples(values, values.filter(lambda found: len(found) <= 10)), min_size=1, max_size=6)
ascending = st.lists(st.floats(0, 5), min_size=SIZES, max_size=SIZES).map(
    lambda steps: (0.01 + np.cumsum(steps)).tolist()
)


@given(
    cycle=ascending,
    levels=ascending,
    root_ms=st.floats(0, 10),
    room=st.floats(0, 200),
    most=st.integers(1, SIZES - 1),
    others=st.tuples(st.floats(0, 100), st.floats(0, 40)),
    copied=values,
    grown=levels,
)
def test_both_stop_at_the_same_size(cycle, levels, root_ms, room, most, others, copied, grown):
    given = (tuple(cycle), tuple(levels), root_ms, room, most, *others)
    compiled, twin = _native.Growth(*given), Growth(*given)
    for growth in (compiled, twin):
        growth.expect(copied)
    assert (compiled.size, compiled.time) == (twin.size, twin.time)
    assert compiled.begins(0.4, [0.6, 0.12, 0.05]) == twin.begins(0.4, [0.6, 0.12, 0.05])
    expanded = 0
    for found, frontier in grown:
        for growth in (compiled, twin):
            growth.add(found, expanded)
        assert (compiled.size, compiled.spent, compiled.time) == (twin.size, twin.spent, twin.time)
        with np.errstate(divide="ignore"):
            logs = np.log(frontier).tolist()
        assert compiled.wanted(logs, [0.6, 0.12, 0.05]) == twin.wanted(logs, [0.6, 0.12, 0.05])
        expanded = len(frontier)


def test_what_has_no_price_is_refused():
    with pytest.raises(ValueError, match="a time for each size"):
        _native.Growth([1.0, 2.0], [1.0], 0.0, 9.0, 2, 0.0, 0.0)
    growth = _native.Growth([1.0, 2.0], [1.0], 0.0, 9.0, 1, 0.0, 0.0)
    for refused in (lambda: growth.add([0.5], 2), lambda: growth.wanted([-0.1, -0.2], [0.5])):
        with pytest.raises(ValueError, match="a time for each number of nodes"):
            refused()
