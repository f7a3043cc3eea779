"""`eyas train`: `distil` lets the target answer prompts, the other steps make heads from the answers.

All continue after an interruption: run the same command again.
"""

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from eyas.cli.output import note
from eyas.cli.parser import Commands, Parser, add_options
from eyas.cli.train_acceptance import add as add_acceptance
from eyas.cli.train_options import (
    StepParser,
    Steps,
    add_recipe,
    add_run_arguments,
    load_run,
    load_target,
    needs_torch,
    open_store,
    recipe_of,
    report,
)
from eyas.drafters.heads import HeadKind, trained_kinds
from eyas.errors import ConfigError
from eyas.models import progress_bar, silent
from eyas.training.config import DistilConfig
from eyas.training.feature_store import FeatureOptions, FeatureStore
from eyas.training.prompts import listed_fields, read_prompts
from eyas.training.taps import EAGLE3, parse_taps

ALIASES = {"eagle": ["head"]}  # its name while there was one kind of heads


def add(commands: Commands) -> None:
    """Declare `train` and its steps."""
    parser = commands.add_parser(
        "train", help="make a draft head", description=(__doc__ or "").split("\n")[0]
    )
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True, parser_class=StepParser)
    _add_distil(steps)
    for kind in trained_kinds().values():
        _add_kind(steps, kind)
    add_acceptance(steps)


def _add_distil(steps: Steps) -> None:
    distil = steps.add_parser("distil", help="let the target answer prompts", description=run_distil.__doc__)
    distil.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help=f'JSON lines with {listed_fields()}; maybe "id"',
    )
    distil.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="JSON lines of answers; appended to"
    )
    distil.add_argument(
        "--keep-features",
        type=Path,
        metavar="DIR",
        help="keep the answers' hidden states there: training then never runs the target",
    )
    distil.add_argument(
        "--taps",
        metavar="K,..",
        help="keep the hidden states after these numbers of layers, too; "
        f"{EAGLE3} names those of its authors: 2, half, all but 3",
    )
    add_recipe(distil, DistilConfig)
    add_options(distil, FeatureOptions)
    distil.set_defaults(run=run_distil)


def _add_kind(steps: Steps, kind: HeadKind[Any]) -> None:
    """A step for a kind of heads. Its recipe is declared on demand: a trainer imports torch."""
    parser = steps.add_parser(
        kind.name,
        aliases=ALIASES.get(kind.name, []),
        help=f"train {kind.title} on answers",
        description=f"Train {kind.title} for the target, measure the acceptance by simulation, and install.",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--start", type=Path, metavar="HEAD", help="continue from this head: weights, draft vocabulary"
    )
    parser.set_defaults(run=run_kind, kind=kind)
    assert isinstance(parser, StepParser), "the class that was asked for"
    parser.declare = partial(_declare_recipe, parser, kind)


def _declare_recipe(parser: Parser, kind: HeadKind[Any]) -> None:
    with needs_torch(f"eyas train {kind.name}"):
        from eyas.training.finish import trainer_of

        recipe = trainer_of(kind).recipe
    add_recipe(parser, recipe)
    parser.set_defaults(recipe=recipe)


def run_distil(args: argparse.Namespace) -> int:
    """Answer prompts with the target, in batches; a file that exists is continued."""
    config, features = recipe_of(args, DistilConfig), recipe_of(args, FeatureOptions)
    if args.taps is not None and args.keep_features is None:
        raise ConfigError(
            "--taps says which hidden states are kept, but not where; give --keep-features DIR."
        )
    prompts = read_prompts(args.prompts)
    runtime, tokenizer, _ = load_target(args, "auto")
    from eyas.training.distil import distil

    target, store = runtime.target, None
    taps = parse_taps(args.taps, target)
    if args.keep_features is not None:
        store = FeatureStore(args.keep_features, target.fingerprint, target.hidden_size, features)
    with progress_bar() as progress:
        made = distil(runtime, tokenizer, prompts, args.out, config, progress, store, taps)
    for count, reason in ((made.too_long, f"longer than {made.most_tokens} tokens"), (made.empty, "empty")):
        if count:
            note(f"prompts left out, {reason}: {count}")
    if made.read_again:
        note(f"answers whose features were missing, read again: {made.read_again}")
    if made.without_features:
        full = f"{args.keep_features} is full; raise --feature-gb"
        note(f"answers without features: {made.without_features}, since {full}")
    note(f"{made.answers} new answers in {args.out}")
    return 0


def run_kind(args: argparse.Namespace) -> int:
    """Train a head, measure it and install it."""
    config = recipe_of(args, args.recipe)
    samples, runtime, tokenizer, place = load_run(args, args.kind.folder)
    store = open_store(args, runtime.target)
    from eyas.training.finish import train_head
    from eyas.training.processes import find_processes

    processes = find_processes(str(runtime.device))
    with progress_bar() if processes.is_first else nullcontext(silent) as progress:
        measured = train_head(
            args.kind.name,
            runtime,
            samples,
            config,
            work=args.work,
            place=place,
            always=tokenizer.special_ids,
            start=args.start,
            store=store,
            processes=processes,
            provenance={"answers_from": [path.name for path in args.answers]},
            progress=progress,
        )
    if processes.is_first:
        report(args, place, measured)
    return 0
