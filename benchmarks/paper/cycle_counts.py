"""From the counted cycles of many answers: calibration (the paper's Figure 6), positions (Figure 4)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eyas.bench.cycles import BINS
from eyas.bench.statistics import Sample
from eyas.engine.tree import Floats


def calibration(found: Iterable[Sample]) -> list[tuple[float, float, int]]:
    """Per bin of confidence that holds nodes: mean confidence, acceptance rate, number of nodes."""
    total = sum((np.array(cycles["calibration"]) for cycles in _cycles(found)), np.zeros((BINS, 3)))
    return [(conf / seen, hits / seen, int(seen)) for seen, hits, conf in total.tolist() if seen]


def spearman(points: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation, ties at their mean rank; None where a side does not vary or there are under 3."""
    if len(points) < 3:
        return None
    x, y = (_ranks(np.array(side)) for side in zip(*points, strict=True))
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = ((last - counts + 1 + last) / 2)[inverse]
    return ranks


def by_position(found: Iterable[Sample]) -> dict[str, list[tuple[int, int]]]:
    """Per position in the tree, (cycles whose tree had it, cycles that accepted it) of each answer."""
    seen: dict[str, list[tuple[int, int]]] = {}
    for cycles in _cycles(found):
        for position, (drafted, _, accepted) in cycles["positions"].items():
            seen.setdefault(position, []).append((drafted, accepted))
    return dict(sorted(seen.items(), key=lambda item: (item[0].count("."), item[0])))


def dispersion(counts: Sequence[tuple[int, int]]) -> tuple[float, float] | None:
    """Do answers accept a position more differently than chance explains?

    Returns:
        The variance of their rates by that of binomial draws at the pooled rate, and the standard score of
        the chi-squared statistic behind it; None where there is nothing to compare.
    """
    drafted, accepted = (np.array(side, dtype=float) for side in zip(*counts, strict=True))
    rate = accepted.sum() / drafted.sum()
    if len(counts) < 3 or not 0 < rate < 1:
        return None
    chi_squared = float(((accepted - drafted * rate) ** 2 / (drafted * rate * (1 - rate))).sum())
    freedom = len(counts) - 1
    return chi_squared / freedom, (chi_squared - freedom) / (2 * freedom) ** 0.5


def _cycles(found: Iterable[Sample]) -> Iterable[Mapping[str, Any]]:
    return [sample.row["cycles"] for sample in found if sample.row.get("cycles")]
