"""`eyas train`: `distil` lets the target answer prompts, the other steps make what drafts for it.

All go on where an interruption left them: run the same command again.
"""

import argparse
from pathlib import Path
from typing import Any

from eyas.cli.output import note
from eyas.cli.parser import Commands
from eyas.cli.train_acceptance import add as add_acceptance
from eyas.cli.train_draft import add as add_draft
from eyas.cli.train_options import add_recipe, add_run_arguments, load_run, load_target, recipe_of, report
from eyas.models import progress_bar
from eyas.training.config import DistilConfig, HeadConfig


def add(commands: Commands) -> None:
    """Declare the two commands."""
    parser = commands.add_parser(
        "train", help="make a draft head", description=(__doc__ or "").split("\n")[0]
    )
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)

    distil = steps.add_parser("distil", help="let the target answer prompts", description=_about(run_distil))
    distil.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help='JSON lines with "prompt", maybe "id"'
    )
    distil.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="JSON lines of answers; appended to"
    )
    distil.add_argument(
        "--feature-cache", type=Path, metavar="DIR", help="keep the answers' features there for `eyas train`"
    )
    add_recipe(distil, DistilConfig)
    distil.set_defaults(run=run_distil)

    head = steps.add_parser(
        "eagle", aliases=["head"], help="train a head on answers", description=_about(run_head)
    )
    add_run_arguments(head, "the head goes")
    head.add_argument("--start", type=Path, metavar="HEAD", help="go on from this head: weights, vocabulary")
    add_recipe(head, HeadConfig)
    head.set_defaults(run=run_head)
    add_acceptance(steps)
    add_draft(steps)


def run_distil(args: argparse.Namespace) -> int:
    """Answer prompts with the target, in batches; a file that exists is continued."""
    from eyas.training.data import read_prompts

    config = recipe_of(args, DistilConfig)
    prompts = read_prompts(args.prompts)
    runtime, tokenizer, _ = load_target(args, "auto")
    from eyas.training.distil import distil

    keep = None
    if args.feature_cache is not None:
        from eyas.training.features import keeper

        keep = keeper(args.feature_cache, runtime.target.fingerprint)
    with progress_bar() as progress:
        made = distil(runtime, tokenizer, prompts, args.out, config, progress, keep)
    for count, reason in ((made.too_long, f"longer than {made.most_tokens} tokens"), (made.empty, "empty")):
        if count:
            note(f"prompts left out, {reason}: {count}")
    note(f"{made.answers} new answers in {args.out}")
    return 0


def run_head(args: argparse.Namespace) -> int:
    """Train a head for the target, measure it by simulation and install it."""
    config = recipe_of(args, HeadConfig)
    samples, runtime, tokenizer, place = load_run(args, "")
    from eyas.training.finish import train_head

    with progress_bar() as progress:
        measured = train_head(
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


def _about(function: Any) -> str:
    return str(function.__doc__ or "")
