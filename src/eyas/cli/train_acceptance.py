"""`eyas train acceptance`: calibrates a head for the trees of `--tree auto`."""

import argparse
from pathlib import Path

from eyas.cli.output import note, write
from eyas.cli.parser import add_model_options, add_options, given
from eyas.cli.train_options import Steps
from eyas.config import options_of
from eyas.models import progress_bar
from eyas.training.acceptance_map import WatchConfig, fit_acceptance, store_maps
from eyas.training.prompts import listed_fields, read_prompts

MODEL_OPTIONS = ("model", "runtime", "dtype", "draft_dtype", "kv_dtype", "threads", "device")


def add(steps: Steps) -> None:
    """Declare the step."""
    parser = steps.add_parser(
        "acceptance",
        help="calibrate a head: confidence to acceptance rate",
        description="Answer prompts that a head was not trained on, watch which of its nodes are accepted, "
        "and write the acceptance rate at each confidence and depth into the head's config.json. "
        "`--tree auto` chooses by these rates; ids never depend on them.",
    )
    parser.add_argument("--head", type=Path, required=True, metavar="DIR", help="the head; it is changed")
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help=f'JSON lines with {listed_fields()}; maybe "id"',
    )
    add_model_options(parser, only=MODEL_OPTIONS)
    add_options(parser, WatchConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Watch, fit, write."""
    from eyas.api.llm import load

    config = WatchConfig(**given(args, [named.name for named in options_of(WatchConfig)]))
    prompts = read_prompts(args.prompts)
    llm = load(head=args.head, method="auto", **given(args, MODEL_OPTIONS))
    with progress_bar() as progress:
        maps = fit_acceptance(llm, prompts, config, progress)
    store_maps(args.head, maps)
    for mode, fit in maps.items():
        at = fit.confidence.index(0.5)
        rates = " ".join(f"{rates[at]:.2f}" for rates in fit.rate_by_depth)
        write(f"{mode}: nodes of confidence 0.5 are accepted at, by depth: {rates}\n")
    note(f"written into {args.head}/config.json")
    return 0
