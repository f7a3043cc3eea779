"""`eyas bench report`, `plot` and `check`: what a result folder says."""

import argparse
from pathlib import Path

from eyas.bench import check, plots
from eyas.bench.files import write_whole
from eyas.bench.render import page, terminal, write_markdown
from eyas.bench.results import Results
from eyas.bench.tables import tables
from eyas.cli.measure import CHECK_FAILED
from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Commands
from eyas.errors import ConfigError


def add_report(steps: Commands) -> None:
    """Declare `eyas bench report`."""
    parser = steps.add_parser(
        "report",
        help="tables from a result folder",
        description="Tables of speed-ups and acceptance lengths by set, of costs, looping answers, ids and "
        "other programs, and of failures.",
    )
    _add_folder(parser)
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the tables there: a new file, or one with <!-- eyas bench: --> and "
        "<!-- /eyas bench --> in it",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page there")
    parser.add_argument("--json", action="store_true", help="print one document instead of tables")
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Print the tables, and write what is asked for."""
    results = Results.load(args.folder, mixed=args.mixed)
    found = tables(results)
    if args.markdown is not None:
        write_markdown(args.markdown, found, f"eyas bench: {args.folder.name}")
    if args.html is not None:
        write_whole(args.html, page(found, results.run, _figures(results), f"eyas bench: {args.folder.name}"))
    show(args, results)
    return 0


def show(args: argparse.Namespace, results: Results) -> None:
    """Print the tables, or with --json their document."""
    found = tables(results)
    if args.json:
        write_json({"run": results.run, "tables": {table.id: table.to_dict() for table in found}})
    else:
        write(terminal(found))


def _figures(results: Results) -> dict[str, str]:
    """Figures as SVG by title, where matplotlib is installed."""
    try:
        drawn = plots.figures(results)
    except ConfigError as error:
        note(f"the page has no figures: {error}")
        return {}
    return {title: plots.svg_text(figure) for title, figure in drawn.values()}


def add_plot(steps: Commands) -> None:
    """Declare `eyas bench plot`."""
    parser = steps.add_parser(
        "plot",
        help="a figure from a result folder",
        description="The speed-ups by set as SVG and PNG.",
    )
    _add_folder(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the figure goes (default: figures/ in the folder)"
    )
    parser.set_defaults(run=run_plot)


def run_plot(args: argparse.Namespace) -> int:
    """Draw; prints the names of the files."""
    results = Results.load(args.folder, mixed=args.mixed)
    written = plots.write_figures(results, args.out or args.folder / "figures")
    for path in written:
        write(f"{path}\n")
    if not written:
        note("there is no figure: no answer was timed; run with --repeats 1 or more")
    return 0


def add_check(steps: Commands) -> None:
    """Declare `eyas bench check`."""
    parser = steps.add_parser(
        "check",
        help="what got worse between two result folders",
        description="Compare two result folders, answer by answer. Exit code 1 if anything got slower, lost "
        "acceptance, answers or speeds beyond tolerance and noise.",
    )
    parser.add_argument("before", type=Path, metavar="A", help="the result folder to compare with")
    parser.add_argument("after", type=Path, metavar="B", help="the result folder to judge")
    default = check.Tolerance()
    parser.add_argument(
        "--speed-tolerance",
        type=float,
        default=default.speed,
        metavar="X",
        help=f"a slow-down of up to this share passes (default: {default.speed})",
    )
    parser.add_argument(
        "--tau-tolerance",
        type=float,
        default=default.tau,
        metavar="X",
        help=f"an acceptance length lower by up to this share passes (default: {default.tau})",
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="compare speed-ups over plain decoding instead of speeds: for folders of two machines",
    )
    add_mixed(parser)
    parser.add_argument("--json", action="store_true", help="print one document instead of a table")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Compare; the exit code says whether anything got worse."""
    tolerance = check.Tolerance(speed=args.speed_tolerance, tau=args.tau_tolerance, normalise=args.normalise)
    before, after = (Results.load(path, mixed=args.mixed) for path in (args.before, args.after))
    changes = check.compare_folders(before, after, tolerance)
    worse = [change for change in changes if change.is_worse]
    found = check.table(changes)
    if args.json:
        write_json({"passed": not worse, **found.to_dict()})
    else:
        write(terminal([found]))
    for change in worse:
        note(f"{change.contender} at T={change.temperature:g}: {change.outcome} ({change.change:+.1%})")
    return CHECK_FAILED if worse else 0


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `eyas bench run` wrote")
    add_mixed(parser)


def add_mixed(parser: argparse._ActionsContainer) -> None:
    """--mixed."""
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="keep and count rows that other code, another model, head or machine made, instead of "
        "refusing them",
    )
