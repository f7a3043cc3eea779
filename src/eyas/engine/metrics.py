"""Counts of a generation, and the rates derived from them.

Conventions (docs/algorithm.md, section 5): prefill yields the first token and is no cycle. A cycle's tokens
are its accepted ones plus the bonus, counted before any cut at a stop. `tokens_per_second` leaves the first
token and the prefill out.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Literal

LOOP_WINDOW = 32  # tokens at the end of an answer
LOOP_PERIOD = 16  # longest period that counts as a loop
REPEATED_RUN = 4  # tokens in a row that stood before make the last of them a repeated one


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStats:
    """Counts and times of one answer."""

    new_tokens: int  # len(token_ids)
    cycles: int
    cycle_tokens: int  # sum over cycles of accepted + 1, before any cut
    target_forwards: int
    draft_forwards: int
    draft_tokens: int
    accepted_by_depth: tuple[int, ...]  # [i]: cycles whose accepted path reached depth i + 1
    drafted_by_depth: tuple[int, ...]  # [i]: cycles whose tree reached depth i + 1
    prefill_seconds: float  # until the first token is known; the target's work only
    decode_seconds: float  # everything later, the draft's own prefill included

    @property
    def acceptance_length(self) -> float | None:
        """Mean tokens per cycle, bonus included: 1.0 for plain decoding, None without a cycle."""
        return self.cycle_tokens / self.cycles if self.cycles else None

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed after the first token; None without a cycle."""
        return (self.new_tokens - 1) / self.decode_seconds if self.cycles else None

    def to_dict(self) -> dict[str, Any]:
        """All counts and rates, ready for JSON."""
        return asdict(self) | {
            "accepted_by_depth": list(self.accepted_by_depth),
            "drafted_by_depth": list(self.drafted_by_depth),
            "acceptance_length": self.acceptance_length,
            "tokens_per_second": self.tokens_per_second,
        }


Phase = Literal["draft", "tree", "verify", "walk", "commit", "other"]
PHASES: dict[Phase, str] = {
    "draft": "draft forwards",
    "tree": "tree building",
    "verify": "verify",
    "walk": "sampling and walk",
    "commit": "commit",
    "other": "other",
}
PASSES: tuple[Phase, ...] = ("draft", "verify")  # the rest is overhead


@dataclass
class Laps:
    """Where a cycle's time goes: each mark adds the time since the last mark to a phase."""

    cycles: list[dict[Phase, float]] = field(default_factory=list)  # seconds
    _last: float = 0.0

    def start(self) -> None:
        """A cycle begins."""
        self.cycles.append(dict.fromkeys(PHASES, 0.0))
        self._last = perf_counter()

    def mark(self, phase: Phase) -> None:
        """The time since the last mark belongs to `phase`."""
        now = perf_counter()
        self.cycles[-1][phase] += now - self._last
        self._last = now

    def summary(self) -> dict[str, Any]:
        """Medians over cycles in milliseconds, and shares of all time; None without a cycle."""
        total = sum(sum(cycle.values()) for cycle in self.cycles)
        sums = {phase: sum(cycle[phase] for cycle in self.cycles) for phase in PHASES}
        beside = [sum(s for phase, s in cycle.items() if phase not in PASSES) for cycle in self.cycles]
        return {
            "cycles": len(self.cycles),
            "cycle_ms": _median_ms(sum(cycle.values()) for cycle in self.cycles),
            "phases": {
                phase: {
                    "median_ms": _median_ms(cycle[phase] for cycle in self.cycles),
                    "share": sums[phase] / total if total else None,
                }
                for phase in PHASES
            },
            "beside_passes_ms": _median_ms(beside),
            "beside_passes_share": sum(beside) / total if total else None,
        }


def _median_ms(seconds: Iterable[float]) -> float | None:
    middle = median(seconds)
    return None if middle is None else 1e3 * middle


class StatsCounter:
    """Collects the counts of one answer, cycle by cycle."""

    def __init__(self) -> None:
        self.cycles = self.cycle_tokens = self.target_forwards = self.draft_tokens = 0
        self.accepted_by_depth: list[int] = []
        self.drafted_by_depth: list[int] = []

    def add_cycle(self, num_accepted: int, num_draft_tokens: int, tree_depth: int) -> None:
        """One cycle: `num_accepted` of `num_draft_tokens`, in a tree of `tree_depth` levels."""
        self.cycles += 1
        self.cycle_tokens += num_accepted + 1
        self.draft_tokens += num_draft_tokens
        _count_up_to(self.accepted_by_depth, num_accepted)
        _count_up_to(self.drafted_by_depth, tree_depth)

    @property
    def mean_cycle_tokens(self) -> float:
        """Tokens a cycle so far; 1 before the first."""
        return self.cycle_tokens / self.cycles if self.cycles else 1.0

    def finish(
        self, *, new_tokens: int, draft_forwards: int, prefill_seconds: float, decode_seconds: float
    ) -> GenerationStats:
        """The counts as they stand; both lists by depth get the length of the deepest tree."""
        missing = len(self.drafted_by_depth) - len(self.accepted_by_depth)
        return GenerationStats(
            new_tokens=new_tokens,
            cycles=self.cycles,
            cycle_tokens=self.cycle_tokens,
            target_forwards=self.target_forwards,
            draft_forwards=draft_forwards,
            draft_tokens=self.draft_tokens,
            accepted_by_depth=(*self.accepted_by_depth, *[0] * missing),
            drafted_by_depth=tuple(self.drafted_by_depth),
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
        )


def _count_up_to(counts: list[int], depth: int) -> None:
    counts.extend([0] * (depth - len(counts)))
    for level in range(depth):
        counts[level] += 1


def is_looping(token_ids: Sequence[int]) -> bool:
    """Whether the last 32 tokens repeat with a period of at most 16: such answers flatter every drafter."""
    tail = list(token_ids[-LOOP_WINDOW:])
    if len(tail) < LOOP_WINDOW:
        return False
    return any(tail[period:] == tail[:-period] for period in range(1, LOOP_PERIOD + 1))


class Repeats:
    """Counts how long a sequence has been repeating itself, in any period."""

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()
        self._seen: set[tuple[int, ...]] = set()
        self._count = 0

    def push(self, token_id: int) -> int:
        """The next token; returns how many in a row, up to this one, end four that stood before."""
        self._last = (*self._last, token_id)[-REPEATED_RUN:]
        self._count = self._count + 1 if self._last in self._seen else 0
        if len(self._last) == REPEATED_RUN:
            self._seen.add(self._last)
        return self._count


def mean_acceptance_length(stats: Iterable[GenerationStats]) -> float | None:
    """Tokens per cycle over all cycles of several answers; None without a cycle."""
    rows = list(stats)
    cycles = sum(row.cycles for row in rows)
    return sum(row.cycle_tokens for row in rows) / cycles if cycles else None


def median(values: Iterable[float]) -> float | None:
    """The median; None of no values."""
    rows = sorted(values)
    return statistics.median(rows) if rows else None
