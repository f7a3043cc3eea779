"""Cost-aware trees (`--tree auto`): in each cycle the tree with the most expected tokens per millisecond.

A node's value estimates the probability that it is accepted, so a tree of n draft tokens yields 1 + the sum
of their values, in a time that the cost table gives (`eyas.engine.costs`). This leads to four rules on top of
EAGLE-2's expansion and rerank (arXiv 2406.16858, Sec. 4):

* Keep the n best nodes, where n maximises expected tokens / expected time.
* Expand one more level while that raises this maximum. The next level is predicted from what children of that
  depth have been worth so far. A node that would not be kept itself is not expanded.
* Include the expected continuation, if there is one (`eyas.drafters.policy.lookup`), and draft next to it
  only if that raises the maximum too.
* Draft only within a time budget (`eyas.drafters.policy.time_budget`): the time saved so far plus a credit of
  a few plain cycles. While it is used up nothing is drafted; the credit grows with the square root of the
  tokens, so retries become rarer, and a success pays for the next ones. Not counted is what the network
  reads: each committed token at most once, and of a long prompt only its end.

Decisions use the table and the answer's own counts, never a clock: the same table and the same answer give
the same trees again.

In a batch, expected tokens and expected time are those of the whole cycle, and a draft token costs what it
adds to the pass over the query tokens of all sequences: trees shrink as the load grows. No credit is used
there. A sequence drafts only if level 1, at its mean worth so far, should save 1.5 times its cost. A sequence
that skipped drafting resumes once its share of the savings it missed covers the tokens that the draft network
has to catch up on. Token ids never depend on any of this (docs/laws.md, L8).
"""

import math
from collections.abc import Sequence

from eyas.drafters.candidates import AnyCandidates
from eyas.drafters.expansion import Expansion
from eyas.drafters.policy.growth import AnyGrowth, new_growth
from eyas.drafters.policy.lookup import NO_CHAIN, ExpectedChain
from eyas.drafters.policy.time_budget import SequenceCosts, TimeBudget
from eyas.drafters.ranked import Expand, Frontier, TreeLimits
from eyas.engine.batch_cost import SequenceShare
from eyas.engine.costs import MAX_ROWS, CostTable
from eyas.engine.tree import DraftTree, root_only

RANKS = 3  # siblings whose worth is remembered, by depth
FIRST_WORTH = (0.6, 0.12, 0.05)  # of a node's children, as shares of its value, before any was seen
MEMORY = 0.1  # weight of the newest level in the mean

# In a batch level 1 has to save this much more than it costs, as a share of its cost: less is within the
# error of the table and of the predicted worth, while the passes are certain to cost.
LEAST_GAIN = 0.5


class CostAwareTrees:
    """The decisions of one answer. They depend on the table, the answer's own counts and its batch only.

    Args:
        costs: the table.
        limits: of the tree.
        share: of the batch's costs; None for batch size 1.
        can_draft: False for a method without a network: its trees hold expected continuations alone.
    """

    def __init__(
        self,
        costs: CostTable,
        limits: TreeLimits,
        share: SequenceShare | None = None,
        *,
        can_draft: bool = True,
    ) -> None:
        self._costs = costs
        self._limits = limits
        self._share = share or SequenceShare()
        self._can_draft = can_draft
        self._time = TimeBudget(costs.plain)
        self._worth: list[list[float]] = [list(FIRST_WORTH) for _ in range(limits.depth + 1)]
        self._spent_ms = costs.plain  # by the cycle under way
        self._missed_ms = 0.0  # its share of the savings of cycles in which it skipped drafting
        self._may_draft = False
        self._chain = NO_CHAIN

    def begin(
        self, unread: int = 1, context: int | None = None, chain: ExpectedChain = NO_CHAIN
    ) -> AnyGrowth | None:
        """Begin a cycle: the size of its tree under way, or None where plain decoding is best.

        Args:
            unread: committed tokens that the draft network would read first.
            context: committed tokens; None for as many as the table was measured behind.
            chain: expected without drafting.
        """
        costs = self._costs if context is None else self._costs.at(context)
        first = SequenceCosts.of(costs, self._share, 1 + RANKS)
        self._time.plain_ms = self._spent_ms = first.cycle_ms[0]
        self._share.set_draft_ms(0.0)
        is_affordable = self._can_draft and costs.root_ms + first.cycle_ms[1] <= self._time.left_ms
        self._may_draft = is_affordable and self._pays_in_batch(first, unread)
        self._chain = chain
        if not (self._may_draft or chain):
            return None
        own = SequenceCosts.of(costs, self._share)
        return new_growth(
            own.cycle_ms,
            costs.levels,
            costs.root_ms,
            self._time.left_ms,
            min(self._limits.draft_tokens, MAX_ROWS - 1),
            own.other_ms,
            own.other_tokens,
        )

    def _pays_in_batch(self, costs: SequenceCosts, unread: int) -> bool:
        """Whether level 1 saves the batch enough; at batch size 1 the credit is used instead."""
        if self._share.is_single:
            return True
        least = LEAST_GAIN * (self._costs.root_ms + costs.cycle_ms[1] - costs.cycle_ms[0])
        saving = costs.saving(self._worth[1], self._costs.root_ms) - least
        if saving <= 0:
            return False
        if saving + self._missed_ms < self._costs.reading(unread):
            # All sequences see this saving, but only one of them can have it.
            self._missed_ms += saving / self._share.batch.size
            return False
        self._missed_ms = 0.0
        return True

    def grow(
        self,
        root: int,
        growth: AnyGrowth,
        candidates: AnyCandidates,
        expand: Expand | None,
        *,
        max_depth: int,
    ) -> DraftTree:
        """The best tree for this cycle; maybe the root alone.

        Args:
            root: token id at the top.
            growth: what `begin` gave.
            candidates: none yet.
            expand: drafts a level; None where `may_draft` is False.
            max_depth: no node is deeper.
        """
        expansion = Expansion(candidates)
        frontier: Frontier | None = None
        if self._chain:
            expansion.expect(self._chain.token_ids, self._chain.rates)
            growth.expect(expansion.expected_values())
        for depth in range(1, 1 + min(self._limits.depth, max_depth) if expand else 1):
            if depth == 1 and not self._begins(growth):
                break
            if depth > 1:
                frontier = expansion.frontier()
                count = growth.wanted(frontier.log_values, self._worth[depth])
                if not count:
                    break
                frontier = frontier.first(count)
            assert expand is not None, "drafting was allowed"
            expansion.grow(frontier, *expand(frontier, self._limits.top_k))
            values = expansion.newest_values()
            if self._chain:  # joined values do not measure what the draft alone is worth
                growth.expect(expansion.expected_values())
            else:
                above = 1.0 if frontier is None else math.exp(frontier.log_values[0])
                self._remember(depth, [value / above for value in values[:RANKS]])
            growth.add(values, 0 if frontier is None else len(frontier.token_ids))
        expansion.add_rest()
        size = growth.size
        self._share.set_draft_ms(growth.spent)
        self._spent_ms = growth.time
        return expansion.rerank(root, size) if size else root_only(root)

    @property
    def may_draft(self) -> bool:
        """Whether the cycle under way may run the draft network."""
        return self._may_draft

    def _begins(self, growth: AnyGrowth) -> bool:
        """Whether to draft at all. Without a chain always, to learn what it is worth; next to one if it pays.

        A chain whose first token has rate r leaves 1 - r to other children. But the draft also tells good
        chains from bad ones: counting 1 - r^2 was better in all six categories tried (docs/log.md,
        2026-11-28).
        """
        if not self._may_draft:
            return False
        return not self._chain or growth.begins(1.0 - self._chain.rates[0] ** 2, self._worth[1])

    def end_cycle(self, tokens: int) -> None:
        """The cycle emitted `tokens` tokens."""
        self._time.add_cycle(tokens, self._spent_ms)

    def _remember(self, depth: int, shares: Sequence[float]) -> None:
        """The first frontier node's best children at `depth` were worth these shares of its value."""
        worth = self._worth[depth]
        for rank, share in enumerate(shares):
            worth[rank] += MEMORY * (share - worth[rank])
