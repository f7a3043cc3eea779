"""What the steps of `eyas train` have in common: their arguments, the target, the answers."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Parser, add_model_options, add_options, given
from eyas.config import Options, options_of
from eyas.engine.interfaces import TargetInfo
from eyas.errors import ConfigError, DataError
from eyas.models import heads_dir, progress_bar
from eyas.training.feature_store import FeatureOptions, FeatureStore

MODEL_OPTIONS = ("model", "dtype", "threads", "device")


class StepParser(Parser):
    """A step's parser, whose further options may be declared when the step is asked for.

    Attributes:
        declare: adds them; called once, before the first words are parsed.
    """

    declare: Callable[[], None] | None = None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Declare, then parse."""
        declare, self.declare = self.declare, None
        if declare is not None:
            declare()
        return super().parse_known_args(args, namespace)


Steps: TypeAlias = "argparse._SubParsersAction[StepParser]"


def add_run_arguments(parser: Parser) -> None:
    """Answers, folders and output of a training run."""
    parser.add_argument(
        "--answers", type=Path, nargs="+", required=True, metavar="FILE", help="from distil; .gz is fine"
    )
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="state of the run; the same DIR continues it"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the head goes; without it into the user's cache"
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="read features that distil has kept there, and keep there what is computed",
    )
    add_options(parser, FeatureOptions)
    parser.add_argument("--json", action="store_true", help="print the simulated acceptance as one document")


def add_recipe(parser: Parser, kind: type[Options]) -> None:
    """The target, and the fields of a recipe."""
    add_model_options(parser, only=MODEL_OPTIONS)
    add_options(parser, kind)


def recipe_of(args: argparse.Namespace, kind: type[Options]) -> Any:
    """The recipe that was typed."""
    return kind(**given(args, [named.name for named in options_of(kind)]))


@contextmanager
def needs_torch(what: str) -> Iterator[None]:
    """Turn a failed import of torch, or of what comes with it, into one line.

    Raises:
        ConfigError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("eyas"):
            raise
        raise ConfigError(
            f"{what} needs the package {error.name}; install it with `pip install 'eyas[train]'`."
        ) from error


def load_target(args: argparse.Namespace, runtime: str) -> tuple[Any, Any, Path]:
    """The target on a runtime, its tokenizer, and where it is."""
    from eyas.models import Tokenizer, resolve_model
    from eyas.runtimes import load_runtime

    settings = given(args, MODEL_OPTIONS)
    with progress_bar() as progress:
        model = resolve_model(settings.pop("model", None), progress)
        loaded = load_runtime(runtime, model, name=model.name, progress=progress, **settings)
    return loaded, Tokenizer.load(model), model


def load_draft_target(args: argparse.Namespace) -> tuple[Any, Any, Path]:
    """The target as training needs it: of a GGUF file embedding and LM head only, which are dequantised.

    The hidden states of such a target are those of the native engine, which runs the file's own formats. It
    is loaded where some are to be computed.
    """
    from eyas.models import Tokenizer, resolve_model
    from eyas.models.sources import is_gguf
    from eyas.runtimes import choose_runtime, load_runtime

    settings = given(args, MODEL_OPTIONS)
    with progress_bar() as progress:
        model = resolve_model(settings.pop("model", None), progress)
        if not is_gguf(model):
            loaded: Any = load_runtime("torch", model, name=model.name, progress=progress, **settings)
            return loaded, Tokenizer.load(model), model
        from eyas.runtimes.torch import load_torch_draft_runtime

        threads = settings.get("threads")
        whole = partial(load_runtime, "native", model, name=model.name, threads=threads)
        is_native = choose_runtime(model).name == "native"
        loaded = load_torch_draft_runtime(
            model, name=model.name, progress=progress, whole=whole if is_native else None, **settings
        )
    return loaded, Tokenizer.load(model), model


def open_store(args: argparse.Namespace, target: TargetInfo) -> FeatureStore | None:
    """The folder of --features."""
    if args.features is None:
        return None
    return FeatureStore(
        args.features, target.fingerprint, target.hidden_size, recipe_of(args, FeatureOptions)
    )


def load_run(args: argparse.Namespace, folder: str) -> tuple[Any, Any, Any, Path]:
    """The answers, the target that gave them, its tokenizer, and where the result goes.

    Args:
        args: of `add_run_arguments`.
        folder: below the target's own in the cache; "" for that itself.

    Raises:
        DataError: the answers are another target's, or hold ids that this one does not have.
        ConfigError: there is no place for the head, or it would replace something.
    """
    from eyas.training.data import read_samples
    from eyas.training.measure import EVALUATED
    from eyas.training.place import check_apart

    if args.work.exists() and not args.work.is_dir():
        raise ConfigError(f"--work {args.work} is a file; name a folder.")
    samples = read_samples(args.answers)
    runtime, tokenizer, directory = load_draft_target(args)
    target = runtime.target
    others = {sample.target for sample in samples} - {None, target.fingerprint}
    if others:
        raise DataError(
            f"the answers are those of the target with fingerprint {others.pop()}, but {target.name} has "
            f"{target.fingerprint}; distil answers with this target."
        )
    largest = max(max(sample.token_ids) for sample in samples)
    if largest >= target.vocab_size:
        raise DataError(
            f"the answers hold token id {largest}, but the ids of {target.name} end at "
            f"{target.vocab_size - 1}; distil answers with this target."
        )
    if args.out is None and target.fingerprint is None:
        raise ConfigError("this target has no fingerprint to file its head under; give --out DIR.")
    # Resolved: the folder is renamed into its place, for which it needs a name.
    place = args.out.resolve() if args.out else heads_dir() / str(target.fingerprint) / folder
    kept = [] if args.features is None else [args.features]
    check_apart(place, [directory, args.work, args.work / EVALUATED, *args.answers, *kept])
    return samples, runtime, tokenizer, place


def report(args: argparse.Namespace, place: Path, measured: Mapping[str, Any]) -> None:
    """Say where the result is and what it reached."""
    note(f"the head is in {place}")
    if args.json:
        write_json({"head": str(place), "simulated_acceptance_length": measured})
    else:
        write("".join(f"{name}: {json.dumps(numbers)}\n" for name, numbers in measured.items()))
