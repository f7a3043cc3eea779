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

import numpy as np

from eyas.drafters.policy.time_budget import SequenceCosts, TimeBudget
from eyas.drafters.ranked import TreeLimits
from eyas.drafters.tree_builder import RANKS, AnyTreeBuilder, CycleTimes, SizeCosts
from eyas.engine.batch_cost import SequenceShare
from eyas.engine.costs import MAX_ROWS, CostTable

FIRST_WORTH = (0.6, 0.12, 0.05)  # of a node's children, as shares of its value, before any was seen

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
        self._times = CycleTimes(costs.cycle, costs.levels, costs.root_ms)
        self._worth = np.tile(np.array(FIRST_WORTH), (limits.depth + 1, 1))
        self.spent_ms = costs.plain  # by the cycle under way, as the table predicts
        self._missed_ms = 0.0  # its share of the savings of cycles in which it skipped drafting
        self.may_draft = False  # whether the cycle under way may run the draft network

    def begin(self, *, has_chain: bool, unread: int = 1, context: int | None = None) -> SizeCosts | None:
        """Begin a cycle: the costs that decide its tree, or None where plain decoding is best.

        Args:
            has_chain: whether a chain is expected without drafting.
            unread: committed tokens that the draft network would read first.
            context: committed tokens; None for as many as the table was measured behind.
        """
        costs = self._costs if context is None else self._costs.at(context)
        first = SequenceCosts.of(costs, self._share, 1 + RANKS)
        self._time.plain_ms = self.spent_ms = first.cycle_ms[0]
        self._share.set_draft_ms(0.0)
        left_ms = self._time.left_ms
        is_affordable = self._can_draft and costs.root_ms + first.cycle_ms[1] <= left_ms
        self.may_draft = is_affordable and self._pays_in_batch(first, unread)
        if not (self.may_draft or has_chain):
            return None
        own = first if self._share.is_single else SequenceCosts.of(costs, self._share)
        if own.cycle_ms is not self._times.cycle_ms:  # farther behind, or in another batch
            self._times = CycleTimes(own.cycle_ms, costs.levels, costs.root_ms)
        return SizeCosts(
            times=self._times,
            left_ms=left_ms,
            max_nodes=min(self._limits.draft_tokens, MAX_ROWS - 1),
            other_ms=own.other_ms,
            other_tokens=own.other_tokens,
            worth=self._worth,
        )

    def _pays_in_batch(self, costs: SequenceCosts, unread: int) -> bool:
        """Whether level 1 saves the batch enough; at batch size 1 the credit is used instead."""
        if self._share.is_single:
            return True
        least = LEAST_GAIN * (self._costs.root_ms + costs.cycle_ms[1] - costs.cycle_ms[0])
        saving = costs.saving(self._worth[1].tolist(), self._costs.root_ms) - least
        if saving <= 0:
            return False
        if saving + self._missed_ms < self._costs.reading(unread):
            # All sequences see this saving, but only one of them can have it.
            self._missed_ms += saving / self._share.batch.size
            return False
        self._missed_ms = 0.0
        return True

    def spend(self, builder: AnyTreeBuilder) -> None:
        """The tree of the cycle under way is complete."""
        self._share.set_draft_ms(builder.spent_ms)
        self.spent_ms = builder.cycle_ms

    def end_cycle(self, tokens: int) -> None:
        """The cycle emitted `tokens` tokens."""
        self._time.add_cycle(tokens, self.spent_ms)
