"""Cost-aware trees: connected, replayable, and never much slower than plain decoding."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.expansion import grow
from eyas.drafters.policy.cost_aware import FIRST_WORTH, LEAST_GAIN, CostAwareTrees
from eyas.drafters.policy.time_budget import CREDIT_GROWTH, FIRST_CREDIT, SequenceCosts, TimeBudget
from eyas.drafters.ranked import TreeLimits
from eyas.drafters.tree_builder import NO_CHAIN, ExpectedChain, TreeRules
from eyas.engine.batch_cost import SequenceShare, begin_cycle
from eyas.engine.costs import MAX_ROWS, CostTable
from eyas.engine.tree import DraftTree, root_only
from eyas.errors import DataError
from fake import FAST, FREE, SLOW

LIMITS = TreeLimits()

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

    def draft(frontier, _):
        rows = 1 if frontier is None else len(frontier.token_ids)
        p = -np.sort(-rng.dirichlet(np.full(2 * k, sharpness), size=rows))[:, :k]
        with np.errstate(divide="ignore"):
            return np.tile(np.arange(k), (rows, 1)), np.log(p)

    return draft


def cycle(trees, rng, *, sharpness=0.2, max_depth=99, context=None, chain=NO_CHAIN, expand=None):
    """The tree of a cycle, as `eyas.drafters.policy.session` makes it."""
    costs = trees.begin(has_chain=bool(chain.token_ids), context=context)
    if costs is None:
        return root_only(3)
    builder = TreeRules(LIMITS.top_k).builder(min(LIMITS.depth, max_depth), chain, costs)
    if trees.may_draft and max_depth and builder.begins():
        grow(builder, expand or drafting(rng, sharpness), LIMITS.top_k)
    trees.spend(builder)
    return DraftTree(*builder.finish(3))


@given(table=tables, seed=st.integers(0, 10**6), sharpness=st.sampled_from([0.02, 0.2, 1.0]))
def test_trees_are_connected_and_within_their_limits(table, seed, sharpness):
    """DraftTree asserts that parents stand before their children; values never rise downwards (L5)."""
    rng = np.random.default_rng(seed)
    tree = cycle(CostAwareTrees(table, LIMITS), rng, sharpness=sharpness)
    assert len(tree.token_ids) <= MAX_ROWS
    assert tree.depth <= LIMITS.depth
    for node in range(1, len(tree.parents)):
        assert tree.log_values[node] <= tree.log_values[tree.parents[node]]


@given(table=tables, seed=st.integers(0, 10**6), outcomes=st.lists(st.integers(0, 8), max_size=60))
def test_time_exceeds_plain_decodings_by_the_credit_at_most(table, seed, outcomes):
    """Whatever is accepted: by the table, no answer is much slower than plain decoding."""
    trees, rng = CostAwareTrees(table, LIMITS), np.random.default_rng(seed)
    spent = tokens = 0
    for outcome in outcomes:
        tree = cycle(trees, rng)
        credit = FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(tokens)
        emitted = 1 + min(outcome, tree.depth)
        trees.end_cycle(emitted)
        spent, tokens = spent + trees.spent_ms, tokens + emitted
        assert spent <= table.plain * (tokens + credit) * (1 + 1e-9)


chains = st.lists(st.tuples(st.integers(0, 9), st.floats(0.05, 0.98)), max_size=12).map(
    lambda chain: ExpectedChain([token for token, _ in chain], [rate for _, rate in chain])
)


@given(
    table=tables,
    seed=st.integers(0, 10**6),
    cycles=st.lists(st.tuples(chains, st.integers(0, 12)), max_size=40),
)
def test_chains_keep_every_limit(table, seed, cycles):
    """Connected (asserted by DraftTree), falling values, no more rows than there may be, and the credit."""
    trees, rng = CostAwareTrees(table, LIMITS), np.random.default_rng(seed)
    spent = tokens = 0
    for chain, outcome in cycles:
        tree = cycle(trees, rng, chain=chain)
        assert len(tree.token_ids) <= MAX_ROWS
        assert tree.depth <= max(LIMITS.depth, len(chain.token_ids))
        for node in range(1, len(tree.parents)):
            assert tree.log_values[node] <= tree.log_values[tree.parents[node]]
        credit = FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(tokens)
        emitted = 1 + min(outcome, tree.depth)
        trees.end_cycle(emitted)
        spent, tokens = spent + trees.spent_ms, tokens + emitted
        assert spent <= table.plain * (tokens + credit) * (1 + 1e-9)


def never(*_):
    raise AssertionError("the draft is not asked")


@pytest.mark.parametrize("table", [FAST, SLOW], ids=["fast", "slow"])
def test_next_to_a_sure_chain_nothing_is_drafted(table):
    chain = ExpectedChain([5, 6, 7, 8], [0.98] * 4)
    trees = CostAwareTrees(table, LIMITS)
    tree = cycle(trees, None, chain=chain, expand=never)
    expected = [3, 5, 6, 7, 8] if table is FAST else [3, 5, 6]  # of dear rows fewer
    assert tree.token_ids.tolist() == expected


def test_next_to_a_doubtful_chain_the_network_drafts():
    tree = cycle(
        CostAwareTrees(FAST, LIMITS), np.random.default_rng(0), chain=ExpectedChain([50, 51], [0.2, 0.3])
    )
    assert {*tree.token_ids[1:].tolist()} - {50, 51}


def test_a_chain_is_used_where_drafting_does_not_pay():
    slow_draft = replace(SLOW, verify_ms=((1, 20.0), (64, 21.0)), root_ms=15.0)
    trees, rng = CostAwareTrees(slow_draft, LIMITS), np.random.default_rng(0)
    while trees.begin(has_chain=False) is not None:
        cycle(trees, rng)
        trees.end_cycle(1)
    tree = cycle(trees, None, chain=ExpectedChain([5, 6], [0.9, 0.9]), expand=never)
    assert tree.token_ids.tolist() == [3, 5, 6]


@given(table=tables, seed=st.integers(0, 10**6), outcomes=st.lists(st.integers(0, 8), max_size=30))
def test_a_replay_decides_the_same(table, seed, outcomes):
    def trees():
        trees, rng = CostAwareTrees(table, LIMITS), np.random.default_rng(seed)
        for outcome in outcomes:
            tree = cycle(trees, rng)
            trees.end_cycle(1 + min(outcome, tree.depth))
            yield tree.token_ids.tolist(), tree.parents.tolist()

    assert list(trees()) == list(trees())


def failures(table, tokens):
    """An answer whose drafts are never accepted: which cycles drafted, and its time."""
    trees, rng, drafted, spent = CostAwareTrees(table, LIMITS), np.random.default_rng(0), [], 0.0
    for _ in range(tokens):
        cycle(trees, rng)
        trees.end_cycle(1)
        drafted.append(trees.spent_ms > table.plain)
        spent += trees.spent_ms
    return drafted, spent


@pytest.mark.parametrize("table", [FAST, SLOW], ids=["fast", "slow"])
def test_drafting_that_never_pays_costs_three_percent_at_most(table):
    for tokens in (128, 256, 512):
        drafted, spent = failures(table, tokens)
        assert spent <= 1.03 * tokens * table.plain
    assert 0 < sum(drafted[256:]) <= sum(drafted[:256]) / 2, "tried again, at growing intervals"


def test_a_success_pays_for_the_next_tries():
    budget = TimeBudget(plain_ms=4.0)
    while budget.left_ms > 6.0:
        budget.add_cycle(1, 6.0)
    budget.add_cycle(4, 6.0)
    assert budget.left_ms > 6.0
    for _ in range(50):
        budget.add_cycle(4, 6.0)
    assert budget.savings_ms == 3 * 4.0, "long successes are forgotten"


def test_confident_drafts_get_deeper_trees():
    sizes = {}
    for sharpness in (0.02, 2.0):
        rng = np.random.default_rng(1)
        trees = [cycle(CostAwareTrees(FAST, LIMITS), rng, sharpness=sharpness) for _ in range(40)]
        sizes[sharpness] = np.mean([tree.depth for tree in trees])
    assert sizes[0.02] > 2 * sizes[2.0]


def test_expensive_query_tokens_make_small_trees():
    def mean_size(table):
        rng = np.random.default_rng(2)
        return np.mean([cycle(CostAwareTrees(table, LIMITS), rng).num_draft_tokens for _ in range(40)])

    assert mean_size(FAST) > 3 * mean_size(SLOW)


def in_batch(count, rows=6):
    """The share of one sequence in a batch with `count` others of this many query tokens each."""
    shares = [SequenceShare(query_tokens=rows, expected_tokens=1.8, draft_ms=1.0) for _ in range(count + 1)]
    begin_cycle(shares)
    return shares[0]


def test_trees_shrink_as_the_batch_grows():
    def mean_size(count):
        rng = np.random.default_rng(2)
        trees = [cycle(CostAwareTrees(FAST, LIMITS, in_batch(count)), rng, sharpness=0.1) for _ in range(40)]
        return np.mean([tree.num_draft_tokens for tree in trees])

    alone, two, three, eight, many = (mean_size(count) for count in (0, 1, 2, 7, 31))
    assert alone > two > three > eight >= many
    assert eight < alone / 2


def test_in_a_large_batch_no_credit_is_used():
    """Where a share of a full pass is cheaper than a first level, not even the first cycle drafts."""

    def among(count):
        shares = [SequenceShare() for _ in range(count)]
        begin_cycle(shares)
        return CostAwareTrees(FAST, LIMITS, shares[0]).begin(has_chain=False)

    assert among(1) is not None
    assert among(2) is not None
    assert among(16) is None


def test_in_a_batch_reading_is_paid_by_the_savings_that_were_missed():
    """At batch size 1 the credit pays; in a batch it first skips cycles whose savings would have paid."""
    alone, costly = CostAwareTrees(FAST, LIMITS), 100
    assert alone.begin(has_chain=False, unread=costly) is not None
    trees = CostAwareTrees(FAST, LIMITS, in_batch(1, rows=1))
    costs = SequenceCosts.of(FAST, in_batch(1, rows=1))
    first_level = FAST.root_ms + costs.cycle_ms[1] - costs.cycle_ms[0]
    saving = costs.saving(FIRST_WORTH, FAST.root_ms) - LEAST_GAIN * first_level
    aside = math.ceil((FAST.reading(costly) / saving - 1) * 2)  # of what is missed, half is its share
    assert aside > 2
    opened = [trees.begin(has_chain=False, unread=costly) is not None for _ in range(aside + 2)]
    assert opened == [False] * aside + [True, False], "what was saved up is spent by reading"
    assert trees.begin(has_chain=False, unread=1) is not None, "one pair is in the price of a level"


@given(table=tables, seed=st.integers(0, 10**6), outcomes=st.lists(st.integers(0, 8), max_size=20))
def test_at_batch_size_1_decisions_are_those_of_a_single_sequence(table, seed, outcomes):
    assert SequenceCosts.of(table, SequenceShare()) == SequenceCosts(table.cycle)

    def drafted(trees):
        rng = np.random.default_rng(seed)
        for outcome in outcomes:
            tree = cycle(trees, rng)
            trees.end_cycle(1 + min(outcome, tree.depth))
            yield tree.token_ids.tolist(), tree.parents.tolist()

    single = SequenceShare()
    begin_cycle([single])
    assert list(drafted(CostAwareTrees(table, LIMITS))) == list(
        drafted(CostAwareTrees(table, LIMITS, single))
    )


@given(table=tables, count=st.integers(1, 40), rows=st.integers(1, 64))
def test_shares_add_up_to_the_whole_cycle(table, count, rows):
    """However a cycle's time is split, it is that of one pass over all rows, and of all the work beside."""
    costs = SequenceCosts.of(table, in_batch(count, rows))
    for more in (0, 1, 63):
        whole = table.verify(1 + count * rows + more) + (1 + count) * table.overhead_ms + count * 1.0
        assert costs.other_ms + costs.cycle_ms[more] == pytest.approx(whole)
    assert list(costs.cycle_ms) == sorted(costs.cycle_ms)
    nobody_drafts = table.verify(1 + count) / (1 + count) + table.overhead_ms
    assert costs.cycle_ms[0] == pytest.approx(nobody_drafts)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 64), st.floats(1, 9), st.floats(0, 50)), max_size=30
    )
)
def test_batch_totals_are_the_sums_of_their_shares(changes):
    shares = [SequenceShare() for _ in range(5)]
    begin_cycle(shares)
    for at, rows, tokens, draft_ms in changes:
        shares[at].set_tree(rows, tokens)
        shares[at].set_draft_ms(draft_ms)
    totals = shares[0].batch
    assert totals.query_tokens == sum(share.query_tokens for share in shares)
    assert totals.expected_tokens == pytest.approx(sum(share.expected_tokens for share in shares))
    assert totals.draft_ms == pytest.approx(sum(share.draft_ms for share in shares), abs=1e-9)


@given(
    table=tables,
    count=st.integers(1, 10),
    seed=st.integers(0, 10**6),
    outcomes=st.lists(st.integers(0, 8), max_size=40),
)
def test_in_a_batch_too_time_exceeds_plain_decodings_by_the_credit_at_most(table, count, seed, outcomes):
    trees, rng = CostAwareTrees(table, LIMITS, in_batch(count)), np.random.default_rng(seed)
    spent = tokens = 0
    for outcome in outcomes:
        tree = cycle(trees, rng)
        credit = FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(tokens)
        emitted = 1 + min(outcome, tree.depth)
        trees.end_cycle(emitted)
        spent, tokens = spent + trees.spent_ms, tokens + emitted
        assert spent <= trees._time.plain_ms * (tokens + credit) * (1 + 1e-9)


@given(
    table=tables,
    count=st.integers(0, 10),
    values=st.lists(st.floats(0, 1), min_size=1, max_size=3).map(lambda found: sorted(found, reverse=True)),
)
def test_what_a_level_saves_is_the_time_of_its_tokens_without_it(table, count, values):
    """With as many nodes as are best: expected tokens at plain decoding's rate, less what the cycle takes."""
    costs = SequenceCosts.of(table, in_batch(count))
    plain = (costs.other_ms + costs.cycle_ms[0]) / (1 + costs.other_tokens)
    savings = []
    for nodes in range(1, len(values) + 1):
        tokens = 1 + costs.other_tokens + sum(values[:nodes])
        savings.append(tokens * plain - (costs.other_ms + costs.cycle_ms[nodes] + 0.7))
    assert costs.saving(values, 0.7) == pytest.approx(max(savings), abs=1e-9)


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
    tree = cycle(CostAwareTrees(FAST, LIMITS), np.random.default_rng(0), sharpness=0.02, max_depth=depth)
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


def test_a_measurement_too_slow_is_corrected_by_its_neighbours():
    table = CostTable(
        verify_ms=((1, 4.0), (2, 9.0), (3, 5.0), (4, 4.0), (5, 8.0), (64, 90.0)),
        draft_ms=((1, 1.0),),
        root_ms=0,
        pair_ms=0,
        overhead_ms=0,
    )
    assert table.cycle[:5] == pytest.approx((4.0, 6.0, 6.0, 6.0, 8.0))


@given(table=tables, context=st.integers(0, 4000), more=st.integers(0, 2000))
def test_query_tokens_cost_more_with_the_context_and_plain_decoding_with_them(table, context, more):
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
        return [
            cycle(CostAwareTrees(table, LIMITS), rng, context=context).num_draft_tokens for _ in range(40)
        ]

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
