"""How much to draft: EAGLE-2's tree, grown and cut where tokens per second are best (`--tree auto`).

A node's value estimates the probability that it is accepted, so a tree of n draft tokens yields 1 + the sum
of their values, in a time that the cost table tells (`eyas.engine.costs`). That gives four rules on top of
EAGLE-2's expansion and rerank (arXiv 2406.16858, Sec. 4):

* keep the n best nodes, where n maximises expected tokens / expected time;
* expand one more level while that raises this maximum, judged by what children of that depth were worth so
  far, and expand no node that would not be kept itself;
* take in what is expected without drafting (`eyas.drafters.policy.copies`), and draft beside it only if that
raises the
  maximum too;
* draft only from a *purse*. It holds the milliseconds that drafting has saved against plain decoding, and
  may be overdrawn by a few plain cycles. While it is empty nothing is drafted; since the credit grows with
  the square root of the tokens, retries come at growing intervals, and a success pays for the next ones.
  Whatever the answer, its time exceeds plain decoding's by no more than the credit. (Not counted is what the
  draft network has to read: each committed pair at most once, in one pass for all that gathered meanwhile,
  and of a long prompt only its end.)

Nothing else decides, no clock above all: the same table and the same answer give the same trees again.

Where one pass serves several sequences, its time depends on the rows of all. Then "expected tokens" and
"expected time" are those of the whole cycle, and a draft token costs what its row adds to the rows of the
others: trees shrink as the load grows. The time of plain decoding, by which the purse counts, is then an
equal share of a cycle in which nobody drafts. Such a share is small, and what was not counted weighs more,
so in company nothing is tried on credit alone: a first level as good as those before, at first as is usual,
has to save the cycle what it costs and half as much again, and a sequence that stood aside returns when its
share of what could have been saved meanwhile, beyond that half, pays for what the draft network now has to
read. The ids never depend on any of this (docs/laws.md, L8).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from eyas.config import TreeConfig
from eyas.drafters.policy.copies import NOTHING, Copied
from eyas.drafters.policy.expansion import Draft, Expansion, Frontier
from eyas.drafters.policy.growth import AnyGrowth, new_growth
from eyas.engine.costs import MAX_ROWS, CostTable
from eyas.engine.load import Load
from eyas.engine.tree import DraftTree, root_only

# In cycles of plain decoding. On answers of 128 tokens the credit is 2 % of their time.
FIRST_CREDIT = 1.25
CREDIT_GROWTH = 0.12  # times the square root of the tokens so far
PURSE_LIMIT = 3.0  # savings beyond are forgotten, so that a good beginning cannot pay for a long bad end

RANKS = 3  # of siblings, whose worth is remembered by depth
FIRST_WORTH = (0.6, 0.12, 0.05)  # of a node's children, as shares of its value, before any was seen
MEMORY = 0.1  # weight of the newest level in the mean

# In company a first level has to save so much more than it costs, as a share of that: less is within the
# error of the table and of what children are worth, while the passes are sure to cost.
LEAST_GAIN = 0.5


@dataclass
class Purse:
    """What drafting may cost. All in milliseconds by the table."""

    plain: float  # a cycle of plain decoding
    savings: float = 0.0
    tokens: int = 0  # emitted so far

    @property
    def room(self) -> float:
        """Time that the next cycle may take: a plain cycle, the savings and the credit."""
        credit = self.plain * (FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(self.tokens))
        return self.plain + self.savings + credit

    def settle(self, tokens: int, spent: float) -> None:
        """A cycle of `spent` milliseconds gave `tokens` tokens."""
        self.tokens += tokens
        gain = tokens * self.plain - spent
        self.savings = min(self.savings + gain, PURSE_LIMIT * self.plain)


@dataclass(frozen=True, slots=True)
class Prices:
    """A cycle as one of its sequences sees it.

    Attributes:
        cycle: [n] milliseconds that count as its own if it has n draft tokens verified: its share of a cycle
            in which nobody drafts, and what its draft tokens add to the pass.
        other_ms: milliseconds of the cycle beside its own.
        other_tokens: what the cycle is expected to give the others.
    """

    cycle: Sequence[float]
    other_ms: float = 0.0
    other_tokens: float = 0.0

    def saving(self, values: Sequence[float], draft_ms: float) -> float:
        """Milliseconds of the whole cycle that draft tokens of such values save if `draft_ms` makes them.

        That is with as many of them, best first, as are best, against the same tokens in cycles where this
        sequence does not draft.
        """
        token_ms = (self.other_ms + self.cycle[0]) / (1.0 + self.other_tokens)
        sizes = zip(accumulate(values), self.cycle[1:], strict=False)
        return max(tokens * token_ms - ms for tokens, ms in sizes) + self.cycle[0] - draft_ms

    @classmethod
    def of(cls, costs: CostTable, load: Load, sizes: int = MAX_ROWS) -> Self:
        """Prices of the first `sizes` numbers of draft tokens; a sequence alone pays for the whole cycle."""
        if load.is_alone:
            return cls(costs.cycle)
        company = load.company
        share = costs.overhead_ms + costs.verify(company.count) / company.count
        passes = costs.verify_from(company.rows - load.rows + 1, sizes)
        plain = passes[0]
        drafting = company.draft_ms - load.draft_ms
        return cls(
            cycle=[share + ms - plain for ms in passes],
            other_ms=plain + company.count * costs.overhead_ms + drafting - share,
            other_tokens=company.tokens - load.tokens,
        )


class Budget:
    """The decisions of one answer. They depend on the table, the answer's own counts and its company only."""

    def __init__(self, costs: CostTable, tree: TreeConfig, load: Load | None = None) -> None:
        self._costs = costs
        self._tree = tree
        self._load = load or Load()
        self._purse = Purse(costs.plain)
        self._worth: list[list[float]] = [list(FIRST_WORTH) for _ in range(tree.depth + 1)]
        self._spent = costs.plain  # by the cycle under way
        self._missed = 0.0  # its share of what drafting would have saved while it stood aside
        self._may_draft = False
        self._copied = NOTHING

    def open(
        self, waiting: int = 1, context: int | None = None, copied: Copied = NOTHING
    ) -> AnyGrowth | None:
        """A new cycle: its tree under way, or None where it is better not to draft.

        Args:
            waiting: pairs that the draft network would have to read first.
            context: committed tokens; None for as many as the table was measured behind.
            copied: what is expected without drafting.
        """
        costs = self._costs if context is None else self._costs.at(context)
        first = Prices.of(costs, self._load, 1 + RANKS)
        self._purse.plain = self._spent = first.cycle[0]
        self._load.spend(0.0)
        can_pay = costs.root_ms + first.cycle[1] <= self._purse.room
        self._may_draft = can_pay and self._pays(first, waiting)
        self._copied = copied
        if not (self._may_draft or copied):
            return None
        prices = Prices.of(costs, self._load)
        return new_growth(
            prices.cycle,
            costs.levels,
            costs.root_ms,
            self._purse.room,
            min(self._tree.draft_tokens, len(prices.cycle) - 1),
            prices.other_ms,
            prices.other_tokens,
        )

    def _pays(self, prices: Prices, waiting: int) -> bool:
        """Whether a first level serves the company; a sequence alone may draw on its credit."""
        if self._load.is_alone:
            return True
        least = LEAST_GAIN * (self._costs.root_ms + prices.cycle[1] - prices.cycle[0])
        saving = prices.saving(self._worth[1], self._costs.root_ms) - least
        if saving <= 0:
            return False
        if saving + self._missed < self._costs.reading(waiting):
            self._missed += saving / self._load.company.count  # all see it, but it is there for one of them
            return False
        self._missed = 0.0
        return True

    def grow(
        self, root: int, growth: AnyGrowth, expansion: Expansion, draft: Draft, *, max_depth: int
    ) -> DraftTree:
        """A tree as large as it pays; maybe the root alone.

        Args:
            root: token id at the top.
            growth: what `open` gave.
            expansion: empty.
            draft: as in `eyas.drafters.policy.expansion.grow_tree`.
            max_depth: no node is deeper.
        """
        frontier: Frontier | None = None
        if self._copied:
            expansion.expect(self._copied.token_ids, self._copied.rates)
            growth.expect(expansion.expected_values())
        for depth in range(1, 1 + min(self._tree.depth, max_depth)):
            if depth == 1 and not self._begins(growth):
                break
            if depth > 1:
                frontier = expansion.frontier()
                count = growth.wanted(frontier.log_values, self._worth[depth])
                if not count:
                    break
                frontier = frontier.first(count)
            expansion.grow(frontier, *draft(frontier))
            values = expansion.newest_values()
            if self._copied:  # the draft's values are no measure of what it gives alone
                growth.expect(expansion.expected_values())
            else:
                above = 1.0 if frontier is None else math.exp(frontier.log_values[0])
                self._remember(depth, [value / above for value in values[:RANKS]])
            growth.add(values, 0 if frontier is None else len(frontier.token_ids))
        expansion.add_rest()
        size = growth.size
        self._load.spend(growth.spent)
        self._spent = growth.time
        return expansion.rerank(root, size) if size else root_only(root)

    def _begins(self, growth: AnyGrowth) -> bool:
        """Whether to draft at all. Alone always, to learn what it is worth; beside a copy where it pays.

        A copy of rate r leaves 1 - r to other children. But the draft also tells good copies from bad ones:
        counting 1 - r^2 was better in all six of the categories that were tried (docs/log.md, 2026-11-28).
        """
        if not self._may_draft:
            return False
        return not self._copied or growth.begins(1.0 - self._copied.rates[0] ** 2, self._worth[1])

    def settle(self, tokens: int) -> None:
        """The cycle emitted `tokens` tokens."""
        self._purse.settle(tokens, self._spent)

    def _remember(self, depth: int, shares: Sequence[float]) -> None:
        """The first frontier node's best children at `depth` were worth these shares of its value."""
        worth = self._worth[depth]
        for rank, share in enumerate(shares):
            worth[rank] += MEMORY * (share - worth[rank])
