"""What an answer has to look like: a JSON Schema, a grammar, a regular expression or one of some texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyas.config import Option, Options
from eyas.errors import ConfigError

# Reading a grammar takes time that grows with its square; of this length, half a second.
MOST_CHARACTERS = 2**17
KINDS = ("json_schema", "grammar", "regex", "choice")
JSON_OBJECT = '{"type": "object"}'  # the schema of `{"type": "json_object"}`


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureConfig(Options):
    """The form of an answer; at most one of the kinds is given (docs/structured.md)."""

    title: ClassVar[str] = "structured output"

    json_schema: Annotated[
        str | None,
        Option(
            "make the answer JSON that this JSON Schema allows",
            common=True,
            file=True,
            http=("guided_json",),
        ),
    ] = None
    grammar: Annotated[
        str | None,
        Option(
            "make the answer a text of this grammar, in GBNF (llama.cpp's format) or Lark",
            file=True,
            http=("guided_grammar",),
        ),
    ] = None
    regex: Annotated[
        str | None,
        Option(
            "make the answer a text that this regular expression matches as a whole",
            "REGEX",
            http=("guided_regex",),
        ),
    ] = None
    choice: Annotated[
        tuple[str, ...],
        Option(
            "make the answer this text, or another that is given in the same way; may be repeated",
            "TEXT",
            http=("guided_choice",),
        ),
    ] = ()
    whitespace_pattern: Annotated[
        str | None,
        Option(
            "white space that JSON may have between its parts, as a regular expression; empty for none. "
            "Without it one space, or a line break with up to 40 spaces or tabs",
            "REGEX",
            http=("guided_whitespace_pattern",),
        ),
    ] = None

    def __post_init__(self) -> None:
        schema: object = self.json_schema
        if isinstance(schema, Mapping | bool):  # as a program has it
            try:
                object.__setattr__(self, "json_schema", json.dumps(schema))
            except (TypeError, ValueError, RecursionError) as error:
                raise ConfigError(f"json_schema cannot be written as JSON: {error}.") from None
        choice: object = self.choice
        if isinstance(choice, str | list):
            object.__setattr__(self, "choice", (choice,) if isinstance(choice, str) else tuple(choice))
        Options.__post_init__(self)

    def check(self) -> None:
        """Raise ConfigError for two kinds at once, or a text that is too long."""
        given = [kind for kind in KINDS if getattr(self, kind) not in (None, ())]
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} exclude each other; give one of them.")
        if self.whitespace_pattern is not None and self.json_schema is None:
            raise ConfigError("whitespace_pattern needs json_schema; leave it out, or give one.")
        for kind in given:
            value = getattr(self, kind)
            length = len(value) if isinstance(value, str) else sum(map(len, value))
            if length > MOST_CHARACTERS:
                raise ConfigError(
                    f"{kind} has {length} characters, but at most {MOST_CHARACTERS} are taken; shorten it."
                )

    @property
    def kind(self) -> str | None:
        """The kind that is given; None where the answer is free."""
        return next((kind for kind in KINDS if getattr(self, kind) not in (None, ())), None)
