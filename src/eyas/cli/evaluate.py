"""`eyas eval`: acceptance lengths on question files, and whether the ids equal plain decoding's."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.bench.contenders import contenders
from eyas.bench.equality import PLAIN
from eyas.bench.files import write_whole
from eyas.bench.plan import BenchConfig
from eyas.bench.provenance import now, provenance
from eyas.bench.render import terminal
from eyas.bench.run import Bench
from eyas.bench.summary import summarise
from eyas.bench.tables import Column, Table
from eyas.cli.aliases import add_aliases
from eyas.cli.measure import CHECK_FAILED, add_question_options, base_settings, measure, question_sets
from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Commands, add_generation_options, add_model_options, comma_list
from eyas.cli.session import load_llm
from eyas.errors import ConfigError

OWN_DEFAULTS = {"max_new_tokens": 64}
# Temperatures and seeds are lists here; the method is --methods; one answer without extras to each question.
NOT_HERE = ("temperature", "seed", "n", "logprobs")
COLUMNS: tuple[Column, ...] = (
    ("method", "text"),
    ("T", "int"),
    ("set", "text"),
    ("answers", "int"),
    ("accept. length", "f2"),
    ("not looping", "f2"),
    ("looping", "pct"),
    ("tokens/s", "f1"),
    ("equal", "int"),
    ("excused", "int"),
    ("failed", "int"),
    ("errors", "int"),
)
NUMBERS = (
    *("answers", "acceptance_length", "acceptance_length_without_loops", "looping_share"),
    *("tokens_per_second", "equal", "excused", "failed", "errors"),
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "eval",
        help="acceptance length and an ids-equal check on question files",
        description="Answer the first turns of question files with each method and with plain decoding; "
        "compare their ids; report acceptance lengths. Exit code 1 if a check fails. "
        "Run again after an interruption: answers in --out are not made twice. `eyas bench run` measures "
        "speeds too.",
    )
    group = parser.add_argument_group("what to measure")
    add_question_options(group)
    group.add_argument(
        "--methods",
        type=comma_list(str),
        default=("eagle2",),
        metavar="NAMES",
        help="separated by commas (default: eagle2)",
    )
    group.add_argument(
        "--no-equal-check", action="store_true", help="leave plain decoding out: acceptance lengths only"
    )
    group.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="answers generated at a time: the same ids sooner, but no speeds (default: 1)",
    )
    group.add_argument(
        "--out",
        type=Path,
        default=Path("eyas-eval"),
        metavar="DIR",
        help="rows.jsonl, run.json and summary.json go there (default: eyas-eval)",
    )
    group.add_argument("--json", action="store_true", help="print the summary as one document")
    add_model_options(parser, leave_out=("method",))
    add_generation_options(parser, NOT_HERE, OWN_DEFAULTS)
    add_aliases(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; the exit code says whether all checks passed."""
    settings = base_settings(args, OWN_DEFAULTS)
    config = BenchConfig(
        temperatures=args.temperatures,
        seeds=args.seeds,
        limit=args.limit,
        turns=1,
        repeats=0,
        cycles=False,
        compare=not args.no_equal_check,
        batch=args.batch,
    )
    wanted = contenders(_named_once(args.methods), settings)
    if not config.compare and PLAIN not in args.methods:
        wanted = wanted[1:]
    sets = question_sets(args)
    session = provenance(args.command_line)
    bench = Bench(load_llm(args), sets, wanted, config, settings, foreign="ignore")
    old = args.out / "answers.jsonl"
    if old.exists():
        note(f"{old} was written by an older eyas and is not read; its answers are made again")
    rows = measure(bench, args.out, session)
    summary = {
        **summarise(rows, bench.llm.runtime.target.dtype),
        **_origin(bench, args.methods, session | {"ended": now()}),
    }
    write_whole(args.out / "summary.json", json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    if args.json:
        write_json(summary)
    else:
        write(table(summary))
    for problem in summary["problems"]:
        note(problem)
    return 0 if summary["passed"] else CHECK_FAILED


def table(summary: Mapping[str, Any]) -> str:
    """The summary as aligned text: a line for each set, then their mean."""
    lines = [
        [condition["method"], f"{condition['temperature']:g}", name, *(numbers[key] for key in NUMBERS)]
        for condition in summary["conditions"]
        for name, numbers in (*condition["sets"].items(), ("mean", condition["mean"]))
    ]
    text = terminal([Table("eval", "", COLUMNS, lines)])
    for condition in summary["conditions"]:
        rates = " ".join(f"{rate:.2f}" for rate in condition["mean"]["acceptance_rate_by_depth"])
        if rates:
            where = f"{condition['method']} at T={condition['temperature']:g}"
            text += f"acceptance rate by depth, {where}: {rates}\n"
    return text + ("passed\n" if summary["passed"] else "FAILED: " + "; ".join(summary["problems"]) + "\n")


def _named_once(methods: tuple[str, ...]) -> tuple[str, ...]:
    if not methods:
        raise ConfigError("methods is empty; give at least one value.")
    if len(set(methods)) != len(methods):
        raise ConfigError(f"methods has a value twice: {', '.join(methods)}.")
    return methods


def _origin(bench: Bench, methods: tuple[str, ...], session: dict[str, Any]) -> dict[str, Any]:
    """What was asked, by which model and program."""
    llm, config = bench.llm, bench.plan.config
    first = next(iter(bench.plan.prompts()))
    options = bench.plan.task(first, bench.plan.contenders[-1], 0).options
    described = llm.describe(options)
    for key in ("method", "temperature", "seed"):  # lists, below
        del described[key]
    costs = llm.costs() if options.tree.is_auto else None
    target = llm.runtime.target
    return {
        "methods": list(methods),
        "temperatures": list(config.temperatures),
        "seeds": list(config.seeds),
        "limit": config.limit,
        "questions": {s.name: {"path": str(s.path), "sha256": s.sha256} for s in bench.plan.sets},
        "config": described,
        "provenance": {
            **session,
            "threads": target.threads,
            "model_fingerprint": target.fingerprint,
            "head_sha256": {PLAIN: None, **bench.head_hashes},
            "costs": None if costs is None else costs.to_dict(),
        },
    }
