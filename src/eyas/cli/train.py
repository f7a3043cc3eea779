"""`eyas train`: `distil` lets the target answer prompts, the other steps make heads from the answers.

All continue after an interruption: run the same command again.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from eyas.cli.output import note
from eyas.cli.parser import Commands, Parser
from eyas.cli.train_acceptance import add as add_acceptance
from eyas.cli.train_options import (
    StepParser,
    Steps,
    add_recipe,
    add_run_arguments,
    load_run,
    load_target,
    needs_torch,
    recipe_of,
    report,
)
from eyas.drafters.heads import HeadKind, head_kinds
from eyas.models import progress_bar
from eyas.training.config import DistilConfig

ALIASES = {"eagle": ["head"]}  # its name while there was one kind of heads


def add(commands: Commands) -> None:
    """Declare `train` and its steps."""
    parser = commands.add_parser(
        "train", help="make a draft head", description=(__doc__ or "").split("\n")[0]
    )
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True, parser_class=StepParser)
    _add_distil(steps)
    for kind in head_kinds().values():
        _add_kind(steps, kind)
    add_acceptance(steps)


def _add_distil(steps: Steps) -> None:
    distil = steps.add_parser("distil", help="let the target answer prompts", description=run_distil.__doc__)
    distil.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help='JSON lines with "prompt", maybe "id"'
    )
    distil.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="JSON lines of answers; appended to"
    )
    distil.add_argument(
        "--feature-cache", type=Path, metavar="DIR", help="keep the answers' features there for training"
    )
    add_recipe(distil, DistilConfig)
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
    with needs_torch(kind.training):
        from eyas.training.finish import trainer_of

        recipe = trainer_of(kind).recipe
    add_recipe(parser, recipe)
    parser.set_defaults(recipe=recipe)


def run_distil(args: argparse.Namespace) -> int:
    """Answer prompts with the target, in batches; a file that exists is continued."""
    from eyas.training.data import read_prompts

    config = recipe_of(args, DistilConfig)
    prompts = read_prompts(args.prompts)
    if args.feature_cache is not None:
        with needs_torch("--feature-cache"):
            from eyas.training.features import keeper
    runtime, tokenizer, _ = load_target(args, "auto")
    from eyas.training.distil import distil

    keep = None
    if args.feature_cache is not None:
        keep = keeper(args.feature_cache, runtime.target.fingerprint)
    with progress_bar() as progress:
        made = distil(runtime, tokenizer, prompts, args.out, config, progress, keep)
    for count, reason in ((made.too_long, f"longer than {made.most_tokens} tokens"), (made.empty, "empty")):
        if count:
            note(f"prompts left out, {reason}: {count}")
    note(f"{made.answers} new answers in {args.out}")
    return 0


def run_kind(args: argparse.Namespace) -> int:
    """Train a head, measure it and install it."""
    config = recipe_of(args, args.recipe)
    samples, runtime, tokenizer, place = load_run(args, args.kind.folder)
    from eyas.training.finish import train_head

    with progress_bar() as progress:
        measured = train_head(
            args.kind.name,
            runtime,
            samples,
            config,
            work=args.work,
            place=place,
            always=tokenizer.special_ids,
            start=args.start,
            feature_cache=args.feature_cache,
            feature_cache_gb=args.feature_cache_gb,
            provenance={"answers_from": [path.name for path in args.answers]},
            progress=progress,
        )
    report(args, place, measured)
    return 0
