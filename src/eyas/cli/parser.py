"""Command-line options generated from dataclass fields: names with dashes, types and defaults from there.

An option that was not given leaves no trace in the namespace, so defaults stay where they are written.
"""

import argparse
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from eyas.api.options import GenerationOptions
from eyas.cli.helps import GENERATION_HELPS, MODEL_HELPS
from eyas.config import SamplingConfig, StoppingConfig, TreeConfig
from eyas.drafters.registry import methods
from eyas.errors import ConfigError

GROUPS: Mapping[str, type] = {
    "sampling": SamplingConfig,
    "stopping": StoppingConfig,
    "draft tree": TreeConfig,
    "prompt and answer": GenerationOptions,
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours: one line, no usage block, no exit inside."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Scripts rely on these names: an abbreviation that is unique today may not be tomorrow.
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing."""
        raise ConfigError(f"{message} (see `{self.prog} --help`).")


Value = TypeVar("Value")
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name with underscores, its type and its default."""

    name: str
    hint: Any
    default: Any
    help: str = ""

    @property
    def flag(self) -> str:
        """The name as it is typed."""
        return "--" + self.name.replace("_", "-")


def flag(name: str) -> str:
    """`tree_top_k` as `--tree-top-k`."""
    return "--" + name.replace("_", "-")


def options_of(kind: type, leave_out: Collection[str] = ()) -> list[Option]:
    """The options that a dataclass gives. Fields that are dataclasses or `drafting` are no options."""
    hints = get_type_hints(kind)
    found = []
    for item in fields(kind):
        if item.name in (*leave_out, "drafting") or is_dataclass(hints[item.name]):
            continue
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        found.append(Option(item.name, hints[item.name], default, item.metadata.get("help", "")))
    return found


def model_options() -> list[Option]:
    """The options of `eyas.load`."""
    from eyas.api.llm import load

    hints = get_type_hints(load)
    return [Option(p.name, hints[p.name], p.default) for p in signature(load).parameters.values()]


def add_prompt_options(parser: argparse.ArgumentParser, instead_of: str) -> None:
    """PROMPT, and --json `instead_of` what is printed otherwise."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt; - reads standard input")
    parser.add_argument("--json", action="store_true", help=f"print one document instead of {instead_of}")


def add_model_options(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """--model, --head, --method, --runtime, --dtype, --threads, --device."""
    group = parser.add_argument_group("model")
    helps = MODEL_HELPS | {"method": f"{MODEL_HELPS['method']}: {method_listing()}"}
    for option in model_options():
        if option.name not in leave_out:
            add_option(group, option, helps[option.name])


def add_generation_options(
    parser: argparse.ArgumentParser,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Every option of `eyas.api.options`, in its groups. `defaults` are shown where a command has its own."""
    for title, kind in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options_of(kind, leave_out):
            default = {"tree": None, **(defaults or {})}.get(option.name, option.default)  # the runtime's own
            add_option(group, Option(option.name, option.hint, default), GENERATION_HELPS[option.name])
    for name, method in methods().items():
        if method.option_names:
            group = parser.add_argument_group(f"method {name}")
            for option in options_of(method.options):
                add_option(group, option, option.help)


def method_listing() -> str:
    """The methods with what they promise, for help texts."""
    known = [f"{name} (lossless: {method.lossless})" for name, method in methods().items()]
    return ", ".join(["auto", *known])


def add_option(group: argparse._ActionsContainer, option: Option, text: str) -> None:
    """Add one generated option with its help text."""
    shown = _show(option.default)
    settings = _settings(option) | {
        "dest": option.name,
        "default": argparse.SUPPRESS,
        "help": (text + (f" (default: {shown})" if shown else "")).replace("%", "%%"),
    }
    group.add_argument(option.flag, **settings)


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options among `names` that were typed, as Python wants them."""
    return {name: _gathered(getattr(args, name)) for name in names if hasattr(args, name)}


def _gathered(value: Any) -> Any:
    """What a repeatable option collected: pairs become a mapping, lists of ids one tuple."""
    if not isinstance(value, list):
        return value
    if isinstance(value[0], tuple):
        return dict(value)
    if isinstance(value[0], list):
        return tuple(token for ids in value for token in ids)
    return tuple(value)


def _settings(option: Option) -> dict[str, Any]:
    """Arguments of `add_argument` for an option's type."""
    hint = _without_none(option.hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"choices": inner}
    if hint is bool:
        if option.default is True:
            return {"action": argparse.BooleanOptionalAction}
        return {"action": "store_true"}
    if origin is tuple and inner[0] is int:
        return {"action": "extend", "nargs": "+", "type": _ids, "metavar": "ID"}
    if origin is tuple and inner[0] is float:
        return {"type": comma_list(float), "metavar": "X,.."}
    if origin is tuple:
        return {"action": "append", "type": inner[0], "metavar": "STRING"}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"action": "append", "type": _pair, "metavar": "ID=X"}
    simple: Callable[[str], Any] = hint if hint in (int, float) else str
    return {"type": simple, "metavar": _METAVARS.get(option.name, _LETTERS[simple])}


_LETTERS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
_METAVARS = {
    "model": "DIR|ID",
    "head": "DIR|ID",
    "method": "NAME",
    "runtime": "NAME",
    "dtype": "NAME",
    "draft_dtype": "NAME",
    "device": "NAME",
    "temperature": "T",
    "top_k": "K",
    "top_p": "P",
    "min_p": "P",
    "repetition_penalty": "R",
    "presence_penalty": "P",
    "frequency_penalty": "P",
    "seed": "S",
    "logprobs": "K",
    "depth": "D",
    "tree_top_k": "K",
}


def _without_none(hint: Any) -> Any:
    """`int | None` as int; `str | Path | None` as str."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    return next(part for part in get_args(hint) if part is not type(None))


def _ids(text: str) -> list[int]:
    """Token ids separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no token id, nor several with commas") from None


def comma_list(kind: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    """An argument type: values separated by commas."""

    def parse(text: str) -> tuple[Value, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers separated by commas") from None

    return parse


def _pair(text: str) -> tuple[int, float]:
    token, equals, bias = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=X, a token id and a number") from None


def _show(default: Any) -> str:
    """A default as it would be typed; empty where the help text tells it."""
    if default is MISSING or default is Parameter.empty or default is None or default is False:
        return ""
    if isinstance(default, tuple | list | dict):
        return ",".join(str(item) for item in default)
    return "on" if default is True else str(default)
