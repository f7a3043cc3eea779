"""Command-line options derived from `eyas.config`: names with dashes; types, defaults and help from there.

An option that was not given leaves no trace in the namespace, so defaults stay where they are written.
"""

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar, get_args, get_origin

from eyas.api.options import GROUPS, GenerationOptions
from eyas.config import NamedOption, Options, options_of
from eyas.drafters.registry import methods
from eyas.engine.processors import processor_options
from eyas.errors import ConfigError


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


def flag(name: str) -> str:
    """`tree_top_k` as `--tree-top-k`."""
    return "--" + name.replace("_", "-")


def model_options() -> tuple[NamedOption, ...]:
    """The options of `eyas.load`."""
    from eyas.api.llm import load

    return options_of(load)


def add_prompt_options(parser: argparse.ArgumentParser, instead_of: str) -> None:
    """PROMPT, and --json `instead_of` what is printed otherwise."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt; - reads standard input")
    parser.add_argument("--json", action="store_true", help=f"print one document instead of {instead_of}")


def add_model_options(
    parser: argparse.ArgumentParser, leave_out: Collection[str] = (), only: Collection[str] | None = None
) -> None:
    """--model, --head, --method, --runtime and the other options of `eyas.load`, or `only` some of them."""
    group = parser.add_argument_group("model")
    for named in model_options():
        if named.name not in leave_out and (only is None or named.name in only):
            if named.name == "method":
                text = f"{named.option.help}: {method_listing()}"
                named = replace(named, option=replace(named.option, help=text))
            add_option(group, named)


def add_options(
    parser: argparse.ArgumentParser,
    kind: type[Options],
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """A group with the options of one set. `defaults` are shown where a command has its own."""
    group = parser.add_argument_group(kind.title)
    for named in options_of(kind):
        if named.name not in leave_out:
            add_option(group, replace(named, default=(defaults or {}).get(named.name, named.default)))


def add_generation_options(
    parser: argparse.ArgumentParser,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Every option of `eyas.api.options`, in its groups. `defaults` are shown where a command has its own."""
    add_shared_options(parser, leave_out, {"tree": None, **(defaults or {})})  # tree: the runtime's own
    for name, method in methods().items():
        if method.option_names:
            group = parser.add_argument_group(f"method {name}")
            for named in options_of(method.options):
                add_option(group, named)


def add_shared_options(
    parser: argparse.ArgumentParser, leave_out: Collection[str], defaults: Mapping[str, Any]
) -> None:
    """The generation options that belong to every method."""
    for kind in (*GROUPS.values(), GenerationOptions):
        add_options(parser, kind, leave_out, defaults)
    extra = processor_options()
    if extra:
        group = parser.add_argument_group(
            "sampling by plugins (in Python: the native runtime is slower with them)"
        )
        for named in extra.values():
            add_option(group, named)


def method_listing() -> str:
    """The methods with what they promise, for help texts."""
    known = [f"{name} (lossless: {method.lossless})" for name, method in methods().items()]
    return ", ".join(["auto", *known])


def add_option(group: argparse._ActionsContainer, named: NamedOption) -> None:
    """Add one derived option with its help text."""
    settings = _settings(named) | {
        "dest": named.name,
        "default": argparse.SUPPRESS,
        "help": help_text(named).replace("%", "%%"),
    }
    group.add_argument(flag(named.name), **settings)


def help_text(named: NamedOption) -> str:
    """The help text of an option, with its default and the value that switches it off."""
    shown, off = _show(named.default), named.option.off
    if off is None:
        remark = shown and f"default: {shown}"
    elif named.default == off:
        remark = f"default: {shown}, off"
    else:
        remark = f"default: {shown}; {off:g} is off"
    return named.option.help + (remark and f" ({remark})")


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


def _settings(named: NamedOption) -> dict[str, Any]:
    """Arguments of `add_argument` for an option's type."""
    kind, letter = named.type, named.option.letter
    origin, inner = get_origin(kind), get_args(kind)
    if named.choices:
        return {"choices": named.choices}
    if kind is bool:
        if named.default is True:
            return {"action": argparse.BooleanOptionalAction}
        return {"action": "store_true"}
    if origin is tuple and inner[0] is int:
        return {"action": "extend", "nargs": "+", "type": _ids, "metavar": letter or "ID"}
    if origin is tuple and inner[0] is float:
        return {"type": comma_list(float), "metavar": letter or "X,.."}
    if origin is tuple:
        return {"action": "append", "type": inner[0], "metavar": letter or "TEXT"}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"action": "append", "type": _pair, "metavar": letter or "ID=X"}
    simple = kind if kind in (int, float, Path) else str
    return {"type": simple, "metavar": letter or _LETTERS[simple]}


_LETTERS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


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
    if default is MISSING or default is None or default is False:
        return ""
    if isinstance(default, tuple | list | dict):
        return ",".join(_show(item) for item in default)
    if default is True:
        return "on"
    return f"{default:g}" if isinstance(default, float) else str(default)
