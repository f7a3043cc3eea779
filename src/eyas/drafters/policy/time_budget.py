"""Milliseconds by the cost table: what a sequence may spend on drafting, and its costs within a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Self

from eyas.engine.batch_cost import SequenceShare
from eyas.engine.costs import MAX_ROWS, CostTable

# In cycles of plain decoding. On answers of 128 tokens the credit is 2 % of their time.
FIRST_CREDIT = 1.25
CREDIT_GROWTH = 0.12  # times the square root of the tokens so far
MOST_SAVINGS = 3.0  # more is forgotten, so that a good beginning cannot pay for a long bad end


@dataclass
class TimeBudget:
    """Time saved against plain decoding, plus a credit that grows with the square root of the tokens.

    Since no cycle may exceed `left_ms`, no answer takes longer than plain decoding by more than the credit.
    """

    plain_ms: float  # a cycle of plain decoding
    savings_ms: float = 0.0
    tokens: int = 0  # emitted so far

    @property
    def left_ms(self) -> float:
        """Time that the next cycle may take: a plain cycle, the savings and the credit."""
        credit = self.plain_ms * (FIRST_CREDIT + CREDIT_GROWTH * math.sqrt(self.tokens))
        return self.plain_ms + self.savings_ms + credit

    def add_cycle(self, tokens: int, spent_ms: float) -> None:
        """Record a cycle that emitted `tokens` tokens in `spent_ms`."""
        self.tokens += tokens
        gain = tokens * self.plain_ms - spent_ms
        self.savings_ms = min(self.savings_ms + gain, MOST_SAVINGS * self.plain_ms)


class SequenceCosts(NamedTuple):
    """The costs of a cycle as one of its sequences sees them.

    Attributes:
        cycle_ms: [n] milliseconds that count as its own if n of its draft tokens are verified: an equal share
            of a cycle in which no sequence drafts, plus what the draft tokens add to the pass.
        other_ms: milliseconds of the cycle that are not its own.
        other_tokens: expected tokens of the other sequences.
    """

    cycle_ms: Sequence[float]
    other_ms: float = 0.0
    other_tokens: float = 0.0

    @classmethod
    def of(cls, costs: CostTable, share: SequenceShare, sizes: int = MAX_ROWS) -> Self:
        """The costs of 0 to `sizes` - 1 draft tokens; at batch size 1 they are those of the whole cycle."""
        if share.is_single:
            return cls(costs.cycle)
        batch = share.batch
        plain_share = costs.overhead_ms + costs.verify(batch.size) / batch.size
        passes = costs.verify_from(batch.query_tokens - share.query_tokens + 1, sizes)
        plain = passes[0]
        drafting = batch.draft_ms - share.draft_ms
        return cls(
            cycle_ms=[plain_share + ms - plain for ms in passes],
            other_ms=plain + batch.size * costs.overhead_ms + drafting - plain_share,
            other_tokens=batch.expected_tokens - share.expected_tokens,
        )

    def saving(self, values: Sequence[float], draft_ms: float) -> float:
        """Milliseconds of the whole cycle that draft tokens of these values save, if drafting takes
        `draft_ms`.

        The best number of them is kept, best first. The comparison is with the same tokens in cycles in which
        this sequence does not draft.
        """
        token_ms = (self.other_ms + self.cycle_ms[0]) / (1.0 + self.other_tokens)
        sizes = zip(accumulate(values), self.cycle_ms[1:], strict=False)
        return max(tokens * token_ms - ms for tokens, ms in sizes) + self.cycle_ms[0] - draft_ms
