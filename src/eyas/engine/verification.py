"""Which drafted tokens does the target keep? Sample at the node, then look whether the token is a child.

Source: docs/algorithm.md, section 3. EAGLE-2's rule (try the children in turn, accept x with probability
p(x), otherwise remove x from p) emits exactly the tokens of p, since the draft is a point mass; so it equals
in law "draw one token from p and follow it if the tree has it". That form needs no draft probabilities, is
right for every drafter at every temperature, and with draws fixed by position (docs/laws.md, L2) it gives
the *same ids* as plain decoding.

Two other rules of the literature stand beside it, as options only. `RatioTest` (Leviathan et al., arXiv
2211.17192, App. A.1; over several candidates EAGLE, arXiv 2401.15077, App. A) keeps the distribution, but
not the ids. `TypicalAcceptance` (Medusa, arXiv 2401.10774, Sec. 2.3) keeps neither.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from eyas.engine.tree import DraftTree, Floats

Choose = Callable[[int, Sequence[int]], int]
Lossless = Literal["ids", "distribution", "no"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one cycle found.

    Attributes:
        path: nodes from the root to the last accepted one.
        token_ids: the accepted tokens, then the bonus token; one per node of `path`.
    """

    path: list[int]
    token_ids: list[int]

    @property
    def num_accepted(self) -> int:
        """Accepted draft tokens, without the bonus."""
        return len(self.path) - 1


class Judge(Protocol):
    """The target at the nodes of a tree. `accepted` are the tokens on a node's path below the root."""

    @property
    def is_greedy(self) -> bool:
        """Whether the target's token is an argmax."""
        ...

    def choose(self, node: int, accepted: Sequence[int]) -> int:
        """The target's token after `node`."""
        ...

    def log_probs(self, node: int, accepted: Sequence[int]) -> Floats:
        """(V,) natural logs of the processed distribution after `node`."""
        ...

    def draw(self, accepted: Sequence[int], log_probs: Floats) -> int:
        """A token from (V,) `log_probs` after a path, by the sampler's noise; the argmax where greedy."""
        ...

    def uniform(self, accepted: Sequence[int], index: int) -> float:
        """The `index`-th number in (0, 1) that belongs to the position after a path."""
        ...


class Rule(Protocol):
    """Which drafted tokens are kept, and which token follows them."""

    @property
    def lossless(self) -> Lossless:
        """What equals plain decoding's: the ids, their distribution, or neither."""
        ...

    def __call__(self, tree: DraftTree, judge: Judge) -> Verdict:
        """Judge a tree."""
        ...


@dataclass(frozen=True, slots=True)
class Walk:
    """The rule of eyas: see `verify`."""

    lossless: Lossless = "ids"

    def __call__(self, tree: DraftTree, judge: Judge) -> Verdict:
        """The path along the target's own tokens."""
        return verify(tree, judge.choose)


WALK = Walk()


@dataclass(frozen=True, slots=True)
class RatioTest:
    """Speculative sampling, against the distributions that the draft was *sampled* from.

    A node's children were drawn in order, without replacement, from q = `tree.proposals[node]`. Child x is
    accepted with probability min(1, p(x) / q(x)); otherwise p becomes norm(max(0, p - q)), and x leaves q.
    With one child this is Leviathan et al.'s test.
    """

    lossless: Lossless = "distribution"

    def __call__(self, tree: DraftTree, judge: Judge) -> Verdict:
        """Test the children of each node in the order in which they were drawn."""
        if judge.is_greedy:
            return verify(tree, judge.choose)
        node, path = 0, [0]
        token_ids: list[int] = []
        while True:
            p = np.exp(judge.log_probs(node, token_ids))
            if not tree.children[node]:
                break
            q = np.array(tree.proposals[node])
            for index, (token, child) in enumerate(tree.children[node].items()):
                left = q.sum()
                if q[token] <= 0 or left <= 0:
                    continue  # never drawn from q: it says nothing about p
                q /= left
                if judge.uniform(token_ids, index) * q[token] < p[token]:
                    node = child
                    break
                excess = np.maximum(p - q, 0.0)
                # p = q leaves nothing over; then a rejection has probability 0, up to rounding.
                p = excess / excess.sum() if excess.sum() > 0 else p
                q[token] = 0.0
            else:
                break
            path.append(node)
            token_ids.append(token)
        with np.errstate(divide="ignore"):
            bonus = judge.draw(token_ids, np.log(p))
        return Verdict(path, [*token_ids, bonus])


@dataclass(frozen=True, slots=True)
class TypicalAcceptance:
    """Medusa's rule: keep what is typical of the target, which is not the target's distribution.

    A token is kept where p(x) > min(epsilon, delta * exp(-H(p))), with H the entropy of p; of all paths the
    longest counts, then the most probable. The token after it is the argmax.
    """

    epsilon: float = 0.09
    delta: float = 0.3
    lossless: Lossless = "no"

    def __call__(self, tree: DraftTree, judge: Judge) -> Verdict:
        """The longest typical path."""
        if judge.is_greedy:
            return verify(tree, judge.choose)
        best, stack = (0, 0.0, 0), [(0, 0.0, list[int]())]  # (length, log p, -node); (node, log p, tokens)
        while stack:
            node, total, tokens = stack.pop()
            best = max(best, (len(tokens), total, -node))
            if not tree.children[node]:
                continue
            log_probs = judge.log_probs(node, tokens)
            probs = np.exp(log_probs)
            entropy = -float(probs @ np.where(probs > 0, log_probs, 0.0))
            threshold = min(self.epsilon, self.delta * math.exp(-entropy))
            stack += [
                (child, total + float(log_probs[token]), [*tokens, token])
                for token, child in tree.children[node].items()
                if probs[token] > threshold
            ]
        path = tree.path(-best[2])
        tokens = [int(tree.token_ids[node]) for node in path[1:]]
        return Verdict(path, [*tokens, int(np.argmax(judge.log_probs(path[-1], tokens)))])


def verify(tree: DraftTree, choose: Choose) -> Verdict:
    """Walk down the tree along the tokens that the target chooses.

    Args:
        tree: the draft.
        choose: `choose(node, accepted)` is the target's token after `node`, whose path below the root has
            the tokens `accepted`. Called for the nodes of the path only, from the root downwards.
    """
    node, path = 0, [0]
    token_ids: list[int] = []
    while True:
        token_ids.append(choose(node, token_ids))
        child = tree.children[node].get(token_ids[-1])
        if child is None:
            return Verdict(path, token_ids)
        node = child
        path.append(node)
