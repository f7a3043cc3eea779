"""`eyas heads`: the heads on this machine, and which of them a model can use."""

import argparse
from typing import Any

from eyas.cli.output import note, size_text, write_json, write_table
from eyas.cli.parser import Commands, add_model_options, given
from eyas.drafters.find import FoundHead, HeadFinder
from eyas.drafters.registry import methods
from eyas.models import progress_bar, resolve_model


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "heads",
        help="list the draft heads that fit a model",
        description="List the draft heads on this machine, the methods that use them, whether they fit a "
        "model, and if not, why. They lie next to the model, in the cache, in packages, and in eyas.",
    )
    add_model_options(parser, only=("model",))
    parser.add_argument("--json", action="store_true", help="print one document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A row for each head."""
    with progress_bar() as progress:
        model = resolve_model(given(args, ("model",)).get("model"), progress)
    rows = [_row(found) for found in HeadFinder.of(model).all()]
    rows.sort(key=lambda row: "problem" in row)
    if args.json:
        write_json({"model": str(model), "heads": rows})
        return 0
    if rows:
        write_table(("kind", "methods", "size", "place", "fits"), map(_cells, rows), right={"size"})
    if not any("problem" not in row for row in rows):
        note(f"no head fits {model}: give one with --head, or train one with `eyas train eagle3`")
    return 0


def _row(found: FoundHead) -> dict[str, Any]:
    files = [found.path] if found.path.is_file() else [f for f in found.path.iterdir() if f.is_file()]
    row: dict[str, Any] = {
        "kind": found.kind,
        "methods": [name for name, method in methods().items() if method.head == found.kind],
        "size_bytes": sum(file.stat().st_size for file in files),
        "path": str(found.path),
    }
    return row if found.problem is None else row | {"problem": found.problem}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size, fits = size_text(row["size_bytes"]), "no: " + row["problem"] if "problem" in row else "yes"
    return row["kind"], " ".join(row["methods"]), size, row["path"], fits
