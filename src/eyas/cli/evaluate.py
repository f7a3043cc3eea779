"""`eyas eval`: acceptance length on question files, and whether the ids equal plain decoding's."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyas.bench.answers import AnswerFile
from eyas.bench.evaluate import EvalConfig, Evaluation, Progress, no_progress
from eyas.bench.files import write_whole
from eyas.bench.provenance import now, provenance
from eyas.bench.questions import find_question_files, read_questions
from eyas.bench.summary import summarise
from eyas.cli.aliases import add_aliases, resolve_aliases
from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Commands, add_generation_options, add_model_options, comma_list
from eyas.cli.session import generation_settings, load_llm

FOLDER = "EYAS_EVAL_DATA"
OWN_DEFAULTS = {"max_new_tokens": 64}
# Temperatures and seeds are lists here; the method is --methods; one answer without extras to each question.
NOT_HERE = ("temperature", "seed", "n", "logprobs")
CHECK_FAILED = 1


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "eval",
        help="acceptance length and an ids-equal check on question files",
        description="Answer the first turns of question files with each method and with plain decoding; "
        "compare their ids; report acceptance lengths. Exit code 1 if a check fails. "
        "Run again after an interruption: what is in --out is not done twice.",
    )
    group = parser.add_argument_group("what to measure")
    add_question_options(group)
    group.add_argument(
        "--methods",
        type=comma_list(str),
        default=("eagle2",),
        metavar="NAMES",
        help="by comma (default: eagle2)",
    )
    group.add_argument(
        "--no-equal-check", action="store_true", help="leave plain decoding out: acceptance lengths only"
    )
    group.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="answers under way at a time: the same ids sooner, but no speeds (default: 1)",
    )
    group.add_argument(
        "--out",
        type=Path,
        default=Path("eyas-eval"),
        metavar="DIR",
        help="answers.jsonl and summary.json go there (default: eyas-eval)",
    )
    group.add_argument("--json", action="store_true", help="print the summary as one document")
    add_model_options(parser, leave_out=("method",))
    add_generation_options(parser, NOT_HERE, OWN_DEFAULTS)
    add_aliases(parser)
    parser.set_defaults(run=run)


def add_question_options(group: argparse._ArgumentGroup) -> None:
    """What is asked, and how often: question files, temperatures, seeds."""
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
        "--temperature", type=comma_list(float), default=(0.0,), metavar="T,..", help="by comma (default: 0)"
    )
    group.add_argument(
        "--seeds",
        type=comma_list(int),
        default=(0,),
        metavar="S,..",
        help="where T is above 0, by comma (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; the exit code says whether all checks passed."""
    resolve_aliases(args)
    temperatures, seeds = args.temperature, args.seeds
    del args.temperature  # a list here, so it is no generation option
    for temperature in temperatures:
        generation_settings(args, **OWN_DEFAULTS, temperature=temperature)
    for seed in seeds:
        generation_settings(args, **OWN_DEFAULTS, seed=seed)
    settings = generation_settings(args, **OWN_DEFAULTS)
    config = EvalConfig(
        methods=args.methods,
        temperatures=temperatures,
        seeds=seeds,
        limit=args.limit,
        equal_check=not args.no_equal_check,
        batch=args.batch,
    )
    sets = [read_questions(path) for path in find_question_files(args.questions, os.environ.get(FOLDER))]
    origin = provenance(args.command_line)
    evaluation = Evaluation(load_llm(args), sets, config, settings)
    with AnswerFile(args.out / "answers.jsonl") as answers:
        _announce(evaluation, answers)
        rows = evaluation.run(answers, _progress())
    summary = _summary(evaluation, rows, origin)
    write_whole(args.out / "summary.json", json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    if args.json:
        write_json(summary)
    else:
        write(table(summary))
    for problem in summary["problems"]:
        note(problem)
    return 0 if summary["passed"] else CHECK_FAILED


def table(summary: dict[str, Any]) -> str:
    """The summary as aligned text: a line for each set, then their mean."""
    head = ("method", "T", "set", "answers", "accept. length", "not looping", "looping", "tokens/s")
    lines = [(*head, "equal", "excused", "failed", "errors")]
    for condition in summary["conditions"]:
        rows = [*condition["sets"].items(), ("mean", condition["mean"])]
        lines += [(condition["method"], f"{condition['temperature']:g}", *_cells(*row)) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ""
    for line in lines:
        cells = [
            cell.ljust(width) if column in (0, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    for condition in summary["conditions"]:
        rates = " ".join(f"{rate:.2f}" for rate in condition["mean"]["acceptance_rate_by_depth"])
        if rates:
            where = f"{condition['method']} at T={condition['temperature']:g}"
            text += f"acceptance rate by depth, {where}: {rates}\n"
    return text + ("passed\n" if summary["passed"] else "FAILED: " + "; ".join(summary["problems"]) + "\n")


def _cells(name: str, numbers: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        str(numbers["answers"]),
        _shown(numbers["acceptance_length"], ".2f"),
        _shown(numbers["acceptance_length_without_loops"], ".2f"),
        _shown(numbers["looping_share"], ".0%"),
        _shown(numbers["tokens_per_second"], ".1f"),
        *(str(numbers[key]) for key in ("equal", "excused", "failed", "errors")),
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _announce(evaluation: Evaluation, answers: AnswerFile) -> None:
    reused, foreign = evaluation.reused(answers), evaluation.foreign(answers)
    if reused:
        note(f"{reused} of {len(evaluation.jobs)} answers are in {answers.path} already")
    if foreign:
        note(f"{foreign} answers in {answers.path} come from other settings and are ignored")


def _summary(
    evaluation: Evaluation, rows: Sequence[dict[str, Any]], origin: dict[str, Any]
) -> dict[str, Any]:
    llm, options = evaluation.llm, evaluation.jobs[0].options
    config = llm.describe(options)
    costs = llm.costs() if options.tree.is_auto else None
    for key in ("method", "temperature", "seed"):  # lists here, below
        del config[key]
    sources = sorted({row["sources"] for row in rows})
    if len(sources) > 1:
        note(
            "some answers were made by other sources of eyas than these; `sources` in summary.json lists them"
        )
    return {
        **summarise(rows, llm.runtime.target.dtype),
        "methods": list(evaluation.config.methods),
        "temperatures": list(evaluation.config.temperatures),
        "seeds": list(evaluation.config.seeds),
        "limit": evaluation.config.limit,
        "questions": {s.name: {"path": str(s.path), "sha256": s.sha256} for s in evaluation.sets},
        "config": config,
        "provenance": {
            **origin,
            "ended": now(),
            "threads": llm.runtime.target.threads,
            "model_fingerprint": llm.runtime.target.fingerprint,
            "head_sha256": evaluation.head_hashes,
            "costs": None if costs is None else costs.to_dict(),
            "sources_of_answers": sources,
        },
    }


def _progress() -> Progress:
    if not sys.stderr.isatty():
        return no_progress

    def show(done: int, total: int, what: str) -> None:
        end = "\n" if done == total else ""
        print(f"\r\x1b[K{done}/{total} answers  {what}", end=end, file=sys.stderr, flush=True)

    return show
