"""What each sequence brings to a cycle that serves several together."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Company:
    """The sequences that one cycle serves, all together."""

    count: int = 1
    rows: int = 1  # roots included
    tokens: float = 1.0  # expected
    draft_ms: float = 0.0


@dataclass(eq=False)
class Load:
    """What one sequence brings to a cycle, and the company that it is counted in.

    A member of the company that has not drafted in this cycle yet counts with what it brought to its last.
    """

    rows: int = 1  # root included
    tokens: float = 1.0  # expected
    draft_ms: float = 0.0
    company: Company = field(default_factory=Company)

    @property
    def is_alone(self) -> bool:
        """Whether the cycle serves this sequence only."""
        return self.company.count == 1

    def bring(self, rows: int, tokens: float) -> None:
        """What this sequence's tree brings to the cycle under way."""
        self.company.rows += rows - self.rows
        self.company.tokens += tokens - self.tokens
        self.rows, self.tokens = rows, tokens

    def spend(self, draft_ms: float) -> None:
        """What drafting its tree takes in the cycle under way."""
        self.company.draft_ms += draft_ms - self.draft_ms
        self.draft_ms = draft_ms


def share_cycle(loads: Sequence[Load]) -> None:
    """A cycle begins that serves these sequences together."""
    company = Company(
        count=len(loads),
        rows=sum(load.rows for load in loads),
        tokens=sum(load.tokens for load in loads),
        draft_ms=sum(load.draft_ms for load in loads),
    )
    for load in loads:
        load.company = company
