"""Calibrates confidence to acceptance rate: at which rate nodes of a confidence are accepted.

A head may be overconfident, more so at some depths. A map is fitted on observed trees and lies with the
head (docs/algorithm.md, section 6); cost-aware trees multiply mapped confidences.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np

from eyas.engine.isotonic import isotonic
from eyas.engine.tree import Floats
from eyas.engine.verification import Cycle
from eyas.errors import DataError

KNOTS = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
PRIOR = 20  # observations that count for the identity at each knot
_NEVER = 1e-300  # a rate that adds nothing, and has a logarithm


@dataclass(frozen=True, slots=True)
class Observation:
    """A node whose parent was accepted: was it accepted too?"""

    depth: int
    confidence: float  # its own
    accepted: bool


def observed(cycle: Cycle) -> list[Observation]:
    """Observations of one cycle: the children of all nodes on the accepted path."""
    tree, path = cycle.tree, set(cycle.path)
    parents, depths, logs = tree.parents.tolist(), tree.depths.tolist(), tree.log_values.tolist()
    return [
        Observation(depths[node], math.exp(logs[node] - logs[parents[node]]), node in path)
        for node in range(1, len(parents))
        if parents[node] in path
    ]


@dataclass(frozen=True)
class AcceptanceMap:
    """At which rate nodes of a confidence are accepted: straight lines between points, one line per depth.

    Attributes:
        confidence: ascending from 0 to 1.
        rate_by_depth: per depth, as many rates, not falling, from 0 on and at most 1; the last serves all
            deeper levels. Being monotone it leaves siblings in their order, and being at most 1 it keeps a
            child's value below its parent's (docs/laws.md, L5).
    """

    confidence: tuple[float, ...]
    rate_by_depth: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        knots = self.confidence
        if len(knots) < 2 or (knots[0], knots[-1]) != (0.0, 1.0) or not _rises(knots, strictly=True):
            raise DataError("confidence of an acceptance map must increase from 0 to 1.")
        if not self.rate_by_depth:
            raise DataError("rate_by_depth of an acceptance map is empty.")
        for rates in self.rate_by_depth:
            if len(rates) != len(knots) or rates[0] != 0 or rates[-1] > 1 or not _rises(rates):
                raise DataError(
                    "rate_by_depth of an acceptance map must hold one rate for each confidence, not "
                    "falling, from 0 to at most 1."
                )

    @cached_property
    def knots(self) -> Floats:
        """(P,) `confidence` as an array."""
        return np.array(self.confidence)

    @cached_property
    def rates(self) -> Floats:
        """(D, P) `rate_by_depth` as an array."""
        return np.array(self.rate_by_depth)

    def __call__(self, log_confidences: Floats, depth: int) -> Floats:
        """Log rates of the nodes of a level."""
        rates = self.rates[min(depth, len(self.rates)) - 1]
        mapped = np.interp(np.exp(log_confidences), self.knots, rates)
        logs: Floats = np.log(np.maximum(mapped, _NEVER))
        return logs

    @classmethod
    def fit(cls, seen: Iterable[Observation]) -> Self:
        """The map that observed trees suggest: isotonic per depth, drawn to the identity where few were seen.

        Args:
            seen: nodes of trees that were grown without a map.
        """
        by_depth: dict[int, list[Observation]] = {}
        for node in seen:
            by_depth.setdefault(node.depth, []).append(node)
        depths = range(1, 1 + max(by_depth, default=1))
        return cls(KNOTS, tuple(_fitted(by_depth.get(depth, [])) for depth in depths))


def _fitted(seen: Sequence[Observation]) -> tuple[float, ...]:
    """Rates at the knots: means between them, made monotone by pooling (isotonic regression)."""
    knots = np.array(KNOTS)
    confidences = np.array([node.confidence for node in seen])
    nearest = (
        np.abs(confidences[:, None] - knots[None]).argmin(axis=1) if seen else np.zeros(0, dtype=np.int64)
    )
    counts = np.bincount(nearest, minlength=len(knots))
    # An observation beside its knot says what it says about its own confidence: the excess is what counts.
    excess = np.array([node.accepted for node in seen]) - confidences if seen else confidences
    sums = np.bincount(nearest, weights=excess, minlength=len(knots))
    rates = np.clip(knots + sums / (counts + PRIOR), 0.0, 1.0)
    rates[0] = 0.0
    pooled = isotonic(rates[1:].tolist(), (counts[1:] + PRIOR).tolist())
    return (0.0, *(round(rate, 4) for rate in pooled))


def _rises(values: Sequence[float], *, strictly: bool = False) -> bool:
    return all(a < b if strictly else a <= b for a, b in pairwise(values))
