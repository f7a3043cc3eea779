"""`eyas export-head`: writes a head in the layout that other programs read."""

import argparse
from pathlib import Path

from eyas.cli.output import write
from eyas.cli.parser import Commands
from eyas.drafters.head_export import export_head, head_layouts
from eyas.errors import ConfigError


def add(commands: Commands) -> None:
    """Declare the command."""
    listed = "; ".join(
        f"{name} holds {kind.title} for {layout.readers}" for name, (kind, layout) in head_layouts().items()
    )
    parser = commands.add_parser(
        "export-head",
        help="write a head that other programs load",
        description=f"Write a head, in bfloat16, as other programs read it. Layouts: {listed}.",
    )
    parser.add_argument("head", type=Path, metavar="HEAD", help="the head: its folder, or a GGUF file")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make, or file for the layout gguf")
    parser.add_argument("--layout", metavar="NAME", help=f"one of {', '.join(head_layouts())}")
    parser.add_argument("--plain", action="store_true", help="the layout eagle, by its earlier name")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="the head's target: its GGUF file, whose tokenizer goes into the layout gguf, or its folder or "
        "name on the hub, which the layout speculators names",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; OUT is written as a whole or not at all."""
    layout = args.layout or ("eagle" if args.plain else None)
    if layout is None:
        raise ConfigError(f"export-head needs --layout, one of {', '.join(head_layouts())}.")
    export_head(args.head, args.out, layout, args.model)
    write(f"{args.out}\n")
    return 0
