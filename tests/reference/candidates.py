"""The candidates of a dynamic draft tree, slowly: what `eyas.drafters.tree_builder` is held against.

A candidate's *flat index* fixes every tie. Level 1 has indices 0..K-1; each later level has K*K, parent by
parent in the frontier's order, each parent's children from most to least confident:

    level 1    a  b                    flat  0 1
    level 2    a's children, b's       flat  2 3 | 4 5       (K = 2; frontier order a, b)
    level 3    of the two best of level 2, best first: flat 6 7 | 8 9

A value is the product of the confidences on the path, kept as a sum of natural logs.

One chain below the root may be *expected*; `eyas.drafters.tree_builder` says how it joins the tree.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import mul
from typing import Protocol

import numpy as np

from eyas.engine.tree import Floats, Ints

Rounding = Callable[[Floats], Floats]
Arrays = tuple[Ints, Ints, Floats]  # token ids, parents and log values of a tree's nodes, (N,) each
Nodes = tuple[
    list[int], list[int], list[float], list[int]
]  # flat indices, token ids, log values, parent rows

BELOW_ROOT = (-1,)  # the parents of level 1
NO_NUMBER = "the draft gave a confidence that is not a number (docs/laws.md, L5)"
_LEAST = -float(np.finfo(np.float64).max)  # the least finite number


def unrounded(values: Floats) -> Floats:
    """Keep float64 sums: score_precision="float32" and better."""
    return values


class Confidence(Protocol):
    """How a head's confidences are to be read: straight lines between knots
    (`eyas.drafters.acceptance`)."""

    @property
    def knots(self) -> Floats:
        """(P,) confidences, ascending from 0 to 1."""

    @property
    def rates(self) -> Floats:
        """(D, P) what they map to, per depth; the last row serves all deeper levels."""

    def __call__(self, log_confidences: Floats, depth: int) -> Floats:
        """The map, from logs (F, K) to logs."""


# How a copy and the draft's own view of it agree, in odds (fitted: docs/log.md, 2026-11-28).
DOUBT = 0.32  # of a copy whose token the draft does not see coming
TRUST = 2.3  # in the draft's odds, times the root of the copy's
MOST_JOINT = 1.0 - 1e-15  # what is left for the token's siblings has a logarithm


def joint_rate(rate: float, seen: float) -> float:
    """The rate of an expected token that the draft gives the rate `seen`; never quite 1."""
    if seen >= MOST_JOINT:
        return MOST_JOINT
    odds = rate / (1.0 - rate)
    joint = DOUBT * odds + TRUST * math.sqrt(odds) * (seen / (1.0 - seen))
    return min(MOST_JOINT, joint / (1.0 + joint))


class Candidates:
    """Candidates, grown level by level.

    Args:
        top_k: nodes of a frontier.
        terminal: tokens that end an answer and are never expanded.
        rounding: rounds each sum of logs (score_precision).
        by_value: False expands by a node's own confidence instead of its value.
        confidence: maps own confidences before they are multiplied.
    """

    def __init__(
        self,
        top_k: int,
        terminal: Collection[int] = (),
        rounding: Rounding = unrounded,
        by_value: bool = True,
        confidence: Confidence | None = None,
    ) -> None:
        self._top_k = top_k
        self._terminal = terminal
        self._rounding = rounding
        self._by_value = by_value
        self._confidence = confidence
        self._size = 0
        self._levels: list[_Level] = []
        self._expected: list[tuple[int, float]] = []  # the chain's tokens to come, and their rates
        self._expected_below = -1  # flat index of the chain's last node, -1 is the root
        self._joined: list[float] = []  # log values of its nodes so far

    def expect(self, token_ids: Sequence[int], rates: Sequence[float]) -> None:
        """Expect a chain below the root before the first level; for candidates by value.

        Args:
            token_ids: (L,) from the root on.
            rates: (L,) inside (0, 1): at which each is accepted if the one before was.
        """
        assert not self._levels, "a chain begins below the root"
        self._expected = [*zip(token_ids, rates, strict=True)]

    def grow(self, parents: Sequence[int], token_ids: Ints, log_confidences: Floats) -> None:
        """Add a level.

        Args:
            parents: (F,) flat indices of nodes of the newest level; BELOW_ROOT for the first.
            token_ids: (F, K) children, most confident first.
            log_confidences: (F, K) natural logs; clamped to <= 0, so that a child never beats its parent.

        Raises:
            FloatingPointError: a confidence is not a number.
        """
        own = np.minimum(log_confidences, 0.0)
        if math.isnan(own.sum()):
            raise FloatingPointError(NO_NUMBER)
        if self._confidence is not None:
            own = self._confidence(own, 1 + len(self._levels))
        tokens: list[int] = token_ids.ravel().tolist()
        width = token_ids.shape[1]
        if self._expected and self._expected_below in parents:
            row = parents.index(self._expected_below)
            rank = self._join(tokens, own[row], row * width)
            self._expected_below = self._size + row * width + rank
        if self._levels:
            newest = self._levels[-1]
            above = newest.log_values[[parent - newest.first for parent in parents]]
        else:
            above = np.zeros(1)
        values = self._rounding(own + above[:, None]).ravel()  # V_child = V_parent * c_child
        if self._expected_below >= self._size:
            self._joined.append(float(values[self._expected_below - self._size]))
        merit = values if self._by_value else own.ravel()
        if self._by_value and self._expected and self._expected_below >= self._size:
            # Its best child is there already: what the draft could add is worth so much less.
            merit = merit.copy()
            merit[self._expected_below - self._size] += math.log1p(-self._expected[0][1])
        self._levels.append(_Level(self._size, width, parents, tokens, values, merit))
        self._size += len(tokens)

    def _join(self, tokens: list[int], own: Floats, first: int) -> int:
        """The chain's next token joins the children `own` (K,), whose tokens begin at `first`; its rank."""
        token, rate = self._expected.pop(0)
        children = tokens[first : first + len(own)]
        rank = children.index(token) if token in children else len(own) - 1
        seen = float(own[rank]) if token in children else -math.inf
        tokens[first + rank] = token
        joint = joint_rate(rate, math.exp(seen))
        if math.log(joint) > seen:
            own += math.log1p(-joint) - math.log1p(-math.exp(seen))
            own[rank] = math.log(joint)
        return rank

    def expected_values(self) -> list[float]:
        """Values of the chain's tokens, those that have joined and the others, as probabilities."""
        values = [math.exp(value) for value in self._joined]
        above = values[-1] if values else 1.0
        return values + [*accumulate((rate for _, rate in self._expected), mul, initial=above)][1:]

    def add_rest(self) -> None:
        """Add what is left of the chain; the last step."""
        if not self._expected:
            return
        above = self._joined[-1] if self._joined else 0.0
        parents = [self._expected_below, *range(self._size, self._size + len(self._expected) - 1)]
        logs = (math.log(rate) for _, rate in self._expected)
        values = np.array([*accumulate(logs, initial=above)][1:])
        tokens = [token for token, _ in self._expected]
        self._levels.append(_Level(self._size, 1, parents, tokens, values, values))
        self._size += len(tokens)
        self._expected = []

    def frontier(self) -> Nodes:
        """The `top_k` best nodes of the newest level, best first, ties to the lower flat index.

        Left out is what cannot be expanded: nodes of value 0, and tokens that end an answer. A parent row
        counts the parents that the level was grown with. The log value of a node whose child is expected is
        that without this child.
        """
        level = self._levels[-1]
        values, tokens = level.log_values.tolist(), level.token_ids
        chosen: list[int] = []
        for at in np.argsort(-level.merit, kind="stable").tolist():
            if len(chosen) == self._top_k:
                break
            if values[at] > -math.inf and tokens[at] not in self._terminal:
                chosen.append(at)
        return (
            [level.first + at for at in chosen],
            [tokens[at] for at in chosen],
            (level.merit if self._by_value else level.log_values)[chosen].tolist(),
            [at // level.width for at in chosen],
        )

    def newest_values(self) -> list[float]:
        """Values of the newest level's nodes, as probabilities; the chain's is left out."""
        level = self._levels[-1]
        values = [math.exp(value) for value in level.log_values.tolist()]
        if self._expected_below >= level.first:
            del values[self._expected_below - level.first]
        return values

    def best(self, root: int, count: int) -> Arrays:
        """The tree, under `root`, of the `count` candidates of highest value over all levels.

        The order "value descending, then flat index ascending" puts every parent before its children, so
        its first elements are ancestor-closed under any ties (docs/laws.md, L5).
        """
        values = [level.log_values for level in self._levels]
        return self._tree(root, best_of(np.concatenate(values), count) if values else [])

    def expanded(self, root: int, count: int) -> Arrays:
        """The tree of the nodes that were expanded, and the best of the last level: without rerank.

        They are taken level by level, of each level the best first, until there are `count`. Where a node is
        taken its parent was expanded, and so is taken too.
        """
        frontiers = [level.parents for level in self._levels[1:]]
        if self._levels:
            frontiers.append(self.frontier()[0])
        return self._tree(root, sorted([*chain.from_iterable(frontiers)][:count]))

    def _tree(self, root: int, kept: list[int]) -> Arrays:
        """The candidates `kept`, ascending flat indices: so level by level, parents before children."""
        node_of = {-1: 0}  # flat index -> node
        token_ids, parents, log_values = [root], [-1], [0.0]
        levels = iter(self._levels)
        level, end = None, 0
        for flat in kept:
            while level is None or flat >= end:
                level = next(levels)
                end = level.first + len(level.token_ids)
            at = flat - level.first
            node_of[flat] = len(token_ids)
            token_ids.append(level.token_ids[at])
            parents.append(node_of[level.parents[at // level.width]])
            log_values.append(level.log_values.item(at))
        return (
            np.array(token_ids, dtype=np.int64),
            np.array(parents, dtype=np.int64),
            np.array(log_values),
        )


@dataclass(frozen=True, slots=True)
class _Level:
    """The candidates of one level: `width` children of each of `parents`."""

    first: int  # flat index of the first
    width: int
    parents: Sequence[int]  # flat indices, -1 is the root
    token_ids: list[int]
    log_values: Floats
    merit: Floats  # what the frontier is chosen by


def best_of(values: Floats, count: int) -> list[int]:
    """Indices of the `count` largest finite values, ascending; of equal ones the lower indices are taken."""
    if count < len(values):
        edge = np.partition(values, len(values) - count)[len(values) - count].item()
    else:
        edge = -math.inf
    kept: list[int] = np.flatnonzero(values >= max(edge, _LEAST)).tolist()
    if len(kept) > count:  # too many tie at the edge: the last ones go
        ties = [at for at in kept if values.item(at) == edge]
        dropped = set(ties[count - len(kept) :])
        kept = [at for at in kept if at not in dropped]
    return kept
