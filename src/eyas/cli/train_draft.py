"""`eyas train medusa`, `hydra`, `draft-lm`: what the other methods draft with."""

import argparse

from eyas.cli.parser import Commands
from eyas.cli.train_options import add_recipe, add_run_arguments, load_run, recipe_of, report
from eyas.models import progress_bar
from eyas.training.config import DRAFT_CONFIGS

_WHAT = {
    "medusa": ("Medusa heads", "the heads go"),
    "hydra": ("Hydra heads", "the heads go"),
    "draft-lm": ("a small draft model", "the model goes"),
}


def add(steps: Commands) -> None:
    """Declare the three steps."""
    for kind, config in DRAFT_CONFIGS.items():
        title, goes = _WHAT[kind]
        parser = steps.add_parser(
            kind,
            help=f"train {title} on answers",
            description=f"Train {title} for the target, measure them by simulation and install them.",
        )
        add_run_arguments(parser, goes)
        add_recipe(parser, config)
        parser.set_defaults(run=run, kind=kind)


def run(args: argparse.Namespace) -> int:
    """Train, measure, install."""
    config = recipe_of(args, DRAFT_CONFIGS[args.kind])
    samples, runtime, tokenizer, place = load_run(args, args.kind)
    from eyas.training.finish_draft import train_draft

    with progress_bar() as progress:
        measured = train_draft(
            args.kind,
            runtime,
            samples,
            config,
            work=args.work,
            place=place,
            always=tokenizer.special_ids,
            feature_cache=args.feature_cache,
            feature_cache_gb=args.feature_cache_gb,
            provenance={"answers_from": [path.name for path in args.answers]},
            progress=progress,
        )
    report(args, place, measured)
    return 0
