"""Command-line options derived from `eyas.config`: names with dashes; types, defaults and help from there.

An option that was not given leaves no trace in the namespace, so defaults stay where they are written.
"""

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar, get_args, get_origin

from eyas.api.options import GROUPS, GenerationOptions
from eyas.cli.output import write
from eyas.config import NamedOption, Options, options_of
from eyas.drafters.registry import methods, option_sets
from eyas.engine.interfaces import DraftOptions
from eyas.engine.processors import processor_options
from eyas.errors import ConfigError, DataError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours: one line, no usage block, no exit inside.

    `--help` shows the common options, `--help-all` every one.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Scripts rely on these names: an abbreviation that is unique today may not be tomorrow.
        super().__init__(*args, **{"allow_abbrev": False, "add_help": False, **settings})
        self._rare: list[argparse.Action] = []
        self.add_argument("-h", "--help", action=_Help, help="show this help and exit")
        self._help_all = self.add_argument(
            "--help-all", action=_Help, everything=True, help="show every option and exit"
        )

    def set_rare(self, action: argparse.Action) -> None:
        """Show an argument in `--help-all` only."""
        self._rare.append(action)

    def format_help(self, *, everything: bool = False) -> str:
        """The help text, without the rare options unless everything is asked for."""
        if not self._rare:
            return self._help_without([self._help_all])
        self.usage = self._usage()
        if everything:
            return self._help_without([])
        more = f"{len(self._rare)} more option{'s' if self._rare[1:] else ''}: {self.prog} --help-all"
        return f"{self._help_without(self._rare)}\n{more}\n"

    def _help_without(self, hidden: Sequence[argparse.Action]) -> str:
        texts = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in zip(hidden, texts, strict=True):
                action.help = text

    def _usage(self) -> str:
        """What has to be given, and that there are options."""
        words = ["%(prog)s"]
        for action in self._actions:
            if action.option_strings and action.required:
                words.append(f"{action.option_strings[0]} {action.metavar}")
        words.append("[options]")
        for action in self._actions:
            if not action.option_strings:
                words.append(f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar))
        return " ".join(words)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse has it, but what is unknown is an error, which names the option that comes closest."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown[0])}")
        return found, unknown

    def _hint(self, word: str) -> str:
        word = word.partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        longer = [name for name in known if word.startswith("--") and name.startswith(word)]
        close = longer or get_close_matches(word, known)
        return f"; did you mean {close[0]}?" if close else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        if choices and value not in choices:
            close = get_close_matches(value, choices, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {hint}")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing."""
        raise ConfigError(f"{message} (see `{self.prog} --help`).")


class _Help(argparse.Action):
    """Prints the help text and leaves."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, everything: bool = False, help: str
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._everything = everything

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser), "a parser of ours"
        write(parser.format_help(everything=self._everything))
        parser.exit()


Value = TypeVar("Value")
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def flag(name: str) -> str:
    """`tree_top_k` as `--tree-top-k`."""
    return "--" + name.replace("_", "-")


def model_options() -> tuple[NamedOption, ...]:
    """The options of `eyas.load`."""
    from eyas.api.llm import load

    return options_of(load)


def add_prompt_options(parser: Parser, instead_of: str) -> None:
    """PROMPT, and --json `instead_of` what is printed otherwise."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt; - reads standard input")
    parser.add_argument("--json", action="store_true", help=f"print one document instead of {instead_of}")


def add_model_options(
    parser: Parser, leave_out: Collection[str] = (), only: Collection[str] | None = None
) -> None:
    """--model, --head, --method, --runtime and the other options of `eyas.load`, or `only` some of them."""
    group = parser.add_argument_group("model")
    for named in model_options():
        if named.name not in leave_out and (only is None or named.name in only):
            if named.name == "method":
                text = f"{named.option.help}. Methods, which `eyas --help` describes: {method_listing()}"
                named = replace(named, option=replace(named.option, help=text))
            add_option(parser, group, named)


def add_options(
    parser: Parser,
    kind: type[Options],
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """A group with the options of one set. `defaults` are shown where a command has its own."""
    group = parser.add_argument_group(kind.title)
    is_sorted = any(named.option.common for named in options_of(kind))  # else all are shown
    for named in options_of(kind):
        if named.name not in leave_out:
            named = replace(named, default=(defaults or {}).get(named.name, named.default))
            add_option(parser, group, named, is_rare=is_sorted and not named.option.common)


def add_generation_options(
    parser: Parser,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Every option of `eyas.api.options`, in its groups. `defaults` are shown where a command has its own."""
    add_shared_options(parser, leave_out, {"tree": None, **(defaults or {})})  # tree: the runtime's own
    for kind in option_sets():
        if not kind.sizes:
            _add_method_options(parser, kind, leave_out)


def add_shared_options(parser: Parser, leave_out: Collection[str], defaults: Mapping[str, Any]) -> None:
    """The generation options that belong to every method, and those that size a method's own tree."""
    for kind in (*GROUPS.values(), GenerationOptions):
        add_options(parser, kind, leave_out, defaults)
    for kind in option_sets():
        if kind.sizes:
            _add_method_options(parser, kind, leave_out)
    extra = processor_options()
    if extra:
        group = parser.add_argument_group(
            "sampling by plugins (in Python: the native runtime is slower with them)"
        )
        for named in extra.values():
            add_option(parser, group, named, is_rare=False)


def _add_method_options(parser: Parser, kind: type[DraftOptions], leave_out: Collection[str]) -> None:
    names = option_sets()[kind]
    group = parser.add_argument_group(f"method{'s' * (len(names) > 1)} {', '.join(names)}")
    for named in options_of(kind):
        if named.name not in leave_out:
            add_option(parser, group, named)


def method_listing() -> str:
    """The methods, for help texts."""
    return ", ".join(["auto", *methods()])


def add_option(
    parser: Parser, group: argparse._ActionsContainer, named: NamedOption, *, is_rare: bool | None = None
) -> None:
    """Add one derived option with its help text to a group; those that are not common are rare."""
    settings = _settings(named) | {
        "dest": named.name,
        "default": argparse.SUPPRESS,
        "help": help_text(named).replace("%", "%%"),
    }
    action = group.add_argument(flag(named.name), **settings)
    if is_rare if is_rare is not None else not named.option.common:
        parser.set_rare(action)


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


class NamedFile(str):
    """The name of a file that holds an option's value."""

    __slots__ = ()

    def read(self) -> str:
        """The text in the file.

        Raises:
            DataError: there is no such file, or it is not UTF-8.
        """
        try:
            return Path(self).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self} cannot be read ({error.strerror}); name a file.") from None
        except UnicodeDecodeError:
            raise DataError(f"{self} is not UTF-8; convert it, for example with iconv.") from None


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options among `names` that were typed, as Python values."""
    return {name: _gathered(getattr(args, name)) for name in names if hasattr(args, name)}


def _gathered(value: Any) -> Any:
    """What an option means: a file its text, pairs of a repeatable one a mapping, lists of ids one tuple."""
    if isinstance(value, NamedFile):
        return value.read()
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
    if named.option.file:
        return {"type": NamedFile, "metavar": letter or "FILE"}
    simple = kind if kind in (int, float, Path) else str
    return {"type": simple, "metavar": letter or _LETTERS[simple]}


_LETTERS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def _ids(text: str) -> list[int]:
    """Token ids separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a token id, nor several separated by commas"
        ) from None


def comma_list(kind: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    """An argument type: values separated by commas."""

    def parse(text: str) -> tuple[Value, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of numbers separated by commas"
            ) from None

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
