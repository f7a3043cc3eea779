"""Losslessness as an identity: verification emits exactly the target's distribution, whatever the tree."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from eyas.engine.sampling import Sampler, SamplingConfig, gumbel, log_softmax
from eyas.engine.tree import DraftTree, chain
from eyas.engine.verification import accept_same_ids
from fake import Says, parent_lists

VOCAB = 4


@st.composite
def trees(draw):
    """Trees whose siblings are distinct, as every drafter's are."""
    parents = draw(parent_lists)
    tokens, taken = [0], {}
    kept, kept_parents = [0], [-1]
    for node, parent in enumerate(parents[1:], start=1):
        token = draw(st.integers(0, VOCAB - 1))
        if parent in kept and token not in taken.setdefault(parent, set()):
            taken[parent].add(token)
            kept.append(node)
            kept_parents.append(kept.index(parent))
            tokens.append(token)
    return DraftTree(np.array(tokens), np.array(kept_parents), np.zeros(len(tokens)))


def target(seed, path):
    return np.random.default_rng([seed, *path]).dirichlet(np.ones(VOCAB))


def outcome_distribution(tree, seed):
    """{(accepted path, bonus): probability} of verification, by summing over what the target can draw."""
    outcome = {}

    def descend(node, path, weight):
        for token, p in enumerate(target(seed, path)):
            child = tree.children[node].get(token)
            if child is None:
                outcome[(path, token)] = outcome.get((path, token), 0.0) + weight * p
            else:
                descend(child, (*path, token), weight * p)

    descend(0, (), 1.0)
    return outcome


@given(tree=trees(), seed=st.integers(0, 10**6))
def test_same_ids_equals_eagle2s_rejection_rule_in_law(tree, seed):
    """Exact enumeration: accepted path and bonus have one joint law under both rules."""
    children = {}
    for node in range(1, len(tree.token_ids)):
        path = tuple(int(tree.token_ids[at]) for at in tree.path(int(tree.parents[node]))[1:])
        children.setdefault(path, []).append(int(tree.token_ids[node]))
    rule = reference.rejection_walk(children, lambda path: target(seed, path))
    ours = outcome_distribution(tree, seed)
    for key in rule.keys() | ours.keys():
        assert ours.get(key, 0.0) == pytest.approx(rule.get(key, 0.0), abs=1e-12)


@given(tree=trees(), seed=st.integers(0, 10**6), length=st.integers(1, 3))
def test_every_emitted_prefix_has_the_targets_own_probability(tree, seed, length):
    """P(first tokens of the answer) is the product of the target's conditionals, whatever the tree."""
    ours = outcome_distribution(tree, seed)
    for tokens in itertools.product(range(VOCAB), repeat=length):
        emitted = 0.0
        for (accepted, bonus), weight in ours.items():
            answer = (*accepted, bonus)
            head = answer[:length]
            if head == tokens[: len(head)]:  # the rest is drawn in later cycles from the target itself
                for position in range(len(head), length):
                    weight *= target(seed, tokens[:position])[tokens[position]]
                emitted += weight
        plain = np.prod([target(seed, tokens[:i])[tokens[i]] for i in range(length)])
        assert emitted == pytest.approx(plain, abs=1e-12)


distributions = (
    st.lists(st.integers(0, 20), min_size=4, max_size=4)
    .filter(any)
    .map(lambda counts: [count / sum(counts) for count in counts])
)


@given(p=distributions, q=distributions, siblings=st.integers(0, 3))
def test_sampled_siblings_with_rejection_emit_the_target_too(p, q, siblings):
    """EAGLE-1's own rule, by exact enumeration: lossless, though its draws are not plain decoding's."""
    assert reference.recursive_rejection(p, q, siblings) == pytest.approx(p, abs=1e-9)


@given(tree=trees(), tokens=st.lists(st.integers(0, VOCAB - 1), min_size=20, max_size=20))
def test_verification_follows_the_chosen_tokens(tree, tokens):
    asked = []

    def choose(node, accepted):
        asked.append(node)
        assert list(accepted) == tokens[: len(accepted)]
        return tokens[len(accepted)]

    cycle = accept_same_ids(tree, Says(choose))
    assert asked == cycle.path == tree.path(cycle.path[-1])
    assert cycle.token_ids == tokens[: len(cycle.path)]
    assert cycle.num_accepted == len(cycle.token_ids) - 1
    assert [int(tree.token_ids[n]) for n in cycle.path[1:]] == cycle.token_ids[:-1]


def test_a_full_chain_gives_a_bonus_token():
    assert accept_same_ids(chain(9, [1, 2]), Says(lambda _, accepted: len(accepted) + 1)).token_ids == [
        1,
        2,
        3,
    ]


@pytest.fixture(scope="module")
def noise():
    """(20,000, 8) of positions and tokens, with seed 11."""
    return np.stack([gumbel(11, 0, position, np.arange(8)) for position in range(20_000)])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"top_k": 3, "min_p": 0.1}], ids=str)
def test_seeded_draws_follow_the_processed_distribution(noise, temperature, filters):
    """Chi-square over 20,000 positions at a false-alarm rate of 1e-6 (fixed seed: it cannot flake)."""
    logits = np.array([2.0, 1.2, 0.4, 0.1, -0.5, -1.0, -2.0, 0.9])
    sampler = Sampler(
        SamplingConfig(temperature=temperature, **filters), prompt_ids=[], vocab_size=8, seed=11
    )
    processed = sampler.process(logits, [])
    probs = np.exp(log_softmax(processed))
    draws = len(noise)
    counts = np.bincount(np.argmax(processed + noise, axis=1), minlength=8)
    alive = probs > 0
    assert counts[~alive].sum() == 0
    chi_square = ((counts - draws * probs)[alive] ** 2 / (draws * probs[alive])).sum()
    limits = {8: 41.5, 7: 38.3, 6: 35.9, 5: 33.4, 4: 30.7, 3: 27.7, 2: 23.9}  # 1e-6 quantiles, n - 1 dof
    assert chi_square < limits[int(alive.sum())]


def test_draws_at_different_positions_and_choices_are_independent():
    """Chi-square of pairs (draw at t, draw at t + 1) and (choice 0, choice 1), 1e-6 false alarms."""
    logits = np.array([0.5, 0.0, -0.5])
    probs = np.exp(log_softmax(logits))
    draws = np.array(
        [[np.argmax(logits + gumbel(5, choice, t, np.arange(3))) for t in range(6001)] for choice in (0, 1)]
    )
    for left, right in ((draws[0, :-1], draws[0, 1:]), (draws[0], draws[1])):
        counts = np.bincount(3 * left + right, minlength=9)
        expected = len(left) * np.outer(probs, probs).ravel()
        assert ((counts - expected) ** 2 / expected).sum() < 44.0  # 8 degrees of freedom
