"""Two other rules: speculative sampling keeps the distribution, typical acceptance keeps neither.

Speculative sampling is enumerated, not sampled: its code runs once for every outcome of every coin and draw,
on every tree that can be drawn, and the probabilities are added up.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_verification import distributions, target, trees

import reference
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftOptions
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree import DraftTree, Prefix, chain
from eyas.engine.verification import (
    SPECULATIVE_SAMPLING,
    TYPICAL_ACCEPTANCE,
    accept_by_speculative_sampling,
    accept_same_ids,
    accept_typical,
)
from eyas.runtimes import load_runtime
from eyas.runtimes.native import is_built
from fake import FakeRuntime, answer, make_request
from tiny import VOCAB, write_head, write_llama


class EveryOutcome:
    """A verifier that follows a script of outcomes, and notes which scripts are left to run."""

    is_greedy = False

    def __init__(self, script, target):
        self.script, self.target = script, target
        self.taken, self.others, self.weight = [], [], 1.0

    def decide(self, weights):
        """One of the outcomes that have a probability: the script's, or the first."""
        able = [at for at, weight in enumerate(weights) if weight > 0]
        if len(self.taken) < len(self.script):
            outcome = self.script[len(self.taken)]
        else:
            outcome = able[0]
            self.others += [[*self.taken, other] for other in able[1:]]
        self.taken.append(outcome)
        self.weight *= weights[outcome]
        return outcome

    def log_probs(self, node, accepted):
        with np.errstate(divide="ignore"):
            return np.log(self.target(tuple(accepted)))

    def draw(self, accepted, log_probs):
        return self.decide(np.exp(log_probs))

    def uniform(self, accepted, index):
        return Coin(self)


@dataclass
class Coin:
    """A uniform number that is known only by how it compares: u * q < p holds with min(1, p / q)."""

    verifier: EveryOutcome
    scale: float = 1.0

    def __mul__(self, scale):
        return Coin(self.verifier, self.scale * scale)

    def __lt__(self, limit):
        accept = min(1.0, limit / self.scale)
        return self.verifier.decide([1 - accept, accept]) == 1


def outcomes(rule, tree, target):
    """{(accepted tokens, bonus): probability} of a rule on one tree."""
    found, scripts = Counter(), [[]]
    while scripts:
        verifier = EveryOutcome(scripts.pop(), target)
        cycle = rule(tree, verifier)
        assert cycle.path == tree.path(cycle.path[-1])
        found[tuple(cycle.token_ids[:-1]), cycle.token_ids[-1]] += verifier.weight
        scripts += verifier.others
    return found


def ordered_draws(q, count):
    """[(tokens in order, probability)] of `count` draws from q without replacement; fewer if q ends."""
    if not count or not sum(q) > 0:
        return [((), 1.0)]
    found = []
    for token, mass in enumerate(q):
        if mass > 0:
            rest = [0.0 if other == token else value for other, value in enumerate(q)]
            for more, weight in ordered_draws(rest, count - 1):
                found.append(((token, *more), mass / sum(q) * weight))
    return found


def drawn_trees(draft, widths):
    """[(tree, probability)]: widths[0] children of the root drawn from draft(()), and so on below each."""

    def below(path):
        """[(nodes below a path as a list of paths, probability)]."""
        if len(path) == len(widths):
            return [([], 1.0)]
        found = []
        for tokens, weight in ordered_draws(draft(path), widths[len(path)]):
            for parts in itertools.product(*(below((*path, token)) for token in tokens)):
                nodes = [(*path, token) for token in tokens]
                total = weight
                for more, part in parts:
                    nodes = nodes + more
                    total *= part
                found.append((nodes, total))
        return found

    return [(tree_of(sorted(nodes, key=len), draft), weight) for nodes, weight in below(())]


def tree_of(paths, draft):
    index = {(): 0} | {path: node for node, path in enumerate(paths, start=1)}
    parents = [-1, *(index[path[:-1]] for path in paths)]
    return DraftTree(
        np.array([0, *(path[-1] for path in paths)]),
        np.array(parents),
        np.zeros(len(parents)),
        proposals={index[path]: np.array(draft(path)) for path in index if index[path] in parents},
    )


def emitted_law(target, draft, widths, length):
    """Law of the answer's first tokens, where what no tree emitted is drawn in later cycles."""
    law = Counter()
    for tree, drawn in drawn_trees(draft, widths):
        for (accepted, bonus), weight in outcomes(accept_by_speculative_sampling, tree, target).items():
            head = (*accepted, bonus)[:length]
            for rest in itertools.product(range(len(target(()))), repeat=length - len(head)):
                later = drawn * weight
                for at in range(len(head), length):
                    later *= target((head + rest)[:at])[(head + rest)[at]]
                law[head + rest] += later
    return law


@given(p=distributions, q=distributions, siblings=st.integers(0, 3))
def test_speculative_sampling_emits_exactly_the_target(p, q, siblings):
    """One level: any p, any q, zeros in both; summed over all draws without replacement and all coins."""
    law = emitted_law(lambda path: p, lambda path: q, [siblings], 1)
    assert [law[(token,)] for token in range(4)] == pytest.approx(p, abs=1e-9)
    assert reference.recursive_rejection(p, q, siblings) == pytest.approx(p, abs=1e-9)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), widths=st.sampled_from([[1, 1], [2, 1], [1, 2], [2, 2]]))
def test_deeper_trees_emit_the_targets_joint_law(seed, widths):
    """Two levels: each path has its own target and its own draft, and both tokens are right together."""

    def three(path, stream):
        return np.random.default_rng([seed, stream, *path]).dirichlet(np.full(3, 0.7)).tolist()

    law = emitted_law(lambda path: three(path, 0), lambda path: three(path, 1), widths, 2)
    for first, second in itertools.product(range(3), repeat=2):
        plain = three((), 0)[first] * three((first,), 0)[second]
        assert law[first, second] == pytest.approx(plain, abs=1e-9)


@given(p=distributions, q=distributions)
def test_the_first_sibling_is_accepted_as_often_as_can_be(p, q):
    """1 - TV(p, q), Leviathan et al.'s rate."""
    accepted = sum(
        drawn * weight
        for tree, drawn in drawn_trees(lambda path: q, [1])
        for (path, _), weight in outcomes(accept_by_speculative_sampling, tree, lambda path: p).items()
        if path
    )
    assert accepted == pytest.approx(sum(min(a, b) for a, b in zip(p, q, strict=True)), abs=1e-9)


def test_a_child_that_its_draft_cannot_have_drawn_says_nothing():
    tree = DraftTree(
        np.array([0, 2, 1]), np.array([-1, 0, 0]), np.zeros(3), proposals={0: np.array([0.5, 0.5, 0.0])}
    )
    p = [0.25, 0.25, 0.5]
    law = outcomes(accept_by_speculative_sampling, tree, lambda path: p)
    assert not law[(2,), 0]
    assert law == outcomes(
        accept_by_speculative_sampling,
        DraftTree(np.array([0, 1]), np.array([-1, 0]), np.zeros(2), proposals=tree.proposals),
        lambda path: p,
    )


@given(tree=trees(), seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.09, 0.3, 0.9]))
def test_typical_acceptance_keeps_the_longest_typical_path(tree, seed, epsilon):
    rule = partial(accept_typical, epsilon=epsilon)
    paths = [tuple(tree.token_ids[tree.path(node)[1:]].tolist()) for node in range(len(tree.token_ids))]
    [((accepted, bonus), weight)] = outcomes(rule, tree, lambda path: target(seed, path)).items()
    assert weight == 1, "it draws nothing"
    kept = reference.typical_path(paths, lambda path: target(seed, path), epsilon, 0.3)
    assert (accepted, bonus) == (kept, int(np.argmax(target(seed, kept))))


def test_typical_acceptance_is_not_lossless():
    """What is drafted is kept whenever it is typical, however often the target would have said otherwise."""
    [(outcome, weight)] = outcomes(accept_typical, chain(0, [1]), lambda path: [0.6, 0.4]).items()
    assert (outcome, weight) == (((1,), 0), 1.0)
    assert TYPICAL_ACCEPTANCE.lossless == "no"
    assert SPECULATIVE_SAMPLING.lossless == "distribution"


class Greedy:
    is_greedy = True

    def choose(self, node, accepted):
        return len(accepted) + 1

    def follow(self, tree):
        return None


@pytest.mark.parametrize("rule", [accept_by_speculative_sampling, accept_typical])
def test_where_greedy_every_rule_keeps_the_same_ids(rule):
    tree = chain(0, [1, 2, 9])
    assert rule(tree, Greedy()) == accept_same_ids(tree, Greedy())


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledOptions(DraftOptions):
    @property
    def rule(self):
        return SPECULATIVE_SAMPLING


class SampledDrafts:
    """Draws two children of the root and one below each, from a model that resembles the fake target."""

    num_forwards = 0

    def __init__(self, runtime):
        self.runtime = runtime

    def open(self):
        return self

    def begin(self, context, keep=0):
        self.context = context

    def fork(self):
        return SampledDrafts(self.runtime)

    def extend(self, features, token_ids):
        pass

    def log_probs(self, tokens):
        other = np.random.default_rng([9, *tokens]).standard_normal(self.runtime.target.vocab_size)
        prefix = tokens[len(self.context.prompt_ids) :]
        return self.context.sampler.log_probs(0.5 * self.runtime.logits(tokens) + other, prefix)

    def propose(self, token_ids, max_depth):
        sampler, start = self.context.sampler, len(self.context.prompt_ids)
        tokens, parents, proposals = [token_ids[-1]], [-1], {}
        for node, (path, width) in enumerate([((), 2), ((0,), 1), ((1,), 1)]):
            above = [*token_ids, *(tokens[1 + rank] for rank in path)]
            log_probs = self.log_probs(tuple(above))
            drawn = sampler.draw_draft(log_probs, len(above) - start, width)
            proposals[node] = np.exp(log_probs)
            tokens += drawn.tolist()
            parents += [node] * len(drawn)
        return DraftTree(np.array(tokens), np.array(parents), np.zeros(len(tokens)), proposals=proposals)


def check_law(draw, log_probs, vocab, answers):
    """Chi-square of the first three tokens of `answers` answers, seeds 0.., at 1e-6 false alarms.

    `log_probs(path)` are the target's; cells that would hold less than five are taken together.
    """
    counts = Counter(draw(seed) for seed in range(answers))
    expected = {(): 1.0}
    for _ in range(3):
        expected = {
            (*path, token): mass * np.exp(log_probs(path)[token])
            for path, mass in expected.items()
            for token in range(vocab)
            if np.isfinite(log_probs(path)[token])
        }
    assert counts.keys() <= expected.keys(), "an impossible answer"
    large = [path for path, mass in expected.items() if answers * mass >= 5]
    cells = [(counts[path], answers * expected[path]) for path in large]
    rest = answers - sum(mass for _, mass in cells)
    if rest >= 5:
        cells.append((answers - sum(count for count, _ in cells), rest))
    freedom = len(cells) - 1
    assert freedom > 10
    statistic = sum((count - mass) ** 2 / mass for count, mass in cells)
    # Wilson and Hilferty: (chi^2 / n)^(1/3) is close to normal; 4.75 is its 1e-6 quantile.
    limit = freedom * (1 - 2 / (9 * freedom) + 4.75 * np.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def test_drawn_drafts_keep_the_distribution_through_the_whole_engine():
    """Chi-square over fixed seeds, with a temperature and a penalty that depends on the path."""
    runtime = FakeRuntime(4, 64, sharpness=1.0)
    runtime.logits = lru_cache(runtime.logits)
    engine = Engine(runtime, SampledDrafts(runtime))
    stopping = StoppingConfig(max_new_tokens=3, ignore_eos=True)

    def request(seed):
        sampling = SamplingConfig(temperature=0.8, presence_penalty=0.5, seed=seed)
        return make_request([1, 3], sampling, stopping, vocab_size=4, options=SampledOptions())

    def log_probs(path):
        return request(0).sampler.log_probs(runtime.logits((1, 3, *path)), path)

    check_law(lambda seed: tuple(answer(engine, request(seed))[0].generated), log_probs, 4, 900)


@pytest.mark.slow
@pytest.mark.skipif(not is_built(), reason="this installation has no native runtime")
def test_eagles_speculative_sampling_keeps_the_distribution_of_a_real_model(tmp_path):
    from eyas.drafters.eagle import Eagle, EagleOptions
    from eyas.engine.interfaces import DraftFiles, TargetCall

    runtime = load_runtime("native", write_llama(tmp_path / "m"), name="tiny", dtype="float32", threads=1)
    head = write_head(tmp_path / "head")
    engine = Engine(runtime, Eagle.load(runtime, DraftFiles(head=lambda: head)))
    stopping = StoppingConfig(max_new_tokens=3, ignore_eos=True)

    def request(seed):
        sampling = SamplingConfig(temperature=1.5, top_k=3, seed=seed)
        options = EagleOptions(eagle_ratio=True)
        return make_request([5, 9], sampling, stopping, vocab_size=VOCAB, options=options)

    @lru_cache
    def log_probs(path):
        cache = runtime.new_cache()
        [rows] = runtime.forward([TargetCall(cache, np.array([5, 9, *path]))])
        return request(0).sampler.log_probs(rows.logits(1 + len(path)), Prefix(path))

    check_law(lambda seed: tuple(answer(engine, request(seed))[0].generated), log_probs, VOCAB, 250)
