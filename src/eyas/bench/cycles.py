"""Answers with their cycles counted: counts, not trees, so that result files stay small.

A node's *position* is its rank among its siblings, level by level from the root: "1.2" is the second-best
child of the best child. Its *confidence* is its own, not its path's.
"""

from typing import Any

from eyas.drafters.acceptance import observed
from eyas.engine.cycle import Engine, Request, Run
from eyas.engine.metrics import PHASES, Laps
from eyas.engine.tree import DraftTree
from eyas.engine.verification import Cycle

BINS = 20  # of equal width, over confidences from 0 to 1
LEVELS = 3  # whose positions are counted
RANKS = 3  # siblings of each level whose positions are counted


class CycleCounts:
    """Counts over the cycles of one answer."""

    def __init__(self) -> None:
        self.laps = Laps()
        self._bins: list[list[float]] = [[0, 0, 0.0] for _ in range(BINS)]
        self._positions: dict[str, list[int]] = {}

    def see(self, cycle: Cycle) -> None:
        """Count one cycle."""
        for seen in observed(cycle):
            held = self._bins[min(int(seen.confidence * BINS), BINS - 1)]
            held[0] += 1
            held[1] += seen.accepted
            held[2] += seen.confidence
        path = set(cycle.path)
        parents = cycle.tree.parents.tolist()
        for node, position in positions(cycle.tree).items():
            counts = self._positions.setdefault(position, [0, 0, 0])
            counts[0] += 1
            counts[1] += parents[node] in path
            counts[2] += node in path

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        `calibration`: per bin, nodes whose parent was accepted, those of them that were too, and the sum of
        confidences. `positions`: per position, cycles whose tree had it, whose path reached its parent, that
        accepted it.
        `seconds`: of each phase, over all cycles.
        """
        return {
            "calibration": [[seen, hits, round(total, 4)] for seen, hits, total in self._bins],
            "positions": dict(sorted(self._positions.items())),
            "seconds": {phase: round(sum(cycle[phase] for cycle in self.laps.cycles), 6) for phase in PHASES},
        }


def positions(tree: DraftTree) -> dict[int, str]:
    """The position of each node that is near enough to the root and to the best of its siblings."""
    parents, logs = tree.parents.tolist(), tree.log_values.tolist()
    found = {0: ""}
    ranked: dict[int, int] = {}  # children of each node seen so far
    for node in sorted(range(1, len(parents)), key=lambda node: (tree.depths[node], -logs[node], node)):
        parent = parents[node]
        rank = ranked[parent] = ranked.get(parent, 0) + 1
        if parent in found and rank <= RANKS and tree.depths[node] <= LEVELS:
            found[node] = f"{found[parent]}.{rank}".lstrip(".")
    del found[0]
    return found


def answered(engine: Engine, request: Request, counts: CycleCounts | None = None) -> Run:
    """The finished run of a request. Counting its cycles costs a little of its speed."""
    engine.laps = None if counts is None else counts.laps
    try:
        for run, _ in engine.stream(request):
            if counts is not None and run.last_cycle is not None:
                counts.see(run.last_cycle)
    finally:
        engine.laps = None
    return run
