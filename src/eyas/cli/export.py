"""`eyas export-head`: writes a head in the layout that other programs read."""

import argparse
import os
import shutil
from pathlib import Path

from eyas.cli.output import write
from eyas.cli.parser import Commands
from eyas.drafters.eagle_head import export_plain
from eyas.errors import CheckpointError, ConfigError


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export-head",
        help="write a head that the authors' code loads",
        description="Write a one-layer head in the plain EAGLE-1/2 layout, without a draft vocabulary.",
    )
    parser.add_argument("head", type=Path, metavar="HEAD", help="directory of the head")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--plain", action="store_true", help="the plain layout, so far the only one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; OUT is written as a whole or not at all."""
    if not args.plain:
        raise ConfigError("export-head needs --plain, the only layout that it writes.")
    if args.out.exists():
        raise CheckpointError(f"{args.out} exists already; name a new folder.")
    unfinished = args.out.with_name(f".unfinished-{os.getpid()}-{args.out.name}")
    try:
        export_plain(args.head, unfinished)
        unfinished.rename(args.out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    write(f"{args.out}\n")
    return 0
