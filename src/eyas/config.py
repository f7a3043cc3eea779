"""One description of an option: type, limits and help text stand on the field that holds it.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class StoppingConfig(Options):
        max_new_tokens: Annotated[int, Option("tokens of the answer at most", at_least=1)] = 512

Everything else is derived from such fields: the check when an object is made, the command line
(`eyas.cli.parser`), the contenders of a benchmark (`eyas.bench.contenders`), the HTTP model
(`eyas.serve.schemas`) and Ray's arguments (`eyas.serve.ray`). Each set of options stands in the file of the
idea that it configures.
"""

import math
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from eyas.errors import ConfigError

MAX_SEED = 2**32 - 1  # one word of the Philox key, docs/laws.md L2


@dataclass(frozen=True, slots=True)
class Option:
    """What a field says of itself besides its type and its default.

    Limits of a field of several values (a tuple, a mapping) hold for each value.

    Attributes:
        help: a few plain words: what it does, in which unit. The default is added where the text is shown.
        letter: stands for the value in help texts; None takes one that fits the type.
        off: the value that switches the option off, where there is one.
        common: shown by `--help`; the others by `--help-all`.
        file: the command line takes the name of a file with the value.
        http: its names in the body of an HTTP request, OpenAI's and vLLM's; its own name is always one.
    """

    help: str
    letter: str | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    off: float | None = None
    common: bool = False
    file: bool = False
    http: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedOption:
    """An option with its name (with underscores), its type without None, and its default."""

    name: str
    type: Any
    default: Any  # MISSING where one has to be given
    option: Option
    takes_none: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes; empty where it takes others than some few."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def wanted(self) -> str:
        """What a value must be, in words: "a number from 0 to 1; 0 is off"."""
        off = "" if self.option.off is None else f"; {self.option.off:g} is off"
        return _wanted(self.type, self.option) + off

    def check(self, value: Any) -> None:
        """Raise ConfigError unless `value` has the type and keeps the limits."""
        if value is None and self.takes_none:
            return
        if not _fits(self.type, self.option, value):
            raise ConfigError(f"{self.name} {self._wrong(value)}, but it must be {self.wanted}.")

    def _wrong(self, value: Any) -> str:
        """The value that was given; of several, the first that is wrong."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                if not _fits(self.type, self.option, {key: item}):
                    return f"has {key!r}={item!r}"
        return f"is {value!r}"


class Options:
    """Base of a set of options: a frozen, keyword-only dataclass whose fields are checked when it is made."""

    __slots__ = ()
    title: ClassVar[str] = ""  # of its group in help texts

    def __post_init__(self) -> None:
        for named in options_of(type(self)):
            named.check(getattr(self, named.name))
        self.check()

    def check(self) -> None:
        """Raise ConfigError where fields do not go together."""


def options_of(kind: Any) -> tuple[NamedOption, ...]:
    """The fields of a dataclass, or the parameters of a function, that are annotated with an `Option`.

    A field that a derived class repeats, for another default, keeps the `Option` of its base.
    """
    return _options_of(kind)


@cache
def _options_of(kind: Any) -> tuple[NamedOption, ...]:
    if isinstance(kind, type):
        defaults = {
            item.name: item.default if item.default_factory is MISSING else item.default_factory()
            for item in fields(kind)
        }
        bases: tuple[Any, ...] = kind.__mro__[:-1]
    else:
        empty = Parameter.empty
        parameters = signature(kind).parameters.values()
        defaults = {p.name: MISSING if p.default is empty else p.default for p in parameters}
        bases = (kind,)
    hints = [get_type_hints(base, include_extras=True) for base in bases]
    found = []
    for name, default in defaults.items():
        options = [
            item
            for hint in hints
            if name in hint
            for item in getattr(hint[name], "__metadata__", ())
            if isinstance(item, Option)
        ]
        if options:
            hint = hints[0][name]
            bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            found.append(NamedOption(name, _without_none(bare), default, options[0], _takes_none(bare)))
    return tuple(found)


def is_token_id(value: object) -> bool:
    """Whether a value can be a token id: a whole number, not below 0."""
    return _is_whole(value) and value >= 0


def _takes_none(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _without_none(hint: Any) -> Any:
    """`int | None` as int; other unions stay."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    parts = [part for part in get_args(hint) if part is not type(None)]
    return Union[tuple(parts)]  # noqa: UP007 - there is no other way to make one of a list


def _wanted(kind: Any, option: Option) -> str:
    """A type and its limits in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if origin is tuple:
        noun = {str: "strings", int: "whole numbers"}.get(inner[0], "numbers")
        return f"a list of {noun}{_limits(option)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of token ids to numbers{_limits(option)}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_wanted(part, option) for part in inner))
    words = {bool: "True or False", int: "a whole number", float: "a number", Path: "a path"}
    return words.get(kind, "a string") + _limits(option)


def _limits(option: Option) -> str:
    """Limits in words, with a space before them; empty where there is none."""
    most = "" if option.at_most is None else f"{option.at_most:.10g}"
    if option.above is not None:
        return f" above {option.above:.10g}" + (most and f" and at most {most}")
    if option.at_least is not None:
        least = f"{option.at_least:.10g}"
        return f" from {least} to {most}" if most else f" of at least {least}"
    return most and f" of at most {most}"


def _fits(kind: Any, option: Option, value: Any) -> bool:
    """Whether a value has a type and keeps the limits of its option."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        is_several = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        return is_several and all(_fits(inner[0], option, item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            is_token_id(key) and _fits(inner[1], option, item) for key, item in value.items()
        )
    if origin in (Union, types.UnionType):
        return any(_fits(part, option, value) for part in inner)
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return _is_whole(value) and _is_within(option, value)
    if kind is float:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and _is_within(option, value)
    return isinstance(value, kind)


def _is_within(option: Option, value: Any) -> bool:
    """Whether a number keeps the limits."""
    return (
        (option.at_least is None or value >= option.at_least)
        and (option.above is None or value > option.above)
        and (option.at_most is None or value <= option.at_most)
    )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)
