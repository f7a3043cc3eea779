"""`eyas calibrate`: measures the costs of a cycle on this machine again, for `--tree auto`."""

import argparse

from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Commands, add_model_options
from eyas.cli.session import announce_method, load_llm
from eyas.engine.costs import CostTable
from eyas.errors import ConfigError


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "calibrate",
        help="measure the costs by which --tree auto chooses",
        description="Measure the milliseconds of a target pass and of a draft level by their number of "
        "tokens, and keep the table for --tree auto. That takes a few seconds and happens by itself at first "
        "use; repeat it if the machine was busy then.",
    )
    parser.add_argument("--json", action="store_true", help="print the table as one document")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, keep, print."""
    llm = load_llm(args)
    costs = llm.costs(fresh=True)
    if costs is None:
        raise ConfigError(
            f"{llm.method} drafts no trees whose size can be chosen, so nothing is measured; "
            "use another method."
        )
    announce_method(args, llm)
    if args.json:
        write_json({**llm.names(), "digest": costs.digest, **costs.to_dict()})
    else:
        write(table(costs))
    note(f"kept in {llm.loaded().costs_path}")
    return 0


def table(costs: CostTable) -> str:
    """The measured milliseconds as aligned text."""
    plain = costs.verify_ms[0][1]
    lines = ["tokens verified    ms  of one token's"]
    lines += [f"{rows:>13}  {ms:6.2f}  {ms / plain:13.2f}" for rows, ms in costs.verify_ms]
    lines += ["nodes expanded     ms  a level"]
    lines += [f"{nodes:>14} {ms:6.2f}" for nodes, ms in costs.draft_ms]
    lines += [f"{'first level':>14} {costs.root_ms:6.2f}", f"{'a pair more':>14} {costs.pair_ms:6.2f}"]
    lines += [f"{'overhead':>14} {costs.overhead_ms:6.2f}"]
    lines += [
        f"behind {costs.context} tokens; 1,000 more: {1000 * costs.attend_ms:.2f} ms for each row verified"
    ]
    return "\n".join(lines) + "\n"
