"""Which draft tokens does the target accept? Sample at the node, then look whether the token is a child.

Source: docs/algorithm.md, section 3. EAGLE-2 tries the children of a node in turn: it accepts x with
probability p(x), otherwise removes x from p and renormalises. The draft is a point mass, so this emits
exactly the tokens of p: it equals in law "draw one token from p and follow it if the tree has it"
(`accept_same_ids`). That form needs no draft probabilities, is right for every drafter at every temperature,
and with draws fixed by position (docs/laws.md, L2) it gives the *same ids* as plain decoding.

Two other rules of the literature are options of single methods. Speculative sampling (Leviathan et al., arXiv
2211.17192, App. A.1; over several candidates EAGLE, arXiv 2401.15077, App. A) keeps the distribution, not the
ids. Typical acceptance (Medusa, arXiv 2401.10774, Sec. 2.3) keeps neither.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from eyas.engine.sampling import SampledToken, Sampler
from eyas.engine.tree import DraftTree, Floats, Prefix

Lossless = Literal[
    "ids", "distribution", "no"
]  # what equals plain decoding: the ids, their distribution, neither


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one cycle drafted, and what the target accepted of it.

    Attributes:
        tree: the draft.
        path: nodes from the root to the last accepted one.
        token_ids: the accepted tokens, then the bonus token; one per node of `path`.
    """

    tree: DraftTree
    path: list[int]
    token_ids: list[int]

    @property
    def num_accepted(self) -> int:
        """Accepted draft tokens, without the bonus."""
        return len(self.path) - 1


class TargetScores(Protocol):
    """What the target says after each row of a pass: the part of its results that verification reads."""

    def choose(
        self, row: int, sampler: Sampler, generated: Sequence[int], num_log_probs: int | None = None
    ) -> SampledToken:
        """The token after `row`, where `generated` is the answer up to and including that row's token.

        `num_log_probs` None reports no log-probability, 0 that of the token only.
        """
        ...

    def logits(self, row: int) -> Floats:
        """(V,) unprocessed logits of a row, in float64."""
        ...


class Verifier:
    """The target's tokens and probabilities at the nodes of one sequence's tree, computed when asked for.

    In all methods `accepted` holds the tokens on the path from below the root to a node.

    Args:
        rows: results of the target's pass over the tree; row i is node i.
        sampler: of the answer.
        generated: the answer up to and including the root.
        num_log_probs: as in `TargetScores.choose`.
    """

    def __init__(
        self, rows: TargetScores, sampler: Sampler, generated: Sequence[int], num_log_probs: int | None = None
    ) -> None:
        self._rows = rows
        self._sampler = sampler
        self._generated = generated
        self._num_log_probs = num_log_probs
        self._chosen: dict[int, SampledToken] = {}

    @property
    def is_greedy(self) -> bool:
        """Whether the target's token is an argmax."""
        return self._sampler.config.is_greedy

    def choose(self, node: int, accepted: Sequence[int]) -> int:
        """The target's token after `node`: the one that plain decoding samples there."""
        prefix = Prefix(self._generated, tuple(accepted))
        self._chosen[node] = self._rows.choose(node, self._sampler, prefix, self._num_log_probs)
        return self._chosen[node].id

    def follow(self, tree: DraftTree) -> tuple[list[int], list[int]] | None:
        """Nodes and tokens of the path that the target's own tokens take through a tree.

        The tokens are those of `choose`, found in one call by rows that have a method of this name; None
        where they have not, or where log-probabilities are reported.
        """
        follow = getattr(self._rows, "follow", None)
        if follow is None or self._num_log_probs is not None:
            return None
        found: tuple[list[int], list[int]] | None = follow(tree, self._sampler, self._generated)
        return found

    def log_probs(self, node: int, accepted: Sequence[int]) -> Floats:
        """(V,) natural logs of the processed distribution after `node`."""
        return self._sampler.log_probs(self._rows.logits(node), Prefix(self._generated, tuple(accepted)))

    def draw(self, accepted: Sequence[int], log_probs: Floats) -> int:
        """A token from (V,) `log_probs` after a path, by the sampler's noise; the argmax where greedy."""
        return self._sampler.draw(log_probs, len(self._generated) + len(accepted))

    def uniform(self, accepted: Sequence[int], index: int) -> float:
        """The `index`-th number in (0, 1) that belongs to the position after a path."""
        return self._sampler.uniform(len(self._generated) + len(accepted), index)

    def sampled(self, cycle: Cycle) -> list[SampledToken]:
        """The cycle's tokens with log-probabilities, if asked for, and the depth each was accepted at."""
        if self._num_log_probs is None:
            *accepted, bonus = cycle.token_ids
            found = [SampledToken(token, depth=depth) for depth, token in enumerate(accepted, start=1)]
            return [*found, SampledToken(bonus)]
        tokens = list(map(self._sampled, cycle.path, cycle.token_ids))
        return [*(token.at_depth(depth) for depth, token in enumerate(tokens[:-1], start=1)), tokens[-1]]

    def _sampled(self, node: int, token_id: int) -> SampledToken:
        """A rule need not accept what `choose` gives; then the token's log-probability is looked up."""
        known = self._chosen.get(node)
        if known is not None and known.id == token_id:
            return known
        assert self._num_log_probs is not None, "log-probabilities are asked for"
        return SampledToken.reported(token_id, self._rows.logits(node), self._num_log_probs)

    def after_auxiliary(self, tree: DraftTree) -> list[int]:
        """The target's tokens after those auxiliary rows of `tree` whose results the drafter needs."""
        assert tree.auxiliary is not None, "a tree with auxiliary rows"
        token_ids, parents = tree.rows
        first = len(tree.token_ids) + tree.auxiliary.first_asked
        paths: list[tuple[int, ...]] = []
        for token, parent in zip(token_ids.tolist(), parents.tolist(), strict=True):
            paths.append((*paths[parent], token) if parent >= 0 else ())
        return [
            self._rows.choose(row, self._sampler, Prefix(self._generated, paths[row])).id
            for row in range(first, len(paths))
        ]


@dataclass(frozen=True, slots=True)
class AcceptanceRule:
    """How a tree is accepted, and what of plain decoding that keeps."""

    lossless: Lossless
    accept: Callable[[DraftTree, Verifier], Cycle]


def accept_same_ids(tree: DraftTree, verifier: Verifier) -> Cycle:
    """Follow the target's own tokens down the tree; the first one that is no child is the bonus token."""
    if (found := verifier.follow(tree)) is not None:
        return Cycle(tree, *found)
    node, path = 0, [0]
    token_ids: list[int] = []
    while True:
        token_ids.append(verifier.choose(node, token_ids))
        child = tree.children[node].get(token_ids[-1])
        if child is None:
            return Cycle(tree, path, token_ids)
        node = child
        path.append(node)


def accept_by_speculative_sampling(tree: DraftTree, verifier: Verifier) -> Cycle:
    """Speculative (rejection) sampling, against the distributions that the draft was *sampled* from.

    A node's children were drawn in order, without replacement, from q = `tree.proposals[node]`. Child x is
    accepted with probability min(1, p(x) / q(x)); otherwise p becomes norm(max(0, p - q)), and x leaves q.
    With one child this is Leviathan et al.'s rule.
    """
    if verifier.is_greedy:
        return accept_same_ids(tree, verifier)
    node, path = 0, [0]
    token_ids: list[int] = []
    while True:
        p = np.exp(verifier.log_probs(node, token_ids))
        if not tree.children[node]:
            break
        q = np.array(tree.proposals[node])
        for index, (token, child) in enumerate(tree.children[node].items()):
            left = q.sum()
            if q[token] <= 0 or left <= 0:
                continue  # never drawn from q: it says nothing about p
            q /= left
            if verifier.uniform(token_ids, index) * q[token] < p[token]:
                node = child
                break
            excess = np.maximum(p - q, 0.0)
            # p = q leaves no excess; then a rejection has probability 0, up to rounding.
            p = excess / excess.sum() if excess.sum() > 0 else p
            q[token] = 0.0
        else:
            break
        path.append(node)
        token_ids.append(token)
    with np.errstate(divide="ignore"):
        bonus = verifier.draw(token_ids, np.log(p))
    return Cycle(tree, path, [*token_ids, bonus])


def accept_typical(tree: DraftTree, verifier: Verifier, epsilon: float = 0.09, delta: float = 0.3) -> Cycle:
    """Medusa's rule: accept what is typical of the target, which changes the target's distribution.

    A token is accepted where p(x) > min(epsilon, delta * exp(-H(p))), with H the entropy of p in nats. The
    longest such path counts, then the most probable one. The bonus token is the argmax.
    """
    if verifier.is_greedy:
        return accept_same_ids(tree, verifier)
    best, stack = (0, 0.0, 0), [(0, 0.0, list[int]())]  # (length, log p, -node); (node, log p, tokens)
    while stack:
        node, total, tokens = stack.pop()
        best = max(best, (len(tokens), total, -node))
        if not tree.children[node]:
            continue
        log_probs = verifier.log_probs(node, tokens)
        probs = np.exp(log_probs)
        entropy = -float(probs @ np.where(probs > 0, log_probs, 0.0))
        threshold = min(epsilon, delta * math.exp(-entropy))
        stack += [
            (child, total + float(log_probs[token]), [*tokens, token])
            for token, child in tree.children[node].items()
            if probs[token] > threshold
        ]
    path = tree.path(-best[2])
    tokens = [int(tree.token_ids[node]) for node in path[1:]]
    return Cycle(tree, path, [*tokens, int(np.argmax(verifier.log_probs(path[-1], tokens)))])


SAME_IDS = AcceptanceRule("ids", accept_same_ids)
SPECULATIVE_SAMPLING = AcceptanceRule("distribution", accept_by_speculative_sampling)
TYPICAL_ACCEPTANCE = AcceptanceRule("no", accept_typical)
