"""Figures from result rows, by matplotlib, labelled with units and sample sizes.

Colours are Okabe and Ito's palette, which colour-blind readers can tell apart; lines differ by marks too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.bench import statistics as st
from eyas.bench.equality import PLAIN
from eyas.bench.files import make_folder
from eyas.bench.results import Results
from eyas.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Makers = Mapping[str, tuple[str, Callable[[Results], "Figure | None"]]]
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKS = "osD^vPX*"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "eyas",  # the same rows give the same file
    "svg.fonttype": "path",
}


def figures(results: Results, makers: Makers | None = None) -> dict[str, tuple[str, Figure]]:
    """Figures by file name, with their titles; those that the rows cannot fill are left out.

    Args:
        makers: titles and functions by file name; None is `FIGURES`.

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
        for name, (title, draw) in (FIGURES if makers is None else makers).items():
            figure = draw(results)
            if figure is not None:
                found[name] = title, figure
    return found


def write_figures(results: Results, folder: Path, makers: Makers | None = None) -> list[Path]:
    """Each figure as SVG and PNG; returns the files. Arguments as of `figures`.

    Raises:
        ConfigError: matplotlib is not installed, or the folder cannot be made.
    """
    make_folder(folder)
    written = []
    for name, (_, figure) in figures(results, makers).items():
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


def new_figure(width: float, height: float, panels: int) -> tuple[Figure, list[Any]]:
    """A figure of `width` by `height` inches, with panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [figure.add_subplot(1, panels, at + 1) for at in range(panels)]


def speedups(results: Results) -> Figure | None:
    """Speed-up over plain decoding by method and set."""
    names = [name for name in results.methods if name != PLAIN]
    panels = {
        temperature: bars
        for temperature in results.temperatures
        if (bars := _bars(results, names, temperature))
    }
    if not panels:
        return None
    figure, axes = new_figure(7.0 * len(panels), 3.8, len(panels))
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


FIGURES: Makers = {"speedups": ("Speed-up by method and set", speedups)}
