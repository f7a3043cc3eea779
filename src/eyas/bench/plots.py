"""The paper's figures from real rows, by matplotlib, labelled with units and sample sizes.

Colours are Okabe and Ito's palette, which colour-blind readers can tell apart; lines differ by marks too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.bench import statistics as st
from eyas.bench.equality import PLAIN
from eyas.bench.files import make_folder
from eyas.bench.results import Results
from eyas.bench.statistics import Samples
from eyas.bench.tables import drafted_per_cycle
from eyas.engine.metrics import PHASES
from eyas.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKS = "osD^vPX*"
LEAST = 20  # cycles that an answer needs for a rate at a position
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "eyas",  # the same rows give the same file
    "svg.fonttype": "path",
}


def figures(results: Results) -> dict[str, tuple[str, Figure]]:
    """Figures by file name, with their titles; those that the rows cannot fill are left out.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "matplotlib is not installed, and figures need it; pip install 'eyas[bench]'."
        ) from None
    found = {}
    with matplotlib.rc_context(_STYLE):
        for name, (title, draw) in _DRAWN.items():
            figure = draw(results)
            if figure is not None:
                found[name] = title, figure
    return found


def write_figures(results: Results, folder: Path) -> list[Path]:
    """Each figure as SVG and PNG; returns the files.

    Raises:
        ConfigError: matplotlib is not installed, or the folder cannot be made.
    """
    make_folder(folder)
    written = []
    for name, (_, figure) in figures(results).items():
        for kind in ("svg", "png"):
            path = folder / f"{name}.{kind}"
            temporary = folder / f".{name}.{kind}"
            temporary.write_bytes(_image(figure, kind))
            temporary.replace(path)
            written.append(path)
    return written


def svg_text(figure: Figure) -> str:
    """A figure for an HTML page: the svg element alone."""
    text = _image(figure, "svg").decode()
    return text[text.index("<svg") :]


def _image(figure: Figure, kind: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _figure(width: float, height: float, panels: int) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [figure.add_subplot(1, panels, at + 1) for at in range(panels)]


# ---- the figures ----


def positions(results: Results) -> Figure | None:
    """Acceptance rate by position in EAGLE-2's tree: a box over answers."""
    per_temperature = {}
    for temperature in results.temperatures:
        seen = st.by_position(st.samples(results, "eagle2", temperature).values())
        rates = {
            position: [accepted / drafted for drafted, accepted in counts if drafted >= LEAST]
            for position, counts in seen.items()
        }
        kept = {position: values for position, values in rates.items() if len(values) >= 3}
        if kept:
            per_temperature[temperature] = kept
    if not per_temperature:
        return None
    figure, axes = _figure(7.5 * len(per_temperature), 3.8, len(per_temperature))
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
    figure, axes = _figure(4.8 * len(results.temperatures), 4.2, len(results.temperatures))
    drawn = False
    for axis, temperature in zip(axes, results.temperatures, strict=True):
        axis.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="perfect")
        for at, name in enumerate(_plain_methods(results)):
            points = st.calibration(st.samples(results, name, temperature).values())
            if len(points) < 3:
                continue  # without confidences of its own
            drawn = True
            x, y, counts = zip(*points, strict=True)
            rank = st.spearman(list(zip(x, y, strict=True)))
            label = f"{name} ({sum(counts)} nodes" + (")" if rank is None else f", Spearman {rank:.2f})")
            axis.plot(x, y, color=COLOURS[at % 8], marker=MARKS[at % 8], markersize=4, label=label)
        axis.set_title(f"T={temperature:g}")
        axis.set_xlabel("confidence of a node whose parent was accepted")
        axis.set_ylabel("acceptance rate")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.legend(fontsize=7, loc="upper left")
    return figure if drawn else None


def speedups(results: Results) -> Figure | None:
    """Speed-up over plain decoding by method and set."""
    names = [name for name in _plain_methods(results) if name != PLAIN]
    panels = {
        temperature: bars
        for temperature in results.temperatures
        if (bars := _bars(results, names, temperature))
    }
    if not panels:
        return None
    figure, axes = _figure(7.0 * len(panels), 3.8, len(panels))
    groups = [*results.sets, "mean"]
    for axis, (temperature, bars) in zip(axes, panels.items(), strict=True):
        width = 0.85 / len(bars)
        for at, (name, values) in enumerate(bars.items()):
            places = [group + (at - (len(bars) - 1) / 2) * width for group in range(len(groups))]
            heights = [value or 0.0 for value in values]
            axis.bar(places, heights, width, color=COLOURS[at % 8], edgecolor="white", label=name)
        axis.axhline(1.0, color="#000000", linewidth=1)
        questions = len({sample.question for sample in st.samples(results, PLAIN, temperature).values()})
        axis.set_title(f"T={temperature:g}, {questions} questions")
        axis.set_xticks(range(len(groups)), groups)
        axis.set_ylabel("speed-up over plain decoding (x)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, ncols=8, loc="outside lower center")
    return figure


def tau(results: Results) -> Figure | None:
    """Tau by depth of the tree, and by its number of nodes; at the lowest temperature."""
    temperature = results.temperatures[0]
    figure, (by_depth, by_nodes) = _figure(11, 3.8, 2)
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
    figure, [axis] = _figure(7.5, 1.4 + 0.35 * len(rows), 1)
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


_DRAWN: Mapping[str, tuple[str, Callable[[Results], Figure | None]]] = {
    "speedups": ("Speed-up by method and set", speedups),
    "positions": ("Acceptance rate by position in the draft tree", positions),
    "calibration": ("Confidence against acceptance", calibration),
    "tau": ("Tau by depth and by node budget", tau),
    "cycle-time": ("Where a cycle's time goes", breakdown),
}


def _plain_methods(results: Results) -> list[str]:
    """Methods with default options, or with trees of measured size; all contenders if there are none."""
    names = {row["contender"]: row["method"] for row in results.rows}
    return [
        name for name in results.methods if name in (names[name], f"{names[name]}-auto")
    ] or results.methods


def _bars(results: Results, names: list[str], temperature: float) -> dict[str, list[float | None]]:
    """Speed-ups on each set and their geometric mean, of the methods that were timed."""
    plain = st.samples(results, PLAIN, temperature)
    bars = {}
    for name in names:
        mine = st.samples(results, name, temperature)
        values = [st.speedup(st.of_set(mine, each), st.of_set(plain, each)) for each in results.sets]
        if any(values):
            bars[name] = [*values, st.geometric_mean(values)]
    return bars


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
