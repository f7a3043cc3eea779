"""The tables and figures of `eyas bench report` and `plot`, and those that reproduce the papers' claims.

    python -m benchmarks.paper benchmarks/results/bench --markdown docs/benchmarks.md --figures docs/img

Run it from the root of the repository. It adds ablations, budgets and tasks, calibration and positions in the
tree, what the paper leads one to expect, and answers in Spec-Bench's format. Without an option it prints the
tables.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.paper.expectations import expectations
from benchmarks.paper.figures import PAPER_FIGURES
from benchmarks.paper.spec_bench import write_spec_bench
from benchmarks.paper.tables import paper_tables

from eyas.bench import plots
from eyas.bench.files import write_whole
from eyas.bench.render import page, terminal, write_markdown
from eyas.bench.results import Results
from eyas.bench.tables import Table, tables
from eyas.errors import EyasError


def main() -> int:
    """Write what is asked for; the exit code is 2 for an error of the caller's."""
    args = arguments()
    try:
        report(args)
    except EyasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="written by `eyas bench run`")
    parser.add_argument("--mixed", action="store_true", help="as of `eyas bench report`")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="as of `eyas bench report`")
    parser.add_argument("--html", type=Path, metavar="FILE", help="as of `eyas bench report`")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures there")
    parser.add_argument(
        "--spec-bench-answers",
        type=Path,
        metavar="DIR",
        help="write answers that Spec-Bench's speed.py reads",
    )
    return parser.parse_args()


def report(args: argparse.Namespace) -> None:
    """Write or print the report of a folder."""
    results = Results.load(args.folder, mixed=args.mixed)
    found = all_tables(results)
    heading = f"eyas bench: {args.folder.name}"
    if args.markdown is not None:
        write_markdown(args.markdown, found, heading)
    if args.html is not None:
        figures = plots.figures(results, PAPER_FIGURES)
        drawn = {title: plots.svg_text(figure) for title, figure in figures.values()}
        write_whole(args.html, page(found, results.run, drawn, heading))
    if args.figures is not None:
        plots.write_figures(results, args.figures, PAPER_FIGURES)
    if args.spec_bench_answers is not None:
        written = write_spec_bench(results, args.spec_bench_answers)
        print(f"{len(written)} files of answers in {args.spec_bench_answers}", file=sys.stderr)
    if not (args.markdown or args.html or args.figures or args.spec_bench_answers):
        print(terminal(found), end="")


def all_tables(results: Results) -> list[Table]:
    """Every table, the expectations last."""
    return [*tables(results), *paper_tables(results), *expectations(results)]


if __name__ == "__main__":
    sys.exit(main())
