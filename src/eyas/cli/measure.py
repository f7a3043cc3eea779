"""What `eyas eval` and `eyas bench run` share: questions, temperatures, seeds, and the run itself."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eyas.bench.provenance import now
from eyas.bench.questions import QuestionSet, find_question_files, read_questions
from eyas.bench.results import ROWS, read_run, write_session
from eyas.bench.rows import Row, RowFile
from eyas.bench.run import Bench
from eyas.cli.aliases import resolve_aliases
from eyas.cli.output import note
from eyas.cli.parser import comma_list
from eyas.cli.session import generation_settings
from eyas.models import progress_bar

FOLDER = "EYAS_EVAL_DATA"
CHECK_FAILED = 1  # the exit code


def add_question_options(group: argparse._ArgumentGroup) -> None:
    """Declare --questions, --limit, --temperature and --seeds."""
    group.add_argument(
        "--questions",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"JSON-lines files (question_id, category, turns), or names in the folder that {FOLDER} names; "
        "without it all files there",
    )
    group.add_argument("--limit", type=int, metavar="N", help="first N questions of each file")
    group.add_argument(
        "--temperature",
        type=comma_list(float),
        default=(0.0,),
        metavar="T,..",
        help="separated by commas (default: 0)",
    )
    group.add_argument(
        "--seeds",
        type=comma_list(int),
        default=(0,),
        metavar="S,..",
        help="used where T is above 0, separated by commas (default: 0)",
    )


def base_settings(args: argparse.Namespace, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The generation options that all answers share; those, temperatures and seeds are checked here.

    Raises:
        ConfigError: a value out of bounds.
    """
    resolve_aliases(args)
    args.temperatures = args.temperature
    del args.temperature  # a list, so it is not one answer's option
    for temperature in args.temperatures:
        generation_settings(args, **defaults, temperature=temperature)
    for seed in args.seeds:
        generation_settings(args, **defaults, seed=seed)
    return generation_settings(args, **defaults)


def question_sets(args: argparse.Namespace) -> list[QuestionSet]:
    """The question files that --questions names, read."""
    return [read_questions(path) for path in find_question_files(args.questions, os.environ.get(FOLDER))]


def measure(bench: Bench, folder: Path, session: Mapping[str, Any]) -> Sequence[Row]:
    """Make the missing rows of a folder, and record the session in its run.json; returns the plan's rows."""
    with RowFile(folder / ROWS) as file:
        there = bench.read(file)
        if there:
            note(f"{there} of {len(bench.plan)} answers are in {file.path} already")
        if bench.num_ignored:
            note(f"{bench.num_ignored} answers in {file.path} come from other settings and are ignored")
        earlier = read_run(folder)
        write_session(folder, earlier, bench.describe(), session)
        with progress_bar() as progress:
            rows = bench.run(file, progress)
    write_session(folder, earlier, bench.describe(), {**session, "ended": now()})
    return rows
