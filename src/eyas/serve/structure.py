"""The form of an answer in a request's body, as OpenAI, vLLM and llama.cpp ask for it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from eyas.engine.structure import JSON_OBJECT, MOST_CHARACTERS

MOST_CHOICES = 1024
LongText = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Schema = dict[str, Any] | bool | LongText  # a JSON Schema, as an object or written as a text
Choices = Annotated[list[LongText], Field(min_length=1, max_length=MOST_CHOICES)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NamedSchema(_Part):
    """OpenAI's `json_schema`. A schema is always kept to, whatever `strict` is."""

    name: LongText | None = None
    description: LongText | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    """OpenAI's `response_format`; `schema` beside `json_object` is llama.cpp's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Schema | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _check_parts(self) -> "ResponseFormat":
        allowed = {"json_schema": "json_schema", "json_object": "schema_"}.get(self.type)
        for name, value in (("json_schema", self.json_schema), ("schema_", self.schema_)):
            if name != allowed and value is not None:
                raise _wrong(
                    "response_format", f"{name.strip('_')} does not belong to the type {self.type!r}"
                )
        if self.type == "json_schema" and self.json_schema is None:
            raise _wrong("response_format", "the type 'json_schema' needs json_schema")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of `eyas.engine.structure`."""
        if self.json_schema is not None:
            return {"json_schema": self.json_schema.schema_}
        if self.type == "json_object":
            return {"json_schema": JSON_OBJECT if self.schema_ is None else self.schema_}
        return {}


class StructuredOutputs(_Part):
    """vLLM's `structured_outputs`."""

    json_: Schema | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: LongText | None = None
    choice: Choices | None = None
    grammar: LongText | None = None
    whitespace_pattern: LongText | None = None
    disable_any_whitespace: bool | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> "StructuredOutputs":
        if self.json_object and self.json_ is not None:
            raise _wrong("structured_outputs", "json and json_object exclude each other")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of `eyas.engine.structure`."""
        spaces = "" if self.disable_any_whitespace else self.whitespace_pattern
        values = {
            "json_schema": JSON_OBJECT if self.json_object else self.json_,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
            "whitespace_pattern": spaces,
        }
        return {name: value for name, value in values.items() if value is not None}


def merged(ways: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options that were given in several ways, which are named by their field.

    Raises:
        PydanticCustomError: two of them give the same option.
    """
    options: dict[str, Any] = {}
    for name, given in ways.items():
        if options.keys() & given.keys():
            raise _wrong(name, "the form of the answer is given twice")
        options |= given
    return options


def _wrong(name: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError(
        "together", "{name}: {reason}; leave it out.", {"name": name, "reason": reason}
    )
