"""How large a cost-aware tree gets, slowly: what `eyas.drafters.tree_builder` is held against.

The rules are those of `eyas.drafters.policy.cost_aware`.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from reference.candidates import BELOW_ROOT, Candidates


class Growth:
    """One tree under way: the best values of its nodes, and what was spent on it.

    Args:
        cycle: [n] milliseconds that count as the sequence's own if n draft tokens are verified.
        levels: [n] milliseconds of expanding n + 1 nodes.
        root_ms: milliseconds of the first level.
        left_ms: milliseconds that drafting and verifying may take.
        max_nodes: no tree is larger; below the length of `cycle`.
        other_ms: milliseconds of the cycle beside the sequence's own.
        other_tokens: what the cycle is expected to give other sequences.
    """

    def __init__(
        self,
        cycle: Sequence[float],
        levels: Sequence[float],
        root_ms: float,
        left_ms: float,
        max_nodes: int,
        other_ms: float,
        other_tokens: float,
    ) -> None:
        self._cycle = cycle
        self._levels = levels
        self._left_ms = left_ms
        self._max_nodes = max_nodes
        self._other_ms = other_ms
        self._other_tokens = other_tokens
        self._best: list[float] = []  # values that were drafted, descending
        self._expected: Sequence[float] = ()
        self._root_ms = root_ms
        self.spent = 0.0  # milliseconds of drafting
        self.size = 0  # how many of the best to keep
        self._rate = 0.0  # expected tokens a millisecond with so many

    @property
    def time(self) -> float:
        """Milliseconds of the sequence's own, the pass over the nodes that are kept included."""
        return self.spent + self._cycle[self.size]

    def expect(self, values: Sequence[float]) -> None:
        """Nodes of such values are there beside what is drafted."""
        self._expected = values
        self.size, self._rate = self._best_size(self._with(()), self.spent)

    def begins(self, share: float, worth: Sequence[float]) -> bool:
        """Whether the first level is wanted beside what is expected.

        Args:
            share: of the root's value that is left for other children.
            worth: of the root's best children, as shares of that.
        """
        more = [share * each for each in worth]
        return self._best_size(self._with(more), self._root_ms)[1] > self._rate

    def add(self, values: Sequence[float], expanded: int) -> None:
        """A level of such values was drafted below `expanded` nodes; 0 is the first."""
        self.spent += self._levels[expanded - 1] if expanded else self._root_ms
        self._best = sorted([*self._best, *values], reverse=True)[: self._max_nodes]
        self.size, self._rate = self._best_size(self._with(()), self.spent)

    def wanted(self, log_values: Sequence[float], worth: Sequence[float]) -> int:
        """How many nodes of a frontier with these values, descending, to expand: 0 ends the tree.

        Args:
            log_values: natural logs of the values.
            worth: of a node's best children, as shares of its value.
        """
        values = [math.exp(value) for value in log_values]
        least = self._with(())[self.size - 1] if self.size else math.inf
        count = sum(value >= least for value in values)
        if not count:
            return 0
        more = [value * share for value in values[:count] for share in worth]
        _, larger = self._best_size(self._with(more), self.spent + self._levels[count - 1])
        return count if larger > self._rate else 0

    def _with(self, more: Sequence[float]) -> list[float]:
        """The best values of those drafted so far, those expected and `more`."""
        return sorted([*self._best, *self._expected, *more], reverse=True)[: self._max_nodes]

    def _best_size(self, best: Sequence[float], spent: float) -> tuple[int, float]:
        """How many of the `best` values, descending, give most tokens a millisecond, and that rate."""
        plain = 1.0 + self._other_tokens
        size, rate = 0, plain / (self._other_ms + self._cycle[0] + spent)
        for count, tokens in enumerate(accumulate(best, initial=plain)):
            time = self._cycle[count] + spent
            if time > self._left_ms:
                break
            if tokens > rate * (self._other_ms + time):
                size, rate = count, tokens / (self._other_ms + time)
        return size, rate


def grow_by_costs(candidates: Candidates, growth: Growth, worth, chain, expand, depth, ranks=3, memory=0.1):
    """A cost-aware tree's levels: expands `candidates`, updates `growth` and `worth`.

    Args:
        worth: (D + 1, ranks) worth of children by depth, as shares of their parent's value; updated.
        chain: token ids and rates of what is expected below the root; empty for nothing.
        expand: children (F, K) and log confidences of a frontier (tokens, parent rows); None is the root.
        depth: levels at most; 0 for the chain alone.
    """
    tokens, rates = chain
    if tokens:
        candidates.expect(tokens, rates)
        growth.expect(candidates.expected_values())
    flat, frontier, above = BELOW_ROOT, None, 1.0
    for level in range(1, depth + 1):
        if level == 1 and tokens and not growth.begins(1.0 - rates[0] * rates[0], worth[1]):
            break
        if level > 1:
            flat, token_ids, logs, rows = candidates.frontier()
            count = growth.wanted(logs, worth[level])
            if not count:
                break
            flat, frontier, above = flat[:count], (token_ids[:count], rows[:count]), math.exp(logs[0])
        candidates.grow(flat, *expand(frontier))
        values = candidates.newest_values()
        if tokens:
            growth.expect(candidates.expected_values())
        else:
            for rank, value in enumerate(values[:ranks]):
                worth[level][rank] += memory * (value / above - worth[level][rank])
        growth.add(values, 0 if level == 1 else len(flat))
    candidates.add_rest()
