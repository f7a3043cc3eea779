"""Trees of measured size: connected, replayable, and never much slower than plain decoding."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.budget import CREDIT_GROWTH, FIRST_CREDIT, Budget, Purse
from eyas.costs import MAX_ROWS, CostTable
from eyas.errors import DataError
from eyas.expansion import Expansion
from eyas.tree import root_only
from fake import AUTO, FAST, SLOW

milliseconds = st.floats(0.01, 50)
tables = st.builds(
    CostTable,
    verify_ms=st.lists(milliseconds, min_size=3, max_size=3).map(
        lambda ms: tuple(zip((1, 8, 64), ms, strict=True))
    ),
    draft_ms=st.tuples(milliseconds, milliseconds).map(lambda ms: ((1, ms[0]), (10, ms[1]))),
    root_ms=milliseconds,
    overhead_ms=st.floats(0, 1),
)


def drafting(rng, sharpness, k=10):
    """A draft callback of random confidences, most confident first."""

    def draft(frontier):
        rows = 1 if frontier is None else len(frontier.token_ids)
        p = -np.sort(-rng.dirichlet(np.full(2 * k, sharpness), size=rows))[:, :k]
        with np.errstate(divide="ignore"):
            return np.tile(np.arange(k), (rows, 1)), np.log(p)

    return draft


def cycle(budget, rng, *, sharpness=0.2, max_depth=99):
    growth = budget.open()
    if growth is None:
        return root_only(3)
    return budget.grow(3, growth, Expansion(AUTO.tree_top_k), drafting(rng, sharpness), max_depth=max_depth)


@given(table=tables, seed=st.integers(0, 10**6), sharpness=st.sampled_from([0.02, 0.2, 1.0]))
def test_trees_are_connected_and_within_their_limits(table, seed, sharpness):
    """DraftTree asserts that parents stand before their children; values never rise downwards (L5)."""
    rng = np.random.default_rng(seed)
    tree = cycle(Budget(table, AUTO), rng, sharpness=sharpness)
    assert len(tree.token_ids) <= MAX_ROWS
    assert tree.depth <= AUTO.depth
    for node in range(1, len(tree.parents)):
        assert tree.log_values[node] <= tree.log_values[tree.parents[node]]


@given(table=tables, seed=st.integers(0, 10**6), outcomes=st.lists(st.integers(0, 8), max_size=60))
def test_time_exceeds_plain_decodings_by_the_credit_at_most(table, seed, outcomes):
    """Whatever is accepted: by the table, no answer is much slower than plain decoding."""
    budget, rng = Budget(table, AUTO), np.random.default_rng(seed)
    spent = tokens = 0
    for outcome in outcomes:
        tree = cycle(budget, rng)
        credit = FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(tokens)
        emitted = 1 + min(outcome, tree.depth)
        budget.settle(emitted)
        spent, tokens = spent + budget._spent, tokens + emitted
        assert spent <= table.plain * (tokens + credit) * (1 + 1e-9)


@given(table=tables, seed=st.integers(0, 10**6), outcomes=st.lists(st.integers(0, 8), max_size=30))
def test_a_replay_decides_the_same(table, seed, outcomes):
    def trees():
        budget, rng = Budget(table, AUTO), np.random.default_rng(seed)
        for outcome in outcomes:
            tree = cycle(budget, rng)
            budget.settle(1 + min(outcome, tree.depth))
            yield tree.token_ids.tolist(), tree.parents.tolist()

    assert list(trees()) == list(trees())


def failures(table, tokens):
    """An answer whose drafts are never accepted: which cycles drafted, and its time."""
    budget, rng, drafted, spent = Budget(table, AUTO), np.random.default_rng(0), [], 0.0
    for _ in range(tokens):
        cycle(budget, rng)
        budget.settle(1)
        drafted.append(budget._spent > table.plain)
        spent += budget._spent
    return drafted, spent


@pytest.mark.parametrize("table", [FAST, SLOW], ids=["fast", "slow"])
def test_drafting_that_never_pays_costs_three_percent_at_most(table):
    for tokens in (128, 256, 512):
        drafted, spent = failures(table, tokens)
        assert spent <= 1.03 * tokens * table.plain
    assert 0 < sum(drafted[256:]) <= sum(drafted[:256]) / 2, "tried again, at growing intervals"


def test_a_success_pays_for_the_next_tries():
    purse = Purse(plain=4.0)
    while purse.room > 6.0:
        purse.settle(1, 6.0)
    purse.settle(4, 6.0)
    assert purse.room > 6.0
    for _ in range(50):
        purse.settle(4, 6.0)
    assert purse.savings == 3 * 4.0, "long successes are forgotten"


def test_confident_drafts_get_deeper_trees():
    sizes = {}
    for sharpness in (0.02, 2.0):
        rng = np.random.default_rng(1)
        trees = [cycle(Budget(FAST, AUTO), rng, sharpness=sharpness) for _ in range(40)]
        sizes[sharpness] = np.mean([tree.depth for tree in trees])
    assert sizes[0.02] > 2 * sizes[2.0]


def test_dear_rows_make_small_trees():
    def mean_size(table):
        rng = np.random.default_rng(2)
        return np.mean([cycle(Budget(table, AUTO), rng).num_draft_tokens for _ in range(40)])

    assert mean_size(FAST) > 3 * mean_size(SLOW)


@given(depth=st.integers(0, 10))
def test_the_context_bounds_the_depth(depth):
    tree = cycle(Budget(FAST, AUTO), np.random.default_rng(0), sharpness=0.02, max_depth=depth)
    assert tree.depth <= depth


@given(table=tables)
def test_tables_survive_json_and_never_fall(table):
    again = CostTable.from_dict(table.to_dict())
    assert again == table
    assert again.digest == table.digest
    assert list(table.cycle) == sorted(table.cycle)
    assert len(table.cycle) == MAX_ROWS


def test_costs_lie_on_straight_lines():
    assert FAST.plain == pytest.approx(4.0)
    assert FAST.cycle[11] == pytest.approx(0.2 + (4.9 + 6.6) / 2)
    assert FAST.level(1) == 0.3
    assert FAST.level(10) == 0.5


@pytest.mark.parametrize("key", ["verify_ms", "draft_ms", "root_ms", "overhead_ms"])
def test_broken_tables_are_refused(key):
    document = FAST.to_dict()
    for value in (None, "x", [[2, 1.0]], [[1, -1.0]], -1):
        with pytest.raises(DataError):
            CostTable.from_dict(document | {key: value})
    del document[key]
    with pytest.raises(DataError):
        CostTable.from_dict(document)
