"""Request bodies, as OpenAI has them and a few fields more; what cannot be honoured is refused by name."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from eyas.serve.settings import MAX_DEPTH, MAX_DRAFT_TOKENS

MAX_TEXT = 1000  # characters of names, and of stop strings
MAX_BIASES = 1024
TOP_LOGPROBS = 20

# Fields of OpenAI's that mean something we cannot do, each with the values that ask for nothing.
IDLE: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none"),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
    "echo": (None, False),
}
# Of a message, when an earlier answer is sent back as it came.
IDLE_IN_MESSAGE = ("annotations", "audio", "function_call", "name", "reasoning", "refusal", "tool_calls")

Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Body(BaseModel):
    """Types are taken literally, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Of a streamed answer."""

    include_usage: bool = False


class EyasOptions(Body):
    """What only eyas has."""

    method: Text | None = Field(None, description="how tokens are drafted; null is the server's own")
    draft_tokens: int | None = Field(
        None, ge=1, le=MAX_DRAFT_TOKENS, description="nodes of each draft tree; null sizes them by cost"
    )
    depth: int | None = Field(None, ge=1, le=MAX_DEPTH, description="levels of each draft tree")
    trace: bool = Field(False, description="report the tree of each cycle")


class Sampled(Body):
    """Fields that chats and completions share."""

    model: Text | None = None
    temperature: float | None = Field(None, ge=0, le=100, description="null is 1, as OpenAI has it")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1 are off")
    min_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    ignore_eos: bool | None = Field(None, description="go on past the model's own end, as vLLM has it")
    stop: Text | list[Text] | None = None
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    n: int | None = Field(None, ge=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    logit_bias: dict[Text, Bias] | None = Field(None, max_length=MAX_BIASES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    eyas: EyasOptions | None = None

    idle: ClassVar[dict[str, tuple[Any, ...]]] = IDLE

    @model_validator(mode="before")
    @classmethod
    def _drop_idle(cls, body: Any) -> Any:
        """Leave out what asks for nothing; refuse by name what asks for something that we do not do."""
        if not isinstance(body, dict):
            return body
        for name in sorted(cls.idle.keys() & body.keys()):
            if body[name] not in cls.idle[name]:
                raise PydanticCustomError(
                    "unsupported", "{name} is not supported by this server; leave it out.", {"name": name}
                )
        return {name: value for name, value in body.items() if name not in cls.idle}

    @model_validator(mode="after")
    def _check_stream(self) -> "Sampled":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "together", "stream_options wants stream to be true.", {"name": "stream_options"}
            )
        return self


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

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

    def to_dict(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(parts)}


class ChatRequest(Sampled):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)

    @model_validator(mode="after")
    def _check_pairs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError(
                "together", "top_logprobs wants logprobs to be true.", {"name": "top_logprobs"}
            )
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise PydanticCustomError(
                "together",
                "max_tokens and max_completion_tokens differ; give one of them.",
                {"name": "max_completion_tokens"},
            )
        return self


class CompletionRequest(Sampled):
    """Body of /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    )
    logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)
    best_of: int | None = Field(None, ge=1, description="must equal n")

    @model_validator(mode="after")
    def _check_best_of(self) -> "CompletionRequest":
        if self.best_of not in (None, self.n or 1):
            raise PydanticCustomError(
                "unsupported",
                "best_of above n is not supported by this server; leave it out.",
                {"name": "best_of"},
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry for each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [
            item if isinstance(item, str) else list(item) for item in self.prompt if not isinstance(item, int)
        ]


class TokenizeRequest(Body):
    """Body of /tokenize: a text, or a chat."""

    model: Text | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _check_one(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("together", "give prompt or messages, one of them.", {"name": "prompt"})
        return self


class DetokenizeRequest(Body):
    """Body of /detokenize."""

    model: Text | None = None
    tokens: list[TokenId]
