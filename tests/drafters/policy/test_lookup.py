"""Prompt lookup: found where the text has it, as likely as it proves to be, within the laws of trees."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.copies import MOST, SIZES, CopyFinder
from eyas.drafters.policy.lookup import ExpectedChains
from eyas.drafters.tree_builder import NO_CHAIN, ExpectedChain, TreeRules, joint_rate


def lookups(temperature=0.0, stops=()):
    return ExpectedChains(CopyFinder(stops), temperature)


texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def found_by_search(text):
    """By the rule, longest n-gram first, where it ended last: matching tokens, and where it goes on."""
    length = len(text)
    for n in SIZES:
        for end in range(length - 1, n - 1, -1):
            if n <= length and text[end - n : end] == text[-n:]:
                matching = n
                while matching < min(end, MOST) and text[end - matching - 1] == text[length - matching - 1]:
                    matching += 1
                return matching, end
    return 0, 0


@given(text=texts)
def test_the_first_search_finds_the_longest_match_that_is_newest(text):
    chain = lookups().after(text, 20)
    found, start = found_by_search(text)
    if not found:
        assert chain is NO_CHAIN
        return
    followed = list(text[start:])
    while len(followed) < MOST:
        followed += followed[: MOST - len(followed)]
    assert 0 < len(chain.token_ids) == len(chain.rates) <= 20
    assert [*chain.token_ids] == followed[: len(chain.token_ids)]
    assert all(0 < rate < 1 for rate in chain.rates)


def test_what_followed_comes_again():
    text = [5, 6, 7, 8, 9, 10, 5, 6, 7]
    chain = lookups().after(text, 3)
    assert [*chain.token_ids] == [8, 9, 10]
    assert chain.rates[0] < chain.rates[1] <= chain.rates[2], "each token that comes makes the next likelier"


def test_a_loop_goes_on():
    assert [*lookups().after([1, 2, 3, 1, 2], 7).token_ids] == [3, 1, 2, 3, 1, 2, 3]


def test_chains_end_before_stops_and_at_the_limit():
    text = [5, 6, 7, 8, 9, 5, 6]
    assert [*lookups(stops=[8]).after(text, 9).token_ids] == [7]
    assert [*lookups().after(text, 2).token_ids] == [7, 8]
    assert lookups(stops=[7]).after(text, 9) is NO_CHAIN
    assert lookups().after(text, 0) is NO_CHAIN
    assert lookups().after([5, 6, 7], 9) is NO_CHAIN


def test_rates_follow_what_becomes_of_chains():
    def rate_after(outcome):
        chains, text = lookups(), [1, 2, 9]
        for number in range(40):
            text += [1, 2]
            chain = chains.after(text, 1)
            text += [chain.token_ids[0] if outcome else 100 + number]
        return chains.after([*text, 1, 2], 1).rates[0]

    assert rate_after(False) < 0.2 < 0.8 < rate_after(True) < 1


def test_drawn_tokens_repeat_less():
    cold, warm, hot = (lookups(temperature).after([5, 6, 7, 5, 6], 1).rates[0] for temperature in (0, 0.5, 1))
    assert cold > warm > hot == lookups(1.8).after([5, 6, 7, 5, 6], 1).rates[0]


@given(rate=st.floats(0.01, 0.99), seen=st.floats(0, 1), more=st.floats(0, 1))
def test_lookup_and_draft_agree_in_between(rate, seen, more):
    joint = joint_rate(rate, seen)
    assert 0 <= joint <= 1
    assert joint_rate(rate, max(seen, more)) >= joint_rate(rate, min(seen, more))
    assert joint_rate(min(0.99, rate * 1.1), seen) >= joint
    assert joint_rate(rate, 0.0) < rate, "unseen by the draft it is less likely"


def grown(tokens, rates, children=((7, 0.5), (8, 0.25), (9, 0.125)), top_k=2):
    """A builder after one level, and what it would expand: (token, parent row)."""
    builder = TreeRules(top_k).builder(2, ExpectedChain(tokens, rates))
    names, own = zip(*children, strict=True)
    return builder, builder.step(np.array([names]), np.log([own]))


def nodes(builder, count=99):
    token_ids, parents, log_values = builder.finish(0, count)
    return [*zip(token_ids.tolist(), parents.tolist(), np.exp(log_values).round(6).tolist(), strict=True)][1:]


def test_a_chain_that_the_draft_sees_is_one_node_with_it():
    joint = joint_rate(0.8, 0.25)
    rest = (1 - joint) / (1 - 0.25)
    assert nodes(grown([8, 4], [0.8, 0.9])[0]) == [
        (7, 0, round(0.5 * rest, 6)),
        (8, 0, round(joint, 6)),
        (9, 0, round(0.125 * rest, 6)),
        (4, 2, round(joint * 0.9, 6)),
    ]


def test_a_chain_that_the_draft_does_not_see_takes_the_last_place():
    joint = joint_rate(0.8, 0.0)
    assert [token for token, _, _ in nodes(grown([3], [0.8])[0])] == [7, 8, 3]
    assert nodes(grown([3], [0.8])[0])[-1][2] == round(joint, 6)


def test_a_chain_without_a_draft_is_a_path():
    builder = TreeRules(2).builder(0, ExpectedChain([3, 4, 3], [0.9, 0.5, 0.5]))
    assert nodes(builder) == [(3, 0, 0.9), (4, 1, 0.45), (3, 2, 0.225)]


def test_below_a_chain_the_draft_is_worth_what_the_chain_leaves():
    """Its best child is there already, so it is expanded later."""
    assert joint_rate(0.6, 0.5) * (1 - 0.9) < 0.25
    _, (tokens, rows) = grown([7, 4], [0.6, 0.9], top_k=3)
    assert tokens.tolist() == [8, 7, 9]
    assert rows.tolist() == [0, 0, 0]


@given(
    seed=st.integers(0, 10**6),
    chain=st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 0.99)), max_size=9),
    depth=st.integers(0, 4),
    count=st.integers(1, 40),
)
def test_trees_with_chains_are_connected_and_values_never_rise_downwards(seed, chain, depth, count):
    """L5, whatever is expected and drafted."""
    rng, rows = np.random.default_rng(seed), 1
    expected = ExpectedChain([token for token, _ in chain], [rate for _, rate in chain])
    builder = TreeRules(3).builder(depth, expected)
    for _ in range(depth):
        own = -np.sort(-rng.dirichlet(np.ones(5), size=rows))[:, :4]
        frontier = builder.step(np.stack([rng.permutation(6)[:4] for _ in range(rows)]), np.log(own))
        if frontier is None:
            break
        rows = len(frontier[0])
    token_ids, parents, log_values = builder.finish(9, count)
    assert len(token_ids) <= 1 + count
    siblings = [*zip(parents.tolist(), token_ids.tolist(), strict=True)]
    assert len(set(siblings)) == len(siblings), "no token twice below one parent"
    for node in range(1, len(parents)):
        assert 0 <= parents[node] < node
        assert log_values[node] <= log_values[parents[node]]
