"""What each sequence adds to the cost of a cycle that serves a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class BatchTotals:
    """Sums over the sequences of one cycle."""

    size: int = 1  # sequences
    query_tokens: int = 1  # of the target pass, roots included
    expected_tokens: float = 1.0
    draft_ms: float = 0.0


@dataclass(eq=False)
class SequenceShare:
    """What one sequence adds to the cycle under way.

    Until it has drafted in this cycle, a sequence counts with the numbers of its previous one.
    """

    query_tokens: int = 1  # root included
    expected_tokens: float = 1.0
    draft_ms: float = 0.0
    batch: BatchTotals = field(default_factory=BatchTotals)

    @property
    def is_single(self) -> bool:
        """Whether the batch size is 1."""
        return self.batch.size == 1

    def set_tree(self, query_tokens: int, expected_tokens: float) -> None:
        """Record the tree of the cycle under way."""
        self.batch.query_tokens += query_tokens - self.query_tokens
        self.batch.expected_tokens += expected_tokens - self.expected_tokens
        self.query_tokens, self.expected_tokens = query_tokens, expected_tokens

    def set_draft_ms(self, draft_ms: float) -> None:
        """Record the drafting time of the cycle under way."""
        self.batch.draft_ms += draft_ms - self.draft_ms
        self.draft_ms = draft_ms


def begin_cycle(shares: Sequence[SequenceShare]) -> None:
    """Begin a cycle that serves these sequences as one batch."""
    totals = BatchTotals(size=len(shares), query_tokens=0, expected_tokens=0.0)
    for share in shares:
        totals.query_tokens += share.query_tokens
        totals.expected_tokens += share.expected_tokens
        totals.draft_ms += share.draft_ms
        share.batch = totals
