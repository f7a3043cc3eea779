"""Trees of measured size: connected, replayable, and never much slower than plain decoding."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.policy.budget import (
    CREDIT_GROWTH,
    FIRST_CREDIT,
    FIRST_WORTH,
    LEAST_GAIN,
    Budget,
    Prices,
    Purse,
)
from eyas.drafters.policy.candidates import new_candidates
from eyas.drafters.policy.copies import NOTHING, Copied
from eyas.drafters.policy.expansion import Expansion
from eyas.engine.costs import MAX_ROWS, CostTable
from eyas.engine.load import Load, share_cycle
from eyas.engine.tree import root_only
from eyas.errors import DataError
from fake import AUTO, FAST, FREE, SLOW

milliseconds = st.floats(0.01, 50)
tables = st.builds(
    CostTable,
    verify_ms=st.lists(milliseconds, min_size=3, max_size=3).map(
        lambda ms: tuple(zip((1, 8, 64), ms, strict=True))
    ),
    draft_ms=st.tuples(milliseconds, milliseconds).map(lambda ms: ((1, ms[0]), (10, ms[1]))),
    root_ms=milliseconds,
    pair_ms=st.floats(0, 5),
    overhead_ms=st.floats(0, 1),
    context=st.just(256),
    attend_ms=st.floats(0, 0.01),
)


def drafting(rng, sharpness, k=10):
    """A draft callback of random confidences, most confident first."""

    def draft(frontier):
        rows = 1 if frontier is None else len(frontier.token_ids)
        p = -np.sort(-rng.dirichlet(np.full(2 * k, sharpness), size=rows))[:, :k]
        with np.errstate(divide="ignore"):
            return np.tile(np.arange(k), (rows, 1)), np.log(p)

    return draft


def cycle(budget, rng, *, sharpness=0.2, max_depth=99, context=None, copied=NOTHING):
    growth = budget.open(context=context, copied=copied)
    if growth is None:
        return root_only(3)
    return budget.grow(
        3, growth, Expansion(new_candidates(AUTO.tree_top_k)), drafting(rng, sharpness), max_depth=max_depth
    )


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


chains = st.lists(st.tuples(st.integers(0, 9), st.floats(0.05, 0.98)), max_size=12).map(
    lambda chain: Copied([token for token, _ in chain], [rate for _, rate in chain])
)


@given(
    table=tables,
    seed=st.integers(0, 10**6),
    cycles=st.lists(st.tuples(chains, st.integers(0, 12)), max_size=40),
)
def test_copies_keep_every_limit(table, seed, cycles):
    """Connected (asserted by DraftTree), falling values, no more rows than there may be, and the credit."""
    budget, rng = Budget(table, AUTO), np.random.default_rng(seed)
    spent = tokens = 0
    for copied, outcome in cycles:
        tree = cycle(budget, rng, copied=copied)
        assert len(tree.token_ids) <= MAX_ROWS
        assert tree.depth <= max(AUTO.depth, len(copied.token_ids))
        for node in range(1, len(tree.parents)):
            assert tree.log_values[node] <= tree.log_values[tree.parents[node]]
        credit = FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(tokens)
        emitted = 1 + min(outcome, tree.depth)
        budget.settle(emitted)
        spent, tokens = spent + budget._spent, tokens + emitted
        assert spent <= table.plain * (tokens + credit) * (1 + 1e-9)


def never(frontier):
    raise AssertionError("the draft is not asked")


@pytest.mark.parametrize("table", [FAST, SLOW], ids=["fast", "slow"])
def test_beside_a_sure_copy_the_draft_is_not_asked(table):
    copied = Copied([5, 6, 7, 8], [0.98] * 4)
    budget = Budget(table, AUTO)
    growth = budget.open(copied=copied)
    tree = budget.grow(3, growth, Expansion(new_candidates(10)), never, max_depth=99)
    expected = [3, 5, 6, 7, 8] if table is FAST else [3, 5, 6]  # of dear rows fewer
    assert tree.token_ids.tolist() == expected


def test_beside_a_doubtful_copy_the_draft_is_asked():
    tree = cycle(Budget(FAST, AUTO), np.random.default_rng(0), copied=Copied([50, 51], [0.2, 0.3]))
    assert {*tree.token_ids[1:].tolist()} - {50, 51}


def test_a_copy_serves_where_drafting_does_not_pay():
    dear_draft = replace(SLOW, verify_ms=((1, 20.0), (64, 21.0)), root_ms=15.0)
    budget, rng = Budget(dear_draft, AUTO), np.random.default_rng(0)
    while budget.open() is not None:
        cycle(budget, rng)
        budget.settle(1)
    growth = budget.open(copied=Copied([5, 6], [0.9, 0.9]))
    tree = budget.grow(3, growth, Expansion(new_candidates(10)), never, max_depth=99)
    assert tree.token_ids.tolist() == [3, 5, 6]


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


def company(count, rows=6):
    """The load of one sequence among `count` others that bring so many rows each."""
    loads = [Load(rows=rows, tokens=1.8, draft_ms=1.0) for _ in range(count + 1)]
    share_cycle(loads)
    return loads[0]


def test_trees_shrink_as_the_load_grows():
    def mean_size(count):
        rng = np.random.default_rng(2)
        trees = [cycle(Budget(FAST, AUTO, company(count)), rng, sharpness=0.1) for _ in range(40)]
        return np.mean([tree.num_draft_tokens for tree in trees])

    alone, two, three, eight, many = (mean_size(count) for count in (0, 1, 2, 7, 31))
    assert alone > two > three > eight >= many
    assert eight < alone / 2


def test_among_many_nothing_is_tried_on_credit():
    """Where a share of a full pass is cheaper than a first level, not even the first cycle drafts."""

    def among(count):
        loads = [Load() for _ in range(count)]
        share_cycle(loads)
        return Budget(FAST, AUTO, loads[0]).open()

    assert among(1) is not None
    assert among(2) is not None
    assert among(16) is None


def test_in_company_reading_is_paid_by_the_cycles_that_were_let_pass():
    """Alone a sequence draws on its credit; in company it first lets cycles pass that would have saved it."""
    alone, costly = Budget(FAST, AUTO), 100
    assert alone.open(waiting=costly) is not None
    budget = Budget(FAST, AUTO, company(1, rows=1))
    prices = Prices.of(FAST, company(1, rows=1))
    first_level = FAST.root_ms + prices.cycle[1] - prices.cycle[0]
    saving = prices.saving(FIRST_WORTH, FAST.root_ms) - LEAST_GAIN * first_level
    aside = math.ceil((FAST.reading(costly) / saving - 1) * 2)  # of what is missed, half is its share
    assert aside > 2
    opened = [budget.open(waiting=costly) is not None for _ in range(aside + 2)]
    assert opened == [False] * aside + [True, False], "what was saved up is spent by reading"
    assert budget.open(waiting=1) is not None, "one pair is in the price of every level below the root"


@given(table=tables, seed=st.integers(0, 10**6), outcomes=st.lists(st.integers(0, 8), max_size=20))
def test_a_sequence_alone_decides_as_if_nothing_were_shared(table, seed, outcomes):
    assert Prices.of(table, Load()) == Prices(table.cycle)

    def trees(budget):
        rng = np.random.default_rng(seed)
        for outcome in outcomes:
            tree = cycle(budget, rng)
            budget.settle(1 + min(outcome, tree.depth))
            yield tree.token_ids.tolist(), tree.parents.tolist()

    left_alone = Load()
    share_cycle([left_alone])
    assert list(trees(Budget(table, AUTO))) == list(trees(Budget(table, AUTO, left_alone)))


@given(table=tables, count=st.integers(1, 40), rows=st.integers(1, 64))
def test_prices_add_up_to_the_whole_cycle(table, count, rows):
    """However a cycle's time is split, it is that of one pass over all rows, and of all the work beside."""
    prices = Prices.of(table, company(count, rows))
    for more in (0, 1, 63):
        whole = table.verify(1 + count * rows + more) + (1 + count) * table.overhead_ms + count * 1.0
        assert prices.other_ms + prices.cycle[more] == pytest.approx(whole)
    assert list(prices.cycle) == sorted(prices.cycle)
    nobody_drafts = table.verify(1 + count) / (1 + count) + table.overhead_ms
    assert prices.cycle[0] == pytest.approx(nobody_drafts)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 64), st.floats(1, 9), st.floats(0, 50)), max_size=30
    )
)
def test_a_company_is_the_sum_of_its_loads(changes):
    loads = [Load() for _ in range(5)]
    share_cycle(loads)
    for at, rows, tokens, draft_ms in changes:
        loads[at].bring(rows, tokens)
        loads[at].spend(draft_ms)
    company = loads[0].company
    assert company.rows == sum(load.rows for load in loads)
    assert company.tokens == pytest.approx(sum(load.tokens for load in loads))
    assert company.draft_ms == pytest.approx(sum(load.draft_ms for load in loads), abs=1e-9)


@given(
    table=tables,
    count=st.integers(1, 10),
    seed=st.integers(0, 10**6),
    outcomes=st.lists(st.integers(0, 8), max_size=40),
)
def test_among_others_too_time_exceeds_plain_decodings_by_the_credit_at_most(table, count, seed, outcomes):
    budget, rng = Budget(table, AUTO, company(count)), np.random.default_rng(seed)
    spent = tokens = 0
    for outcome in outcomes:
        tree = cycle(budget, rng)
        credit = FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(tokens)
        emitted = 1 + min(outcome, tree.depth)
        budget.settle(emitted)
        spent, tokens = spent + budget._spent, tokens + emitted
        assert spent <= budget._purse.plain * (tokens + credit) * (1 + 1e-9)


@given(
    table=tables,
    count=st.integers(0, 10),
    values=st.lists(st.floats(0, 1), min_size=1, max_size=3).map(lambda found: sorted(found, reverse=True)),
)
def test_what_a_level_saves_is_the_time_of_its_tokens_without_it(table, count, values):
    """With as many nodes as are best: expected tokens at plain decoding's rate, less what the cycle takes."""
    prices = Prices.of(table, company(count))
    plain = (prices.other_ms + prices.cycle[0]) / (1 + prices.other_tokens)
    savings = []
    for nodes in range(1, len(values) + 1):
        tokens = 1 + prices.other_tokens + sum(values[:nodes])
        savings.append(tokens * plain - (prices.other_ms + prices.cycle[nodes] + 0.7))
    assert prices.saving(values, 0.7) == pytest.approx(max(savings), abs=1e-9)


def test_costs_go_on_beyond_the_table():
    assert FAST.verify(MAX_ROWS) == 20.0
    assert FAST.verify(MAX_ROWS + 100) == pytest.approx(20.0 + 100 * (20.0 - 11.0) / 32)
    steady = (4.1 - 4.0) / 63
    assert FREE.verify(1000) == pytest.approx(4.1 + (1000 - MAX_ROWS) * steady)
    lucky = CostTable(
        verify_ms=((1, 4.0), (48, 20.0), (64, 20.0)),
        draft_ms=((1, 1.0),),
        root_ms=0,
        pair_ms=0,
        overhead_ms=0,
    )
    assert lucky.verify(128) > lucky.verify(64) + 10, "one lucky measurement does not make rows free"


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
    assert FAST.levels[0] == 0.3
    assert FAST.levels[9] == 0.5


def test_a_measurement_too_dear_is_mended_by_its_neighbours():
    table = CostTable(
        verify_ms=((1, 4.0), (2, 9.0), (3, 5.0), (4, 4.0), (5, 8.0), (64, 90.0)),
        draft_ms=((1, 1.0),),
        root_ms=0,
        pair_ms=0,
        overhead_ms=0,
    )
    assert table.cycle[:5] == pytest.approx((4.0, 6.0, 6.0, 6.0, 8.0))


@given(table=tables, context=st.integers(0, 4000), more=st.integers(0, 2000))
def test_rows_grow_dearer_with_the_context_and_plain_decoding_with_them(table, context, more):
    assert table.at(256) == table
    near, far = table.at(context), table.at(context + more)
    assert far is table.at(context + more), "made once"
    assert all(0 < low <= high for low, high in zip(near.cycle, far.cycle, strict=True))
    assert list(far.cycle) == sorted(far.cycle)
    assert far.levels == table.levels
    if context >= 256:
        for rows, ms in table.verify_ms:
            beyond = dict(near.verify_ms)[rows] - ms
            assert beyond == pytest.approx(rows * table.attend_ms * (near.context - 256))


def test_trees_shrink_as_the_context_grows():
    table = replace(FAST, context=256, attend_ms=2e-4)

    def drafted(context):
        rng = np.random.default_rng(0)
        return [cycle(Budget(table, AUTO), rng, context=context).num_draft_tokens for _ in range(40)]

    near, far = np.mean(drafted(256)), np.mean(drafted(4096))
    assert 1 < far < near - 2
    assert drafted(256) == drafted(None), "None is what the table was measured behind"


@pytest.mark.parametrize(
    "key", ["verify_ms", "draft_ms", "root_ms", "pair_ms", "overhead_ms", "context", "attend_ms"]
)
def test_broken_tables_are_refused(key):
    document = FAST.to_dict()
    for value in (None, "x", [[2, 1.0]], [[1, -1.0]], -1):
        with pytest.raises(DataError):
            CostTable.from_dict(document | {key: value})
    del document[key]
    with pytest.raises(DataError):
        CostTable.from_dict(document)
