"""`eyas bench`: compares methods by speed and acceptance length, on equal ids."""

import argparse
import os
from pathlib import Path

from eyas.bench.contenders import PRESETS, contenders
from eyas.bench.peers import PEERS, PeerSettings, load_peers
from eyas.bench.plan import BenchConfig
from eyas.bench.provenance import provenance
from eyas.bench.results import ROWS, Results
from eyas.bench.run import Bench
from eyas.bench.summary import problems
from eyas.cli.aliases import add_aliases
from eyas.cli.bench_report import add_check, add_mixed, add_plot, add_report, show
from eyas.cli.measure import CHECK_FAILED, add_question_options, base_settings, measure, question_sets
from eyas.cli.output import note
from eyas.cli.parser import Commands, add_model_options, add_shared_options
from eyas.cli.session import load_llm

OWN_DEFAULTS = {"max_new_tokens": 128}
# Lists here, or without use. Options of single methods belong to contenders.
NOT_HERE = ("temperature", "seed", "n", "logprobs")


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = commands.add_parser(
        "bench", help="compare methods by speed, on equal ids", description=(__doc__ or "").split("\n")[0]
    )
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    _add_run(steps)
    add_report(steps)
    add_plot(steps)
    add_check(steps)


def _add_run(steps: Commands) -> None:
    parser = steps.add_parser(
        "run",
        help="measure methods on question files",
        description="Answer question files with each contender: once to compare ids and count cycles, then "
        "with a clock. No speed is kept if ids differ from plain decoding's. Run again after an "
        "interruption: rows in --out are not made twice. Exit code 1 if answers were lost or ids differ.",
    )
    group = parser.add_argument_group("what to measure")
    group.add_argument(
        "--methods",
        nargs="+",
        default=["eagle2"],
        metavar="CONTENDER",
        help="METHOD, METHOD:option=value,...,name=LABEL, or a preset: "
        f"{', '.join(PRESETS)}; plain decoding is always among them (default: eagle2)",
    )
    add_question_options(group)
    group.add_argument("--turns", type=int, metavar="N", help="first N turns of each question")
    group.add_argument(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="timed answers to each prompt, after the one whose ids are checked; with --no-cycles that one "
        "is the first of them; 0 measures acceptance only (default: 3)",
    )
    group.add_argument(
        "--cycles",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="store counts by confidence and position in the tree, and the seconds of each phase "
        "(default: on)",
    )
    group.add_argument(
        "--out",
        type=Path,
        default=Path("eyas-bench"),
        metavar="DIR",
        help=f"{ROWS} and run.json go there (default: eyas-bench)",
    )
    add_mixed(group)
    group.add_argument("--json", action="store_true", help="print the report as one document")
    _add_peers(parser)
    add_model_options(parser, leave_out=("method",))
    add_shared_options(parser, NOT_HERE, {"tree": "fixed", **OWN_DEFAULTS})
    add_aliases(parser)
    parser.set_defaults(run=run)


def _add_peers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other programs")
    group.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"other programs to compare with, greedily: {', '.join(PEERS)}, or all",
    )
    group.add_argument(
        "--peer-assistant", type=Path, metavar="DIR", help="small model for transformers' assisted generation"
    )
    group.add_argument(
        "--gguf-dir",
        type=Path,
        default=Path("build/gguf"),
        metavar="DIR",
        help="folder for llama.cpp's model files (default: build/gguf)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, then report; the exit code says whether every answer is there and its ids are as promised."""
    base = base_settings(args, OWN_DEFAULTS)
    config = BenchConfig(
        temperatures=args.temperatures,
        seeds=args.seeds,
        limit=args.limit,
        turns=args.turns,
        repeats=args.repeats,
        cycles=args.cycles,
    )
    wanted = contenders(args.methods, base)
    sets = question_sets(args)
    names = list(PEERS) if args.peers == ["all"] else args.peers
    session = provenance(args.command_line)
    llm = load_llm(args)
    target = llm.runtime.target
    peers, absent = load_peers(
        names,
        PeerSettings(
            model=Path(llm.names()["model"]),
            dtype=target.dtype,
            threads=target.threads or os.cpu_count() or 1,
            assistant=args.peer_assistant,
            gguf_dir=args.gguf_dir,
        ),
    )
    bench = Bench(llm, sets, wanted, config, base, peers=peers, foreign="count" if args.mixed else "refuse")
    bench.left_out |= absent
    for name, reason in bench.left_out.items():
        note(f"left out: {name} ({reason})")
    measure(bench, args.out, session)
    results = Results.load(args.out, mixed=args.mixed)
    show(args, results)
    rows = [row for name in results.contenders for row in results.checked(name)]
    found = problems(rows, target.dtype)
    for problem in found:
        note(problem)
    return CHECK_FAILED if found else 0
