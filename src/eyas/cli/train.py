"""`eyas train`: `distil` lets the target answer prompts, `head` trains a draft head on answers.

Both go on where an interruption left them: run the same command again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from eyas.cli.helps import DISTIL_HELPS, HEAD_HELPS, MODEL_HELPS
from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Commands, add_option, given, model_options, options_of
from eyas.errors import ConfigError, DataError
from eyas.models import heads_dir, progress_bar
from eyas.training.config import DistilConfig, HeadConfig

MODEL_OPTIONS = ("model", "dtype", "threads")


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
        "--feature-cache", type=Path, metavar="DIR", help="keep the answers' features there for `train head`"
    )
    _add_options(distil, DistilConfig, DISTIL_HELPS)
    distil.set_defaults(run=run_distil)

    head = steps.add_parser("head", help="train a head on answers", description=_about(run_head))
    head.add_argument(
        "--answers", type=Path, nargs="+", required=True, metavar="FILE", help="from distil; .gz is fine"
    )
    head.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="state of the run; the same DIR goes on"
    )
    head.add_argument(
        "--out", type=Path, metavar="DIR", help="where the head goes; without it into the user's cache"
    )
    head.add_argument("--start", type=Path, metavar="HEAD", help="go on from the weights of this head")
    head.add_argument(
        "--feature-cache", type=Path, metavar="DIR", help="keep features there; without it none are stored"
    )
    head.add_argument(
        "--feature-cache-gb", type=float, default=8.0, metavar="X", help="at most so much (default: 8)"
    )
    head.add_argument("--json", action="store_true", help="print the simulated acceptance as one document")
    _add_options(head, HeadConfig, HEAD_HELPS)
    head.set_defaults(run=run_head)


def run_distil(args: argparse.Namespace) -> int:
    """Answer prompts with the target, in batches; a file that exists is continued."""
    from eyas.training.data import read_prompts

    config = DistilConfig(**given(args, [option.name for option in options_of(DistilConfig)]))
    prompts = read_prompts(args.prompts)
    runtime, tokenizer = _load(args, "auto")
    from eyas.training.distil import distil

    keep = None
    if args.feature_cache is not None:
        from eyas.training.features import keeper

        keep = keeper(args.feature_cache, str(runtime.target.fingerprint))
    with progress_bar() as progress:
        count = distil(runtime, tokenizer, prompts, args.out, config, progress, keep)
    note(f"{count} new answers in {args.out}")
    return 0


def run_head(args: argparse.Namespace) -> int:
    """Train a head for the target, measure it by simulation and install it."""
    from eyas.training.data import read_samples

    config = HeadConfig(**given(args, [option.name for option in options_of(HeadConfig)]))
    samples = read_samples(args.answers)
    runtime, tokenizer = _load(args, "torch")
    largest = max(max(sample.token_ids) for sample in samples)
    if largest >= runtime.target.vocab_size:
        raise DataError(
            f"the answers hold token id {largest}, but the ids of {runtime.target.name} end at "
            f"{runtime.target.vocab_size - 1}; distil answers with this target."
        )
    from eyas.training.finish import train_head

    fingerprint = runtime.target.fingerprint
    if args.out is None and fingerprint is None:
        raise ConfigError("this target has no fingerprint to file its head under; give --out DIR.")
    place = args.out or heads_dir() / str(fingerprint)
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
    note(f"the head is in {place}")
    if args.json:
        write_json({"head": str(place), "simulated_acceptance_length": measured})
    else:
        write("".join(f"{name}: {json.dumps(numbers)}\n" for name, numbers in measured.items()))
    return 0


def _load(args: argparse.Namespace, runtime: str) -> tuple[Any, Any]:
    """The target on a runtime, and its tokenizer."""
    from eyas.models import Tokenizer, resolve_model
    from eyas.runtimes import load_runtime

    settings = given(args, MODEL_OPTIONS)
    with progress_bar() as progress:
        directory = resolve_model(settings.pop("model", None), progress)
    return load_runtime(runtime, directory, name=directory.name, **settings), Tokenizer.load(directory)


def _add_options(parser: argparse.ArgumentParser, kind: type, helps: dict[str, str]) -> None:
    model = parser.add_argument_group("model")
    for option in model_options():
        if option.name in MODEL_OPTIONS:
            add_option(model, option, MODEL_HELPS[option.name])
    group = parser.add_argument_group("recipe")
    for option in options_of(kind):
        add_option(group, option, helps[option.name])


def _about(function: Any) -> str:
    return str(function.__doc__ or "")
