"""A dynamic draft tree under construction: one call for each level.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4.1 (expansion) and 4.2 (rerank). `native/tree_builder.cpp` builds
the trees where it is compiled: a cycle takes milliseconds, and a tree has a dozen small steps. The class here
is short and plain, and serves elsewhere; the tests hold both against a slow reference (`tests/reference`).

A candidate's *flat index* decides ties. Level 1 has indices 0..K-1; each later level has K^2, parent by
parent in the frontier's order, each parent's children from most to least confident:

    level 1    a  b                    flat  0 1
    level 2    a's children, b's       flat  2 3 | 4 5       (K = 2; frontier order a, b)
    level 3    of the two best of level 2, best first: flat 6 7 | 8 9

A value is the product of the confidences on the path, kept as a sum of natural logs.

One chain below the root may be *expected*: its tokens have rates of their own. Where its next token is below
a parent that is expanded, its rate and the draft's confidence are joined, it takes the last child's place if
the draft does not name it, and what it gains its siblings lose. The rest of the chain, below no expanded
parent, comes as flat indices after all levels.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from eyas.drafters.acceptance import AcceptanceMap
from eyas.engine.tree import Floats, Ints
from eyas.models.compiled import native

if TYPE_CHECKING:
    from eyas import _native

Rounding = Callable[[Floats], Floats]
Arrays = tuple[Ints, Ints, Floats]  # token ids, parents and log values of a tree's nodes, (N,) each
Node = tuple[int, ...]  # the sibling ranks on its path: (0, 2) is the third child of the best child
AnyTreeBuilder = Union["TreeBuilder", "_native.TreeBuilder"]

NO_NUMBER = "the draft gave a confidence that is not a number (docs/laws.md, L5)"
RANKS = 3  # siblings whose worth is remembered, by depth
MEMORY = 0.1  # weight of the newest level in the mean worth
_NEVER = 1e-300  # a rate that adds nothing, and has a logarithm


def unrounded(values: Floats) -> Floats:
    """Keep float64 sums: score_precision="float32" and better."""
    return values


class TreeShape:
    """Which nodes a tree may have, by their sibling ranks.

    Args:
        nodes: with a node its parent is among them too, and so are its better siblings.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        ordered = [(), *sorted(nodes, key=lambda node: (len(node), node))]
        index = {node: at for at, node in enumerate(ordered)}
        self.num_children = [0] * len(ordered)  # of each node; the root is node 0
        self.first_child = [0] * len(ordered)  # the others follow it
        for node in ordered[1:]:
            parent = index[node[:-1]]
            self.first_child[parent] = self.first_child[parent] or index[node]
            self.num_children[parent] += 1


class ExpectedChain(NamedTuple):
    """A chain below the root, and the rate, inside (0, 1), at which each token follows the one before."""

    token_ids: Sequence[int] = ()
    rates: Sequence[float] = ()


NO_CHAIN = ExpectedChain()


class CycleTimes:
    """Milliseconds by which trees are sized; compiled, for the many cycles that share them.

    Args:
        cycle_ms: [n] counts as the sequence's own if n draft tokens are verified.
        level_ms: [n] expanding n + 1 nodes.
        root_ms: the first level.
    """

    def __init__(self, cycle_ms: Sequence[float], level_ms: Sequence[float], root_ms: float) -> None:
        self.cycle_ms, self.level_ms, self.root_ms = cycle_ms, level_ms, root_ms
        self.compiled = None if native is None else native.CycleTimes(cycle_ms, level_ms, root_ms)


class SizeCosts(NamedTuple):
    """The costs that decide how large a tree gets.

    Attributes:
        times: of any tree.
        left_ms: what drafting and verifying may take.
        max_nodes: no tree is larger; below the number of the cycle's times.
        other_ms: of the cycle, but not the sequence's own.
        other_tokens: expected tokens of other sequences.
        worth: (D + 1, RANKS) of children, as shares of their parent's value, by their depth; kept up to date.
    """

    times: CycleTimes
    left_ms: float
    max_nodes: int
    other_ms: float
    other_tokens: float
    worth: Floats


class TreeRules:
    """What the trees of an answer have in common; compiled, once, where that is possible.

    Args:
        top_k: nodes of a frontier.
        terminal: tokens that end an answer and are never expanded.
        by_value: False expands by a node's own confidence instead of its value.
        rounding: rounds each sum of logs (score_precision).
        acceptance: maps confidences to acceptance rates before they are multiplied.
        shape: which nodes may be drafted.
    """

    def __init__(
        self,
        top_k: int,
        terminal: Collection[int] = (),
        *,
        by_value: bool = True,
        rounding: Rounding = unrounded,
        acceptance: AcceptanceMap | None = None,
        shape: TreeShape | None = None,
    ) -> None:
        self.top_k, self.terminal = top_k, terminal
        self.by_value, self.rounding = by_value, rounding
        self.acceptance, self.shape = acceptance, shape
        self._compiled: _native.TreeRules | None = None
        if native is not None and rounding is unrounded:
            self._compiled = native.TreeRules(
                top_k,
                [*terminal],
                by_value,
                None if acceptance is None else acceptance.knots,
                None if acceptance is None else acceptance.rates,
                () if shape is None else shape.first_child,
                () if shape is None else shape.num_children,
            )

    def builder(
        self, depth: int, chain: ExpectedChain = NO_CHAIN, costs: SizeCosts | None = None
    ) -> AnyTreeBuilder:
        """A tree without nodes. The arguments are those of `TreeBuilder`."""
        if self._compiled is None:
            return TreeBuilder(self, depth, chain, costs)
        builder = native.TreeBuilder(self._compiled, depth, *chain)
        if costs is not None:
            assert costs.times.compiled is not None, "compiled as the rules are"
            builder.size_by_costs(costs.times.compiled, *costs[1:])
        return builder


# How the rate of an expected token and the draft's confidence in it combine, in odds (docs/log.md,
# 2026-11-28).
DOUBT = 0.32  # of a token that the draft does not see coming
TRUST = 2.3  # in the draft's odds, times the root of the chain's
MOST_JOINT = 1.0 - 1e-15  # what is left for the token's siblings has a logarithm


def joint_rate(rate: float, seen: float) -> float:
    """The rate of an expected token in which the draft has the confidence `seen`; never quite 1."""
    if seen >= MOST_JOINT:
        return MOST_JOINT
    odds = rate / (1.0 - rate)
    joint = DOUBT * odds + TRUST * math.sqrt(odds) * (seen / (1.0 - seen))
    return min(MOST_JOINT, joint / (1.0 + joint))


@dataclass(slots=True)
class _Candidate:
    token_id: int
    parent: int  # flat index, -1 is the root
    own: float  # log confidence
    log_value: float
    shape_node: int  # -1: outside the shape


class TreeBuilder:
    """Candidates, grown level by level, in plain Python.

    Args:
        rules: of the answer.
        depth: levels.
        chain: expected below the root; for candidates by value.
        costs: decide how deep and how large the tree gets.
    """

    def __init__(
        self, rules: TreeRules, depth: int, chain: ExpectedChain = NO_CHAIN, costs: SizeCosts | None = None
    ) -> None:
        self._top_k, self._depth, self._terminal = rules.top_k, depth, rules.terminal
        self._by_value, self._rounding = rules.by_value, rules.rounding
        self._acceptance, self._shape = rules.acceptance, rules.shape
        self._nodes: list[_Candidate] = []  # by flat index
        self._levels = 0
        self._newest, self._width = 0, 1  # flat index of the newest level's first; children of each parent
        self._frontier: list[int] = [-1]
        self._expanded: list[int] = []  # level by level, best first
        self._has_chain = bool(chain.token_ids)
        self._expected = [*zip(chain.token_ids, chain.rates, strict=True)]  # the chain's tokens to come
        self._chain_end = -1  # flat index of its last node, -1 is the root
        self._joined: list[float] = []  # log values of its nodes so far
        self._size = None if costs is None else _Size(costs)
        if self._size is not None and self._has_chain:
            self._size.expect(self._expected_values())

    @property
    def spent_ms(self) -> float:
        """Milliseconds of drafting, by costs."""
        return 0.0 if self._size is None else self._size.spent

    @property
    def cycle_ms(self) -> float:
        """Milliseconds of the sequence's own, the pass over the nodes that are kept included."""
        return 0.0 if self._size is None else self._size.time

    def begins(self) -> bool:
        """Whether level 1 pays.

        Without a chain always, to learn what it is worth. A chain whose first token has rate r leaves 1 - r
        to other children. But the draft also tells good chains from bad ones: counting 1 - r^2 was better in
        all six categories tried (docs/log.md, 2026-11-28).
        """
        if self._size is None or not self._has_chain:
            return True
        rate = self._expected_values()[0]
        return self._size.begins(1.0 - rate * rate)

    def step(self, token_ids: Ints, log_confidences: Floats) -> tuple[Ints, Ints] | None:
        """Add a level: the children of the frontier (at first of the root).

        Args:
            token_ids: (F, K), most confident first.
            log_confidences: (F, K) natural logs; clamped to <= 0, so that a child never beats its parent.

        Returns:
            What to expand next, best first: token ids (F',), and for each the row of its parent among the F;
            None at the end of the tree. Left out are nodes of value 0, tokens that end an answer, nodes
            without children in the shape, and nodes whose children would not pay.

        Raises:
            FloatingPointError: a confidence is not a number.
        """
        if np.isnan(log_confidences).any():
            raise FloatingPointError(NO_NUMBER)
        above = self._merit(self._frontier[0]) if self._levels else 0.0
        self._grow(token_ids, log_confidences)
        if self._size is not None:
            newest = range(self._newest, len(self._nodes))
            values = [math.exp(self._nodes[at].log_value) for at in newest if at != self._chain_end]
            if self._has_chain:  # joined values do not measure what the draft alone is worth
                self._size.expect(self._expected_values())
            else:
                self._size.remember(self._levels, [value / math.exp(above) for value in values[:RANKS]])
            self._size.add(values, len(self._frontier) if self._levels > 1 else 0)
        self._frontier = self._best_newest() if self._levels < self._depth else []
        if self._size is not None and self._frontier:
            log_values = [self._open_value(at) for at in self._frontier]
            self._frontier = self._frontier[: self._size.wanted(log_values, self._levels + 1)]
        if not self._frontier:
            return None
        tokens = np.array([self._nodes[at].token_id for at in self._frontier], dtype=np.int64)
        rows = np.array([(at - self._newest) // self._width for at in self._frontier], dtype=np.int64)
        return tokens, rows

    def finish(self, root: int, count: int | None = None) -> Arrays:
        """The tree, under `root`, of the `count` candidates of highest value; None is the size that costs
        decide.

        The order "value descending, then flat index ascending" puts every parent before its children, so its
        first elements are ancestor-closed under any ties (docs/laws.md, L5).
        """
        for token, rate in self._expected:
            own = math.log(rate)
            value = own + self._value_of(self._chain_end)
            self._nodes.append(_Candidate(token, self._chain_end, own, value, -1))
            self._chain_end = len(self._nodes) - 1
        self._expected = []
        if count is None:
            count = 0 if self._size is None else self._size.size
        finite = [at for at, node in enumerate(self._nodes) if node.log_value > -math.inf]
        return self._tree(root, sorted(finite, key=lambda at: (-self._nodes[at].log_value, at))[:count])

    def expanded(self, root: int, count: int) -> Arrays:
        """The tree of the nodes that were expanded, and the best of the last level: without rerank.

        They are taken level by level, of each level the best first, until there are `count`. Where a node is
        taken its parent was expanded, and so is taken too.
        """
        return self._tree(root, [*self._expanded, *self._best_newest()][:count])

    def _grow(self, token_ids: Ints, log_confidences: Floats) -> None:
        self._levels += 1
        first, self._width = len(self._nodes), token_ids.shape[1]
        joined = None
        for parent, tokens, logs in zip(
            self._frontier, token_ids.tolist(), np.minimum(log_confidences, 0.0).tolist(), strict=True
        ):
            shape_node = 0 if parent < 0 else self._nodes[parent].shape_node
            allowed = self._allowed(shape_node)
            row = len(self._nodes)
            for rank, (token, log) in enumerate(zip(tokens, logs, strict=True)):
                below = -1
                own = log if self._acceptance is None else self._mapped(log)
                if rank >= allowed:
                    own = -math.inf
                elif self._shape is not None:
                    below = self._shape.first_child[shape_node] + rank
                self._nodes.append(_Candidate(token, parent, own, 0.0, below))
            if self._expected and parent == self._chain_end:
                joined = self._join(row)
            if parent >= 0:
                self._expanded.append(parent)
        self._newest = first
        newest = self._nodes[first:]
        values = self._rounding(np.array([node.own + self._value_of(node.parent) for node in newest]))
        for node, value in zip(newest, values.tolist(), strict=True):
            node.log_value = value  # V_child = V_parent * c_child
        if joined is not None:
            self._chain_end = joined
            self._joined.append(self._nodes[joined].log_value)

    def _value_of(self, at: int) -> float:
        return 0.0 if at < 0 else self._nodes[at].log_value

    def _allowed(self, shape_node: int) -> float:
        """How many children a node may have."""
        if self._shape is None:
            return math.inf
        return self._shape.num_children[shape_node] if shape_node >= 0 else 0

    def _mapped(self, log_confidence: float) -> float:
        """The acceptance rate of a confidence on the level under way; straight lines between the knots."""
        assert self._acceptance is not None, "a map"
        depth = min(self._levels, len(self._acceptance.rates)) - 1
        rate = np.interp(math.exp(log_confidence), self._acceptance.knots, self._acceptance.rates[depth])
        return math.log(max(float(rate), _NEVER))

    def _join(self, first: int) -> int:
        """The chain's next token joins the children from `first` on; its flat index."""
        token, rate = self._expected.pop(0)
        siblings = self._nodes[first:]
        found = [rank for rank, node in enumerate(siblings) if node.token_id == token]
        rank = found[0] if found else len(siblings) - 1
        seen = siblings[rank].own if found else -math.inf
        siblings[rank].token_id = token
        joint = joint_rate(rate, math.exp(seen))
        if math.log(joint) > seen:
            for node in siblings:
                node.own += math.log1p(-joint) - math.log1p(-math.exp(seen))
            siblings[rank].own = math.log(joint)
        return first + rank

    def _expected_values(self) -> list[float]:
        """Values of the chain's tokens, those that have joined and the others, as probabilities."""
        values = [math.exp(value) for value in self._joined]
        above = values[-1] if values else 1.0
        return values + [*accumulate((rate for _, rate in self._expected), mul, initial=above)][1:]

    def _open_value(self, at: int) -> float:
        """Log value of a node without its child in the chain: what the draft could add there."""
        is_followed = at == self._chain_end and self._expected
        return self._nodes[at].log_value + (math.log1p(-self._expected[0][1]) if is_followed else 0.0)

    def _merit(self, at: int) -> float:
        """What a frontier is chosen by."""
        return self._open_value(at) if self._by_value else self._nodes[at].own

    def _best_newest(self) -> list[int]:
        """The `top_k` best nodes of the newest level that can be expanded, best first, ties to the lower."""
        chosen = [
            at
            for at in range(self._newest, len(self._nodes))
            if self._nodes[at].log_value > -math.inf
            and self._nodes[at].token_id not in self._terminal
            and self._allowed(self._nodes[at].shape_node)
        ]
        return sorted(chosen, key=lambda at: (-self._merit(at), at))[: self._top_k]

    def _tree(self, root: int, kept: Iterable[int]) -> Arrays:
        """The candidates `kept`, in the order of their flat indices: parents before children."""
        node_of = {-1: 0}  # flat index -> node
        token_ids, parents, log_values = [root], [-1], [0.0]
        for at in sorted(kept):
            node_of[at] = len(token_ids)
            token_ids.append(self._nodes[at].token_id)
            parents.append(node_of[self._nodes[at].parent])
            log_values.append(self._nodes[at].log_value)
        return np.array(token_ids, dtype=np.int64), np.array(parents, dtype=np.int64), np.array(log_values)


class _Size:
    """How large a cost-aware tree gets (`eyas.drafters.policy.cost_aware`)."""

    def __init__(self, costs: SizeCosts) -> None:
        self._costs, self._times = costs, costs.times
        self._best: list[float] = []  # values that were drafted, descending
        self._expected: Sequence[float] = ()
        self._rate = 0.0  # expected tokens a millisecond with `size` nodes
        self.spent = 0.0  # milliseconds of drafting
        self.size = 0  # how many of the best to keep

    @property
    def time(self) -> float:
        return self.spent + self._times.cycle_ms[self.size]

    def expect(self, values: Sequence[float]) -> None:
        """Nodes of these values are there without drafting."""
        self._expected = values
        self.size, self._rate = self._best_size(self._with(()), self.spent)

    def begins(self, share: float) -> bool:
        """Whether level 1 pays if the root's children are worth `share` of what they were so far."""
        more = [share * each for each in self._costs.worth[1].tolist()]
        return self._best_size(self._with(more), self._times.root_ms)[1] > self._rate

    def add(self, values: Sequence[float], expanded: int) -> None:
        """A level of these values was drafted below `expanded` nodes; 0 is level 1."""
        self.spent += self._times.level_ms[expanded - 1] if expanded else self._times.root_ms
        self._best = sorted([*self._best, *values], reverse=True)[: self._costs.max_nodes]
        self.size, self._rate = self._best_size(self._with(()), self.spent)

    def wanted(self, log_values: Sequence[float], depth: int) -> int:
        """How many nodes of a frontier with these values, descending, to expand: 0 ends the tree."""
        values = [math.exp(value) for value in log_values]
        least = self._with(())[self.size - 1] if self.size else math.inf
        count = sum(value >= least for value in values)
        if not count:
            return 0
        more = [value * share for value in values[:count] for share in self._costs.worth[depth].tolist()]
        _, larger = self._best_size(self._with(more), self.spent + self._times.level_ms[count - 1])
        return count if larger > self._rate else 0

    def remember(self, depth: int, shares: Sequence[float]) -> None:
        """The first frontier node's best children at `depth` were worth these shares of its value."""
        worth = self._costs.worth[depth]
        for rank, share in enumerate(shares):
            worth[rank] += MEMORY * (share - worth[rank])

    def _with(self, more: Sequence[float]) -> list[float]:
        """The best values of those drafted so far, those expected and `more`."""
        return sorted([*self._best, *self._expected, *more], reverse=True)[: self._costs.max_nodes]

    def _best_size(self, best: Sequence[float], spent: float) -> tuple[int, float]:
        """How many of the `best` values, descending, give most tokens a millisecond, and that rate."""
        costs = self._costs
        plain = 1.0 + costs.other_tokens
        size, rate = 0, plain / (costs.other_ms + self._times.cycle_ms[0] + spent)
        for count, tokens in enumerate(accumulate(best, initial=plain)):
            time = self._times.cycle_ms[count] + spent
            if time > costs.left_ms:
                break
            if tokens > rate * (costs.other_ms + time):
                size, rate = count, tokens / (costs.other_ms + time)
        return size, rate
