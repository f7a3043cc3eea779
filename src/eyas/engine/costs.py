"""What a cycle costs on this machine: milliseconds by number of tokens, measured once (`eyas calibrate`).

A table is small and plain, so that a request can be replayed with the table that it was decided by. Between
measured numbers costs are interpolated; they never fall with more tokens, whatever noise was measured.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Self

from eyas.engine.isotonic import isotonic
from eyas.errors import DataError

MAX_ROWS = 64  # of one verification, root included
CONTEXT_STEP = 64  # tokens: a table for each would not be worth the time of making it
LEAST_SHARE = 0.5  # of what a pass took: a short context saves no more, whatever noise was measured

# How far real cycles may be from the table, either way, and after how many of them this is asked.
MOST_DEVIATION = 1.5
REVIEWED_CYCLES = 100
MOST_SCATTER = 1.3  # of its measurements: above it something else was running

Points = tuple[tuple[int, float], ...]  # (rows, milliseconds), rows ascending


@dataclass(eq=False)
class LiveTimes:
    """Cycles that a table decided: what it predicted, and what they took.

    Nothing is decided by these times; they tell whether the machine is still as it was measured.

    Attributes:
        on_doubt: called once they contradict the table.
    """

    cycles: int = 0
    predicted_ms: float = 0.0
    actual_ms: float = 0.0
    is_doubtful: bool = False
    on_doubt: Callable[[], None] | None = None

    def add(self, predicted_ms: float, actual_ms: float) -> None:
        """Record a cycle at batch size 1."""
        self.cycles += 1
        self.predicted_ms += predicted_ms
        self.actual_ms += actual_ms
        if self.cycles < REVIEWED_CYCLES:
            return
        ratio = self.actual_ms / self.predicted_ms
        if not self.is_doubtful and not 1 / MOST_DEVIATION <= ratio <= MOST_DEVIATION:
            self.is_doubtful = True
            if self.on_doubt is not None:
                self.on_doubt()
        self.cycles, self.predicted_ms, self.actual_ms = 0, 0.0, 0.0


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Milliseconds of the parts of a cycle.

    Attributes:
        verify_ms: one target pass over this many query tokens.
        draft_ms: one level of a draft tree with this many nodes expanded, bookkeeping included.
        root_ms: reading one new pair, the level below the root, and making the tree.
        pair_ms: reading one pair more.
        overhead_ms: what a cycle takes besides its passes.
        context: committed tokens before the measured passes.
        attend_ms: added time of each query token for each further token of context.
        made: what was measured, for people; "scatter" is the spread of the measurements: upper over lower
            quartile, the median over all parts.
        live: how the cycles that it decided compare with it.
    """

    verify_ms: Points
    draft_ms: Points
    root_ms: float
    pair_ms: float
    overhead_ms: float
    context: int = 0
    attend_ms: float = 0.0
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)
    live: LiveTimes = field(default_factory=LiveTimes, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("verify_ms", "draft_ms"):
            points = getattr(self, name)
            rows = [count for count, _ in points]
            if not points or rows != sorted(set(rows)) or rows[0] != 1:
                raise DataError(f"{name} of a cost table must hold increasing numbers of rows, from 1 on.")
        numbers = [ms for _, ms in (*self.verify_ms, *self.draft_ms)]
        others = (self.root_ms, self.pair_ms, self.overhead_ms, self.context, self.attend_ms)
        if not (min(numbers) > 0 and min(others) >= 0):
            raise DataError("a cost table holds milliseconds above 0.")

    @property
    def is_disturbed(self) -> bool:
        """Whether something else was running while it was measured, by the scatter of the measurements."""
        return float(self.made.get("scatter", 1.0)) > MOST_SCATTER

    def at(self, context: int) -> "CostTable":
        """The table behind so many committed tokens, to the next multiple of `CONTEXT_STEP`.

        Each token of a pass costs more then. The pass as such does too, since it reads the cache, but so does
        that of plain decoding.
        """
        context = -(-context // CONTEXT_STEP) * CONTEXT_STEP
        if context not in self._elsewhere:
            more = self.attend_ms * (context - self.context)
            verify = tuple((rows, max(ms + rows * more, ms * LEAST_SHARE)) for rows, ms in self.verify_ms)
            self._elsewhere[context] = replace(self, verify_ms=verify, context=context)
        return self._elsewhere[context]

    @cached_property
    def _elsewhere(self) -> "dict[int, CostTable]":
        return {}

    @cached_property
    def cycle(self) -> tuple[float, ...]:
        """[n]: a cycle that verifies n draft tokens, without the drafting."""
        return tuple(self.overhead_ms + ms for ms in self._verify)

    def verify(self, rows: int) -> float:
        """A target pass over `rows` rows, however many; beyond MAX_ROWS on a straight line.

        The line rises as the last measured stretch does, but no less than the whole table, so that one
        lucky measurement at its end cannot make rows seem free.
        """
        return self.verify_from(rows, 1)[0]

    def verify_from(self, rows: int, count: int) -> list[float]:
        """[i]: a target pass over `rows` + i rows, i < `count`; asked by every sequence in every cycle."""
        beyond = range(max(rows, MAX_ROWS + 1), rows + count)
        return [
            *self._verify[rows - 1 : rows - 1 + count],
            *(self._verify[-1] + (row - MAX_ROWS) * self._slope for row in beyond),
        ]

    @cached_property
    def _verify(self) -> tuple[float, ...]:
        return tuple(_every_row(self.verify_ms))

    @cached_property
    def _slope(self) -> float:
        """Milliseconds a row beyond MAX_ROWS."""
        whole = (self._verify[-1] - self._verify[0]) / (MAX_ROWS - 1)
        return max(whole, self._verify[-1] - self._verify[-2])

    @property
    def plain(self) -> float:
        """A cycle of plain decoding."""
        return self.cycle[0]

    def reading(self, pairs: int) -> float:
        """What reading so many pairs takes beyond `root_ms`."""
        return (pairs - 1) * self.pair_ms

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """[n]: expanding n + 1 nodes."""
        return tuple(_every_row(self.draft_ms))

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits that name the table."""
        numbers = {key: value for key, value in self.to_dict().items() if key != "made"}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "verify_ms": [list(point) for point in self.verify_ms],
            "draft_ms": [list(point) for point in self.draft_ms],
            "root_ms": self.root_ms,
            "pair_ms": self.pair_ms,
            "overhead_ms": self.overhead_ms,
            "context": self.context,
            "attend_ms": self.attend_ms,
            "made": dict(self.made),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises:
            DataError: it is no cost table.
        """
        try:
            return cls(
                verify_ms=_points(document["verify_ms"]),
                draft_ms=_points(document["draft_ms"]),
                root_ms=float(document["root_ms"]),
                pair_ms=float(document["pair_ms"]),
                overhead_ms=float(document["overhead_ms"]),
                context=int(document["context"]),
                attend_ms=float(document["attend_ms"]),
                made=dict(document.get("made", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no cost table ({error}); run `eyas calibrate` again.") from error


def _points(pairs: Any) -> Points:
    return tuple((int(rows), float(ms)) for rows, ms in pairs)


def _every_row(points: Points) -> list[float]:
    """Costs of 1..MAX_ROWS rows: straight lines between the points, the last one going on."""
    rows, means = [count for count, _ in points], isotonic([ms for _, ms in points])
    costs: list[float] = []
    for row in range(1, MAX_ROWS + 1):
        right = next((i for i, count in enumerate(rows) if count >= row), len(rows) - 1)
        left = max(right - 1, 0)
        rise = 0.0 if left == right else (means[right] - means[left]) / (rows[right] - rows[left])
        costs.append(means[left] + rise * (row - rows[left]))
    return list(accumulate(costs, max))  # rounding may make them fall by a last digit
