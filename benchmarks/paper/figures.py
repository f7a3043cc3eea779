"""The paper's figures from our rows: acceptance by position and confidence, tau by depth and size."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from benchmarks.paper import cycle_counts

from eyas.bench import statistics as st
from eyas.bench.equality import PLAIN
from eyas.bench.plots import COLOURS, FIGURES, MARKS, Makers, new_figure
from eyas.bench.results import Results
from eyas.bench.statistics import Samples
from eyas.bench.tables import drafted_per_cycle
from eyas.engine.metrics import PHASES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 20  # cycles that an answer needs for a rate at a position


def positions(results: Results) -> Figure | None:
    """Acceptance rate by position in EAGLE-2's tree: a box over answers."""
    per_temperature = {}
    for temperature in results.temperatures:
        seen = cycle_counts.by_position(st.samples(results, "eagle2", temperature).values())
        rates = {
            position: [accepted / drafted for drafted, accepted in answers if drafted >= LEAST]
            for position, answers in seen.items()
        }
        kept = {position: values for position, values in rates.items() if len(values) >= 3}
        if kept:
            per_temperature[temperature] = kept
    if not per_temperature:
        return None
    figure, axes = new_figure(7.5 * len(per_temperature), 3.8, len(per_temperature))
    for axis, (temperature, kept) in zip(axes, per_temperature.items(), strict=True):
        shown = dict(list(kept.items())[:21])
        axis.boxplot(
            list(shown.values()),
            tick_labels=[f"{position}\n{len(values)}" for position, values in shown.items()],
            patch_artist=True,
            boxprops={"facecolor": COLOURS[4]},
            medianprops={"color": COLOURS[7]},
            flierprops={"markersize": 3},
        )
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"eagle2, T={temperature:g}")
        axis.set_xlabel("position (rank at each level), answers")
        axis.set_ylabel("acceptance rate (of cycles with that node)")
        axis.set_ylim(0, 1)
    return figure


def calibration(results: Results) -> Figure | None:
    """A node's own confidence against the rate at which such nodes are accepted."""
    figure, axes = new_figure(4.8 * len(results.temperatures), 4.2, len(results.temperatures))
    drawn = False
    for axis, temperature in zip(axes, results.temperatures, strict=True):
        axis.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="perfect")
        for at, name in enumerate(_plain_methods(results)):
            points = cycle_counts.calibration(st.samples(results, name, temperature).values())
            if len(points) < 3:
                continue  # without confidences of its own
            drawn = True
            x, y, nodes = zip(*points, strict=True)
            rank = cycle_counts.spearman(list(zip(x, y, strict=True)))
            label = f"{name} ({sum(nodes)} nodes" + (")" if rank is None else f", Spearman {rank:.2f})")
            axis.plot(x, y, color=COLOURS[at % 8], marker=MARKS[at % 8], markersize=4, label=label)
        axis.set_title(f"T={temperature:g}")
        axis.set_xlabel("confidence of a node whose parent was accepted")
        axis.set_ylabel("acceptance rate")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.legend(fontsize=7, loc="upper left")
    return figure if drawn else None


def tau(results: Results) -> Figure | None:
    """Tau by depth of the tree, and by its number of nodes; at the lowest temperature."""
    temperature = results.temperatures[0]
    figure, (by_depth, by_nodes) = new_figure(11, 3.8, 2)
    found = {name: st.samples(results, name, temperature) for name in results.methods if name != PLAIN}
    if not any(sample.stats["cycles"] for mine in found.values() for sample in mine.values()):
        return None
    for at, name in enumerate(name for name in _plain_methods(results) if name != PLAIN):
        depths = _tau_by_depth(found[name])
        by_depth.plot(
            range(len(depths)), depths, color=COLOURS[at % 8], marker=MARKS[at % 8], markersize=4, label=name
        )
    by_depth.set_xlabel("levels of the tree that count")
    by_depth.set_ylabel("tau (tokens a cycle)")
    by_depth.legend(fontsize=7)
    points = [
        (nodes, value, name)
        for name, mine in found.items()
        if (nodes := drafted_per_cycle(mine)) and (value := st.over_sets(st.tau_of, results.sets, mine))
    ]
    for at, (nodes, value, name) in enumerate(points):
        style = {"color": COLOURS[at % 8], "marker": MARKS[(at + at // 8) % 8], "linestyle": "none"}
        by_nodes.plot([nodes], [value], label=name, markersize=6, **style)
    by_nodes.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    by_nodes.set_xlabel("draft tokens a cycle (mean)")
    by_nodes.set_ylabel("tau, mean over sets (tokens a cycle)")
    answers = max(len(mine) for mine in found.values())
    figure.suptitle(f"T={temperature:g}, {answers} answers of each method", fontsize=9)
    return figure


def breakdown(results: Results) -> Figure | None:
    """Milliseconds of each phase in a mean cycle."""
    temperature = results.temperatures[0]
    rows = {}
    for name in results.methods:
        seconds, cycles = st.phase_seconds(st.samples(results, name, temperature).values())
        if cycles:
            rows[f"{name} ({cycles} cycles)"] = {phase: 1e3 * s / cycles for phase, s in seconds.items()}
    if not rows:
        return None
    figure, [axis] = new_figure(7.5, 1.4 + 0.35 * len(rows), 1)
    left = [0.0] * len(rows)
    for at, (phase, label) in enumerate(PHASES.items()):
        widths = [row.get(phase, 0.0) for row in rows.values()]
        axis.barh(list(rows), widths, left=left, color=COLOURS[at], edgecolor="white", label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_title(f"T={temperature:g}")
    axis.set_xlabel("milliseconds a cycle (mean)")
    figure.legend(fontsize=7, ncols=6, loc="outside lower center")
    return figure


def _plain_methods(results: Results) -> list[str]:
    """Methods with the paper's or with cost-aware trees; all contenders if there are none."""
    methods = {row["contender"]: row["method"] for row in results.rows}
    extras = ("", " auto", " auto + lookup")
    wanted = {f"{method}{extra}" for method in methods.values() for extra in extras}
    return [name for name in results.methods if name in wanted] or results.methods


def _tau_by_depth(found: Samples) -> list[float]:
    """[d]: tau if only the first d levels counted."""
    stats = [sample.stats for sample in found.values() if sample.stats.get("cycles")]
    cycles = sum(row["cycles"] for row in stats)
    deepest = max((len(row["accepted_by_depth"]) for row in stats), default=0)
    reached = [
        sum(row["accepted_by_depth"][at] for row in stats if at < len(row["accepted_by_depth"])) / cycles
        for at in range(deepest)
    ]
    return list(accumulate([1.0, *reached]))


PAPER_FIGURES: Makers = {
    **FIGURES,
    "positions": ("Acceptance rate by position in the draft tree", positions),
    "calibration": ("Confidence against acceptance", calibration),
    "tau": ("Tau by depth and by node budget", tau),
    "cycle-time": ("Where a cycle's time goes", breakdown),
}
