"""Request bodies: OpenAI's and vLLM's names; a field that this server cannot honour is refused by name.

The fields of generation options are derived from their one description (`eyas.config`); what stands here are
the fields that are not options, and the few options whose JSON is OpenAI's own.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import replace
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from eyas.api.options import GROUPS, GenerationOptions, tree_options
from eyas.api.prompts import Chat, Prompt
from eyas.config import NamedOption, options_of
from eyas.engine.processors import processor_options
from eyas.engine.structure import StructureConfig
from eyas.engine.tree_options import TreeOptions
from eyas.models import Infill
from eyas.serve import llama_fields
from eyas.serve.errors import ApiError
from eyas.serve.llama_fields import drop_defaults, only_samplers
from eyas.serve.settings import MAX_DEPTH, MAX_DRAFT_TOKENS, MAX_TREE_TOP_K, ServeSettings
from eyas.serve.structure import Choices, LongText, ResponseFormat, Schema, StructuredOutputs, merged
from eyas.serve.tools.forced import call_schema

DEFAULT_TEMPERATURE = 1.0  # OpenAI's
DEFAULT_COMPLETION = 16  # OpenAI's length of a completion, in tokens
MAX_TEXT = 1000  # characters of names, and of stop strings
MAX_ITEMS = 1024  # of a list or a mapping
TOP_LOGPROBS = 20

# Fields of OpenAI's that mean something we cannot do, each with the values that ask for nothing.
IDLE: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none"),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
    "echo": (None, False),
}
# Of a message, when an earlier answer is sent back as it came.
IDLE_IN_MESSAGE = ("annotations", "audio", "function_call", "reasoning", "refusal")

Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Body(BaseModel):
    """Types are taken literally, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Of a streamed answer."""

    include_usage: bool = False


class EyasOptions(Body):
    """Fields that only eyas has; the options of draft trees are added."""

    method: Text | None = Field(None, description="how tokens are drafted; null is the server's own method")
    trace: bool = Field(False, description="report the draft tree of each cycle")
    parse_special: bool = Field(
        False, description="make control tokens of names such as <|im_end|> in prompts and messages"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given: of draft trees and of the prompt."""
        return self.model_dump(exclude={"method", "trace"}, exclude_none=True)


class AnswerRequest(Body):
    """Fields that chats and completions share; the generation options are added by `with_options`."""

    model: Text | None = None
    n: Annotated[int, BeforeValidator(lambda n: 1 if n is None else n), Field(ge=1)] = Field(
        1, description="answers to each prompt"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    samplers: list[Text] | Text | None = Field(None, description="llama.cpp's: the only samplers that are on")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    eyas: EyasOptions | None = None

    # What asks for nothing; other names of options; values of options that a request does not give.
    idle: ClassVar[dict[str, Container[Any]]] = llama_fields.IDLE | IDLE
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"repetition_penalty": ("repeat_penalty",)}
    defaults: ClassVar[Mapping[str, Any]] = {"temperature": DEFAULT_TEMPERATURE}

    @model_validator(mode="before")
    @classmethod
    def _drop_idle(cls, body: Any) -> Any:
        """Leave out what asks for nothing; refuse by name what asks for something that we do not do."""
        if not isinstance(body, dict):
            return body
        body = drop_defaults(body)
        for name in sorted(cls.idle.keys() & body.keys()):
            if body[name] not in cls.idle[name]:
                raise PydanticCustomError(
                    "unsupported", "{name} is not supported by this server; leave it out.", {"name": name}
                )
        return {name: value for name, value in _once(cls, body).items() if name not in cls.idle}

    @model_validator(mode="after")
    def _check_stream(self) -> "AnswerRequest":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "together", "stream_options needs stream to be true.", {"name": "stream_options"}
            )
        return self

    @model_validator(mode="after")
    def _check_structure(self) -> "AnswerRequest":
        self._structure()
        return self

    def _structure(self) -> dict[str, Any]:
        """The options of the answer's form, whichever way they were given."""
        names = [named.name for named in options_of(StructureConfig)]
        own = {name: value for name in names if (value := getattr(self, name, None)) is not None}
        ways = {"json_schema": own}
        for name in ("response_format", "structured_outputs"):
            given = getattr(self, name)
            ways[name] = {} if given is None else given.options
        return merged(ways)

    @property
    def prompts(self) -> list[Prompt]:
        """Prompts, each of which gets n answers."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """The generation options that were given, as `LLM.generate` takes them."""
        values = {name: getattr(self, name, None) for name in _option_fields()}
        given = {name: value for name, value in values.items() if value is not None}
        own = {} if self.eyas is None else self.eyas.options
        asked = {**self.defaults, "n": self.n, **given, **self._structure(), **own}
        return only_samplers(asked, self.samplers)

    @property
    def method(self) -> str | None:
        """How tokens are drafted; None is the server's own method."""
        return None if self.eyas is None else self.eyas.method

    @property
    def trace(self) -> bool:
        """Whether the answer reports its draft trees."""
        return self.eyas is not None and self.eyas.trace

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def is_one_call(self) -> bool:
        """Whether an answer ends with its first tool call."""
        return False

    @property
    def is_forced(self) -> bool:
        """Whether the answer has to be a tool call."""
        return False

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call, as templates take them."""
        return []

    @property
    def replaces_earlier(self) -> bool:
        """Whether it ends the same client's earlier request of its kind."""
        return False

    def check(self, settings: ServeSettings) -> None:
        """Raise ApiError where more is asked for than this server allows."""
        count = self.n * len(self.prompts)
        if count > settings.max_n:
            raise ApiError(
                f"{count} answers are asked for, but this server makes at most {settings.max_n} a request; "
                "lower n, or send fewer prompts.",
                param="n",
            )
        stops = len(self.options.get("stop", ()))
        if stops > settings.max_stop:
            raise ApiError(
                f"stop has {stops} strings, but at most {settings.max_stop} are taken; send fewer.",
                param="stop",
            )


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Prediction(Body):
    """What the answer is expected to be for the most part."""

    type: Literal["content"]
    content: LongText | list[TextPart]

    @property
    def text(self) -> str:
        """Its parts together."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Function(Body):
    """A function that was called."""

    name: Text
    arguments: str = Field("{}", description="JSON")


class ToolCall(Body):
    """A call in an earlier answer."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: Function
    index: int | None = None  # of a stream

    def to_dict(self) -> dict[str, Any]:
        """As chat templates take it: the arguments are an object."""
        try:
            arguments = json.loads(self.function.arguments)
        except ValueError:
            arguments = self.function.arguments
        call = {"type": self.type, "function": {"name": self.function.name, "arguments": arguments}}
        return call if self.id is None else {"id": self.id, **call}


class Message(Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = None
    name: Text | None = None
    reasoning_content: str | None = Field(None, description="of an earlier answer")
    tool_calls: list[ToolCall] | None = Field(None, description="of an earlier answer")
    tool_call_id: Text | None = Field(None, description="of the call that this message answers")

    @model_validator(mode="before")
    @classmethod
    def _drop_idle(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {
            name: value
            for name, value in body.items()
            if value not in (None, []) or name not in IDLE_IN_MESSAGE
        }

    @model_validator(mode="after")
    def _check_role(self) -> "Message":
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("together", "a message needs content.", {"name": "messages"})
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content is not None):
            raise PydanticCustomError(
                "together",
                "tool_calls and reasoning_content are of the role assistant.",
                {"name": "messages"},
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """As chat templates take it."""
        content = self.content or ""
        parts = [content] if isinstance(content, str) else [part.text for part in content]
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": "".join(parts)}
        for name in ("name", "reasoning_content", "tool_call_id"):
            if getattr(self, name) is not None:
                message[name] = getattr(self, name)
        if self.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        return message


class FunctionTool(Body):
    """A function that the model may call."""

    name: Text
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema")
    strict: bool | None = Field(None, description="true does not constrain the arguments")


class Tool(Body):
    """One of the request's tools."""

    type: Literal["function"]
    function: FunctionTool

    def to_dict(self) -> dict[str, Any]:
        """As chat templates take it."""
        function = self.function.model_dump(exclude={"strict"}, exclude_none=True)
        return {"type": self.type, "function": function | {"parameters": self.function.parameters or {}}}


class NamedFunction(Body):
    """The name of a function."""

    name: Text


class NamedTool(Body):
    """A tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(AnswerRequest):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = Field(None, max_length=MAX_ITEMS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="false ends an answer after its first call")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="variables of the chat template, such as enable_thinking"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)

    @model_validator(mode="after")
    def _check_pairs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError(
                "together", "top_logprobs needs logprobs to be true.", {"name": "top_logprobs"}
            )
        if self.is_forced and not self.forced_tools:
            raise PydanticCustomError(
                "together", "tool_choice forces a call of no function in tools.", {"name": "tool_choice"}
            )
        if self.is_forced and self._structure():
            raise PydanticCustomError(
                "together",
                "tool_choice and another form of the answer exclude each other.",
                {"name": "tool_choice"},
            )
        return self

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call, as templates take them."""
        return [] if self.tool_choice == "none" else [tool.to_dict() for tool in self.tools or ()]

    @property
    def is_one_call(self) -> bool:
        """Whether an answer ends with its first tool call."""
        return self.parallel_tool_calls is False and bool(self.tools)

    @property
    def is_forced(self) -> bool:
        """Whether the answer has to be a tool call."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def forced_tools(self) -> list[dict[str, Any]]:
        """The tools of which one has to be called."""
        name = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        return [tool for tool in self.callable_tools if name in (None, tool["function"]["name"])]

    @property
    def prompts(self) -> list[Prompt]:
        """The one chat."""
        messages = [message.to_dict() for message in self.messages]
        return [Chat(messages, self.callable_tools, self.chat_template_kwargs or {})]

    @property
    def options(self) -> dict[str, Any]:
        """The generation options; a call is forced by the form of the answer."""
        form = {"json_schema": call_schema(self.forced_tools)} if self.is_forced else {}
        return super().options | form | ({"logprobs": self.top_logprobs or 0} if self.logprobs else {})


class CompletionRequest(AnswerRequest):
    """Body of /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    )
    logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)
    suffix: str | None = Field(None, description="fill in what stands between the prompt and this text")
    best_of: int | None = Field(None, ge=1, description="must equal n")

    defaults: ClassVar[Mapping[str, Any]] = {
        "temperature": DEFAULT_TEMPERATURE,
        "max_new_tokens": DEFAULT_COMPLETION,
    }

    @model_validator(mode="after")
    def _check_pairs(self) -> "CompletionRequest":
        if self.best_of not in (None, self.n):
            raise PydanticCustomError(
                "unsupported",
                "best_of above n is not supported by this server; leave it out.",
                {"name": "best_of"},
            )
        if self.suffix and not all(isinstance(prompt, str) for prompt in self._prompts):
            raise PydanticCustomError(
                "together", "suffix needs prompts that are texts, not token ids.", {"name": "suffix"}
            )
        return self

    @property
    def prompts(self) -> list[Prompt]:
        """One entry for each prompt."""
        if not self.suffix:
            return self._prompts
        return [Infill(prompt, self.suffix) for prompt in self._prompts if isinstance(prompt, str)]

    @property
    def _prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [
            item if isinstance(item, str) else list(item) for item in self.prompt if not isinstance(item, int)
        ]

    @property
    def options(self) -> dict[str, Any]:
        """The generation options; the prompt goes in as it is."""
        own = {} if self.logprobs is None else {"logprobs": self.logprobs}
        return {**super().options, **own, "raw": True}


Asked = TypeVar("Asked", bound=AnswerRequest)


def with_options(body: type[Asked]) -> type[Asked]:
    """A body with a field for each generation option."""
    tree = {name: _field(named) for name, named in tree_options().items()}
    eyas = create_model("EyasOptions", __base__=EyasOptions, __doc__=EyasOptions.__doc__, **tree)
    fields: dict[str, Any] = {
        name: _field(named, body.names.get(name, ())) for name, named in _option_fields().items()
    }
    fields["eyas"] = (eyas | None, None)
    return create_model(body.__name__, __base__=body, __doc__=body.__doc__, **fields)


def parse(model: type[Asked], document: Mapping[str, Any]) -> Asked:
    """A body made of another door's.

    Raises:
        RequestValidationError: as FastAPI raises it for a body that came as it is.
    """
    try:
        return model.model_validate({name: value for name, value in document.items() if value is not None})
    except ValidationError as error:
        raise RequestValidationError(error.errors(), body=document) from None


def _option_fields() -> dict[str, NamedOption]:
    """The options that are fields of a body, by name: all of sampling and stopping, and the prediction."""
    kinds = (kind for kind in GROUPS.values() if kind is not TreeOptions)
    own = {named.name: named for named in options_of(GenerationOptions) if named.name == "prediction"}
    return {named.name: named for kind in kinds for named in options_of(kind)} | own | processor_options()


# What this server allows where it is less than the option does, or OpenAI's limit.
LIMITS = {
    "temperature": 100,
    "repetition_penalty": 100,
    "draft_tokens": MAX_DRAFT_TOKENS,
    "depth": MAX_DEPTH,
    "tree_top_k": MAX_TREE_TOP_K,
}


def _token_ids(biases: dict[str, float]) -> dict[int, float]:
    if not all(token.isdecimal() and len(token) < 10 for token in biases):
        raise PydanticCustomError(
            "together", "logit_bias needs token ids as keys, written as numbers.", {"name": "logit_bias"}
        )
    return {int(token): bias for token, bias in biases.items()}


# Options whose JSON is OpenAI's or vLLM's own.
OWN_JSON: dict[str, Any] = {
    "stop": Annotated[
        Text | list[Text], AfterValidator(lambda stop: (stop,) if isinstance(stop, str) else tuple(stop))
    ],
    "logit_bias": Annotated[
        dict[Text, Annotated[float, Field(ge=-100, le=100)]],
        Field(max_length=MAX_ITEMS),
        AfterValidator(_token_ids),
    ],
    "top_k": Annotated[int, Field(ge=-1), AfterValidator(lambda k: max(k, 0))],  # -1 is off too
    "json_schema": Schema,
    "grammar": LongText,
    "regex": LongText,
    "choice": Annotated[Choices, AfterValidator(tuple)],
    "prediction": Annotated[
        Prediction | LongText, AfterValidator(lambda given: getattr(given, "text", given))
    ],
}


def _field(named: NamedOption, other_names: tuple[str, ...] = ()) -> Any:
    """The definition of a body's field for an option: null leaves it to the server."""
    limit = LIMITS.get(named.name, named.option.at_most)
    option = replace(named.option, at_most=limit)
    kind = OWN_JSON.get(named.name) or json_type(named.type, replace(named, option=option))
    names = AliasChoices(*other_names, *named.option.http, named.name)
    return (kind | None, Field(None, validation_alias=names, description=named.option.help))


def json_type(kind: Any, named: NamedOption) -> Any:
    """The type of an option with its limits, as pydantic checks it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        items = list.__class_getitem__(json_type(inner[0], named))
        return Annotated[items, Field(max_length=MAX_ITEMS), AfterValidator(tuple)]
    if origin in (Union, UnionType):
        return Union[tuple(json_type(part, named) for part in inner)]  # noqa: UP007
    if kind in (int, float):
        option = named.option
        return Annotated[kind, Field(ge=option.at_least, gt=option.above, le=option.at_most)]
    return kind if kind is bool or origin is Literal else Text


def _once(model: type[BaseModel], body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with one name for each option; two names have to agree."""
    kept = dict(body)
    for field in model.model_fields.values():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else ()
        given = [str(name) for name in names if name in kept]
        values = [kept[name] for name in given if kept[name] is not None]
        if any(value != values[0] for value in values):
            raise PydanticCustomError(
                "together",
                "{first} and {name} differ; give one of them.",
                {"first": given[0], "name": given[-1]},
            )
        for name in given[1:]:
            kept[given[0]] = values[0] if values else None
            del kept[name]
    return kept


class TokenizeRequest(Body):
    """Body of /tokenize: a text, or a chat."""

    model: Text | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    parse_special: bool = False

    @model_validator(mode="after")
    def _check_one(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("together", "give prompt or messages, one of them.", {"name": "prompt"})
        return self


class DetokenizeRequest(Body):
    """Body of /detokenize."""

    model: Text | None = None
    tokens: list[TokenId]
