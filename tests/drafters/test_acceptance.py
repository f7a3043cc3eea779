"""Maps from confidence to acceptance rate: monotone whatever was seen, and right when enough was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.acceptance import KNOTS, AcceptanceMap, Observation, observed
from eyas.engine.tree import DraftTree
from eyas.engine.verification import Cycle
from eyas.errors import DataError

maps = st.lists(st.floats(0, 1), min_size=2, max_size=6).map(
    lambda rates: AcceptanceMap(
        confidence=tuple(np.linspace(0, 1, 1 + len(rates))), rate_by_depth=((0.0, *sorted(rates)),)
    )
)


@given(mapped=maps, depth=st.integers(1, 9), p=st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_an_acceptance_map_keeps_the_order_of_siblings(mapped, depth, p):
    with np.errstate(divide="ignore"):
        logs = np.log(np.array([sorted(p, reverse=True)]))
    [rates] = np.exp(mapped(logs, depth))
    assert all(np.diff(rates) <= 0)
    assert rates.max() <= 1


@pytest.mark.parametrize(
    "broken",
    [
        ((0.0, 0.5), ((0.0, 0.5),)),
        ((0.0, 0.6, 0.5, 1.0), ((0.0, 0.1, 0.2, 0.3),)),
        ((0.0, 1.0), ()),
        ((0.0, 1.0), ((0.1, 0.5),)),
        ((0.0, 1.0), ((0.0, 1.5),)),
        ((0.0, 0.5, 1.0), ((0.0, 0.5, 0.4),)),
        ((0.0, 0.5, 1.0), ((0.0, 0.5),)),
    ],
)
def test_impossible_maps_are_refused(broken):
    with pytest.raises(DataError):
        AcceptanceMap(*broken)


observations = st.builds(
    Observation, depth=st.integers(1, 3), confidence=st.floats(0, 1), accepted=st.booleans()
)


@given(seen=st.lists(observations, max_size=60))
def test_any_observations_give_a_valid_map(seen):
    """AcceptanceMap itself asserts that rates do not fall and lie in 0..1."""
    fitted = AcceptanceMap.fit(seen)
    assert len(fitted.rate_by_depth) == max((node.depth for node in seen), default=1)


def test_nothing_seen_is_the_identity():
    assert AcceptanceMap.fit([]).rate_by_depth == (KNOTS,)


def test_a_head_that_is_too_sure_is_found_out():
    """Nodes of confidence c are accepted at rate c^2 on level 1, and at c on level 2."""
    rng = np.random.default_rng(0)
    seen = []
    for depth, power in ((1, 2), (2, 1)):
        confidences = rng.random(20_000)
        accepted = rng.random(20_000) < confidences**power
        seen += [Observation(depth, float(c), bool(a)) for c, a in zip(confidences, accepted, strict=True)]
    fitted = AcceptanceMap.fit(seen)
    p = np.array([[0.1, 0.35, 0.75, 0.92]])
    np.testing.assert_allclose(np.exp(fitted(np.log(p), 1)), p**2, atol=0.03)
    np.testing.assert_allclose(np.exp(fitted(np.log(p), 2)), p, atol=0.03)


def test_a_cycle_tells_of_the_children_of_its_path():
    """Root, two children, two grandchildren each; the first child was accepted and none of its own."""
    tree = DraftTree(
        token_ids=np.arange(7),
        parents=np.array([-1, 0, 0, 1, 1, 2, 2]),
        log_values=np.log([1.0, 0.5, 0.4, 0.25, 0.1, 0.2, 0.1]),
    )
    seen = observed(Cycle(tree, path=[0, 1], token_ids=[1, 99]))
    assert [(node.depth, round(node.confidence, 6), node.accepted) for node in seen] == [
        (1, 0.5, True),
        (1, 0.4, False),
        (2, 0.5, False),
        (2, 0.2, False),
    ]
