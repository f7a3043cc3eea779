"""`eyas profile`: where the milliseconds of a cycle go."""

import argparse
from collections.abc import Mapping
from typing import Any

from eyas.bench.render import terminal
from eyas.bench.tables import Column, Table
from eyas.cli.aliases import add_aliases, resolve_aliases
from eyas.cli.output import statistics_line, write, write_json
from eyas.cli.parser import Commands, add_generation_options, add_model_options, add_prompt_options
from eyas.cli.session import announce_method, generation_settings, load_llm, read_prompt
from eyas.engine.metrics import PHASES, Laps

NOT_HERE = ("n",)
OWN_DEFAULTS = {"max_new_tokens": 128}


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "profile",
        help="where the milliseconds of a cycle go",
        description="Answer a prompt twice and time the second answer: draft forwards, tree building, "
        "verification, sampling, commit, other; medians over cycles and shares of the whole. A tree that is "
        "drafted in one call (EAGLE-2 on the native runtime) is a draft forward.",
    )
    add_prompt_options(parser, instead_of="a table")
    add_model_options(parser)
    add_generation_options(parser, NOT_HERE, OWN_DEFAULTS)
    add_aliases(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer twice, print where the time went."""
    resolve_aliases(args)
    settings = generation_settings(args, **OWN_DEFAULTS)
    prompt = read_prompt(args.prompt)
    llm = load_llm(args)
    options = llm.options(settings).with_seed()
    engine = llm.engine()
    for engine.laps in (None, Laps()):  # the first answer only warms caches
        for done, _ in engine.stream(llm.request(prompt, options)):
            finished = done
    assert engine.laps is not None, "the second answer was timed"
    found, stats, config = engine.laps.summary(), finished.stats(), llm.describe(options)
    announce_method(args, llm)
    if args.json:
        write_json({**found, "stats": stats.to_dict(), "config": config})
    else:
        write(table(found) + statistics_line([stats], config) + "\n")
    return 0


def table(found: Mapping[str, Any]) -> str:
    """The phases of a cycle as aligned text."""
    if not found["cycles"]:
        return "the answer ended with its first token, so there is no cycle\n"
    rows = [(PHASES[phase], entry["median_ms"], entry["share"]) for phase, entry in found["phases"].items()]
    rows += [("cycle", found["cycle_ms"], 1.0)]
    rows += [("outside draft and verify", found["beside_passes_ms"], found["beside_passes_share"])]
    columns: list[Column] = [
        (f"median over {found['cycles']} cycles", "text"),
        ("ms", "f3"),
        ("share", "pct"),
    ]
    return terminal([Table("profile", "", columns, rows)])
