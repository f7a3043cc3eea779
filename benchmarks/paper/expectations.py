"""What the paper leads one to expect, compared with the rows. Nothing fails here: a table says what held.

Orderings of tau are those of its Tables 1 and 3, with the paper's trees on both sides. Calibration is its
Figure 6. Its Figure 4 is the reason for dynamic trees: one position is accepted at different rates in
different contexts.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from benchmarks.paper import cycle_counts

from eyas.bench import statistics as st
from eyas.bench.contenders import EQUAL, WITHOUT_RERANK, WITHOUT_VALUE
from eyas.bench.equality import PLAIN
from eyas.bench.results import Results
from eyas.bench.tables import Table

CHAIN = ("eagle2", "eagle", "hydra", "medusa")
BELOW = ("sps", "pld", "lookahead")
LEAST_CORRELATION = 0.95
LEAST_SCORE = 2.33  # standard deviations: 1 in 100 by chance

Finding = tuple[str, str, bool, str]  # claim, temperature, holds, evidence


def expectations(results: Results) -> list[Table]:
    """The table of what was expected, whether it held, and by which numbers."""
    rows = [
        [claim, where, "yes" if holds else "NO", evidence]
        for temperature in results.temperatures
        for claim, where, holds, evidence in (
            *_orders(results, temperature),
            *_best(results, temperature),
            *_equal_budget(results, temperature),
            *_calibrated(results, temperature),
            *_varied(results, temperature),
        )
    ]
    columns = [(name, "text") for name in ("expected", "T", "holds", "numbers")]
    return [Table("expectations", "What the paper leads one to expect", columns, rows)] if rows else []  # type: ignore[arg-type]


def _orders(results: Results, temperature: float) -> Iterator[Finding]:
    """Every pair of the paper's orderings whose two methods were measured: tau with the paper's trees."""
    pairs = [(left, right, ">") for left, right in pairwise(CHAIN)]
    pairs += [(left, right, ">") for left in ("eagle2", "medusa") for right in BELOW]
    pairs += [("eagle2", WITHOUT_VALUE, ">"), ("eagle2", WITHOUT_RERANK, ">=")]
    for left, right, sign in pairs:
        both = st.common(*(st.samples(results, name, temperature) for name in (left, right)))
        a, b = (st.over_sets(st.tau_of, results.sets, found) for found in both)
        if a is not None and b is not None:
            holds = a > b or (sign == ">=" and a == b)
            yield f"tau: {left} {sign} {right}", f"{temperature:g}", holds, f"{a:.3f}, {b:.3f}"
    for name in (*CHAIN, *BELOW):
        value = st.over_sets(st.tau_of, results.sets, st.samples(results, name, temperature))
        if value is not None:
            yield f"tau: {name} > 1", f"{temperature:g}", value > 1, f"{value:.3f}"


def _best(results: Results, temperature: float) -> Iterator[Finding]:
    """Cost-aware trees differ in size, so speed-ups are compared, with the same extras on both sides."""
    plain = st.samples(results, PLAIN, temperature)
    for extras in (" auto", " auto + lookup"):
        for left, right in pairwise(name for name in CHAIN if name + extras in results.methods):
            both = st.common(*(st.samples(results, name + extras, temperature) for name in (left, right)))
            a, b = (st.speedup_over_sets(results.sets, found, plain) for found in both)
            if a is not None and b is not None:
                yield (
                    f"speed-up: {left}{extras} > {right}{extras}",
                    f"{temperature:g}",
                    a > b,
                    f"{a:.3f}, {b:.3f}",
                )


def _equal_budget(results: Results, temperature: float) -> Iterator[Finding]:
    mine, other = (st.samples(results, name, temperature) for name in (EQUAL, "eagle"))
    found = st.tau_interval(mine, other)
    if found is not None:
        evidence = f"difference within [{found[0]:.3f}, {found[1]:.3f}] ({st.LEVEL} %)"
        yield "tau: eagle2 > eagle at equal size", f"{temperature:g}", found[0] > 0, evidence


def _calibrated(results: Results, temperature: float) -> Iterator[Finding]:
    for name in ("eagle2",):
        points = cycle_counts.calibration(st.samples(results, name, temperature).values())
        rank = cycle_counts.spearman([(confidence, rate) for confidence, rate, _ in points])
        if rank is not None:
            holds = rank >= LEAST_CORRELATION
            evidence = f"Spearman {rank:.3f} over {len(points)} bins, {sum(n for *_, n in points)} nodes"
            yield f"{name}: confidence goes with acceptance", f"{temperature:g}", holds, evidence


def _varied(results: Results, temperature: float) -> Iterator[Finding]:
    positions = cycle_counts.by_position(st.samples(results, "eagle2", temperature).values())
    for position in ("1", "1.1"):
        counts = positions.get(position, [])
        found = cycle_counts.dispersion(counts) if counts else None
        if found is not None:
            ratio, score = found
            rates = sorted(accepted / drafted for drafted, accepted in counts)
            low, high = _tenths(rates)
            yield (
                f"eagle2: position {position} is accepted differently by context",
                f"{temperature:g}",
                score > LEAST_SCORE,
                f"{len(rates)} answers, 80 % of them between {low:.2f} and {high:.2f}; variance {ratio:.1f} "
                f"times that of chance ({score:.1f} standard deviations)",
            )


def _tenths(values: Sequence[float]) -> tuple[float, float]:
    """The values below and above which a tenth lies."""
    cut = len(values) // 10
    return values[cut], values[-1 - cut]
