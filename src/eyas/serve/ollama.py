"""Ollama's interface: chats and texts as lines of JSON, and what its clients ask of a model.

A body becomes the OpenAI body that asks for the same, so that limits and refusals stand in one place.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field

import eyas
from eyas.engine.cycle import Piece
from eyas.models import is_gguf
from eyas.models.infill import can_infill
from eyas.serve.channel import LINES, line
from eyas.serve.errors import ApiError, of_ollama
from eyas.serve.llama_fields import ANYTHING
from eyas.serve.openai_replies import finite
from eyas.serve.said import SaidReply
from eyas.serve.schemas import (
    MAX_ITEMS,
    TOP_LOGPROBS,
    AnswerRequest,
    Body,
    ChatRequest,
    CompletionRequest,
    Text,
    Tool,
    parse,
    with_options,
)
from eyas.serve.service import ANSWERS, Service
from eyas.serve.tools.calls import CallPart

FOLLOWED = "0.12.0"  # the version of Ollama whose interface this is
LATEST = ":latest"  # a tag that Ollama's clients add to names

# Options of Ollama that ask for nothing, besides llama.cpp's, with the values for which that is so.
IDLE_OPTIONS: dict[str, Container[Any]] = {
    # How a model is loaded: that has happened. The context is the model's own.
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep"), ANYTHING),
    **dict.fromkeys(("numa", "low_vram", "f16_kv", "use_mmap", "use_mlock", "vocab_only"), ANYTHING),
    **dict.fromkeys(("typical_p", "tfs_z"), (None, 1)),
    "mirostat": (None, 0),
    **dict.fromkeys(("mirostat_tau", "mirostat_eta"), ANYTHING),
    "penalize_newline": (None, True),
    "repeat_last_n": (None, -1),  # any, where no penalty is on
}
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
OPTIONS_TOO = {"eyas", "samplers"}  # of the fields that are no options
NAMES = {"max_new_tokens": ("num_predict",), "repetition_penalty": ("repeat_penalty",)}
DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}


class ChatOptions(ChatRequest):
    """A chat with Ollama's names and defaults of options."""

    idle: ClassVar[dict[str, Container[Any]]] = AnswerRequest.idle | IDLE_OPTIONS
    names: ClassVar[Mapping[str, tuple[str, ...]]] = NAMES
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS


class TextOptions(CompletionRequest):
    """A text without a template, with Ollama's names and defaults of options."""

    idle: ClassVar[dict[str, Container[Any]]] = AnswerRequest.idle | IDLE_OPTIONS
    names: ClassVar[Mapping[str, tuple[str, ...]]] = NAMES
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS


class CalledFunction(Body):
    """A function that was called."""

    name: Text
    arguments: dict[str, Any] = Field({})
    index: int | None = None
    description: str | None = None


class Call(Body):
    """A call in an earlier answer."""

    function: CalledFunction
    id: Text | None = None
    type: Literal["function"] = "function"


class OllamaMessage(Body):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: list[Call] | None = None
    tool_name: Text | None = None
    tool_call_id: Text | None = None

    def to_openai(self) -> dict[str, Any]:
        """The message as OpenAI's clients write it."""
        calls = [
            {
                "id": call.id,
                "type": call.type,
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for call in self.tool_calls or ()
        ]
        message = {
            "role": self.role,
            "content": self.content or "",
            "name": self.tool_name,
            "reasoning_content": self.thinking or None,
            "tool_call_id": self.tool_call_id,
            "tool_calls": calls or None,
        }
        return {name: value for name, value in message.items() if value is not None}


class OllamaRequest(Body):
    """Fields that chats and texts share."""

    model: Text
    stream: bool = True
    options: dict[str, Any] | None = Field(None, max_length=MAX_ITEMS)
    format: Literal["", "json"] | dict[str, Any] | None = Field(None, description="json, or a JSON schema")
    keep_alive: Any = Field(None, description="the model stays loaded, whatever this says")
    think: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)
    images: Annotated[list[Any], Field(max_length=0)] | None = None

    def shared(self) -> dict[str, Any]:
        """These fields and the options under OpenAI's names."""
        options = dict(self.options or {})
        for name in options.keys() & ChatRequest.model_fields.keys() - OPTIONS_TOO:
            raise ApiError(f"{name} is not an option; leave it out.", param=f"options.{name}", code="unknown")
        if options.get("num_predict") in (-1, -2):  # as much as there is room for
            del options["num_predict"]
        return options | {"model": self.model.removesuffix(LATEST), "stream": self.stream}

    def chat(self, messages: list[dict[str, Any]], tools: list[Tool] | None = None) -> dict[str, Any]:
        """The OpenAI body of a chat."""
        body = self.shared() | {"messages": messages, "logprobs": self.logprobs}
        if self.top_logprobs and self.logprobs:
            body["top_logprobs"] = self.top_logprobs
        if tools:
            body["tools"] = [tool.model_dump(exclude_none=True) for tool in tools]
        if self.think is not None:
            body["chat_template_kwargs"] = {"enable_thinking": self.think}
        if self.format == "json":
            body["response_format"] = {"type": "json_object"}
        elif self.format:
            schema = {"name": "format", "schema": self.format}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


class OllamaChatRequest(OllamaRequest):
    """Body of /api/chat."""

    messages: list[OllamaMessage] = Field([], max_length=MAX_ITEMS)
    tools: list[Tool] | None = Field(None, max_length=MAX_ITEMS)


class OllamaGenerateRequest(OllamaRequest):
    """Body of /api/generate."""

    prompt: str = ""
    suffix: str | None = Field(None, description="fill in what stands between the prompt and this text")
    system: str | None = None
    raw: bool | None = Field(None, description="take the prompt as it is, without the chat template")
    template: Literal[""] | None = None
    context: Annotated[list[int], Field(max_length=0)] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the prompt goes to the model without a chat template."""
        return bool(self.raw or self.suffix)

    def text(self) -> dict[str, Any]:
        """The OpenAI body of a completion."""
        for name in ("system", "format", "think"):
            if getattr(self, name):
                raise ApiError(
                    f"{name} needs the chat template; leave it out, or raw and suffix.", param=name
                )
        body = self.shared() | {"prompt": self.prompt, "suffix": self.suffix}
        return body | ({"logprobs": self.top_logprobs or 0} if self.logprobs else {})


class ShowRequest(Body):
    """Body of /api/show."""

    model: Text | None = None
    name: Text | None = None
    verbose: bool | None = None


class OllamaReply(SaidReply):
    """An answer as Ollama's lines of JSON, of which the last has the numbers; or as one document."""

    media_type = LINES
    _num_sent = 0  # calls that lines have had

    def parts(self, index: int, piece: Piece) -> list[str]:
        """A line with what is new; a call is sent when it is whole."""
        said = self.said[index]
        is_ready = piece.finish_reason is not None or not said.parser.is_calling
        calls = said.calls[self._num_sent :] if is_ready else []
        self._num_sent += len(calls)
        document = self._frame() | self.fields(said.latest.content, said.latest.reasoning, calls)
        document["done"] = False
        if self.logprobs:
            document["logprobs"] = self._logprobs(len(self.choices[0].tokens) - len(piece.tokens))
        return [line(document)]

    def closing(self) -> list[str]:
        """The last line."""
        return [line(self._frame() | self.fields("", "", []) | self._numbers())]

    def failure(self, error: dict[str, Any]) -> list[str]:
        """The error in a line of its own."""
        return [line(of_ollama(error))]

    def body(self) -> dict[str, Any]:
        """The whole response."""
        said = self.said[0]
        document = self._frame() | self.fields(said.content, said.reasoning, said.calls) | self._numbers()
        return document | ({"logprobs": self._logprobs(0)} if self.logprobs else {})

    @abstractmethod
    def fields(self, content: str, reasoning: str, calls: Sequence[CallPart]) -> dict[str, Any]:
        """What an answer says, as the fields of a line."""

    def _frame(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": _timestamp(datetime.now(UTC))}

    def _numbers(self) -> dict[str, Any]:
        """How the answer ended, and counts and times, which are in nanoseconds."""
        choice, came = self.choices[0], self.choices[0].came or [0.0]
        return {
            "done": True,
            "done_reason": "length" if choice.finish_reason == "length" else "stop",
            "total_duration": int(came[-1] * 1e9),
            "load_duration": 0,
            "prompt_eval_count": self.prompt_tokens[0],
            "prompt_eval_duration": int(came[0] * 1e9),
            "eval_count": len(choice.tokens),
            "eval_duration": int((came[-1] - came[0]) * 1e9),
        }

    def _logprobs(self, start: int) -> list[dict[str, Any]]:
        """Log-probabilities of the tokens from `start` on."""

        def entry(token_id: int, log_prob: float | None) -> dict[str, Any]:
            return {"token": self.texts.of(token_id), "logprob": finite(log_prob)}

        return [
            entry(token.id, token.log_prob) | {"top_logprobs": [entry(*other) for other in token.top]}
            for token in self.choices[0].tokens[start:]
        ]


class OllamaChatReply(OllamaReply):
    """Response of /api/chat."""

    def fields(self, content: str, reasoning: str, calls: Sequence[CallPart]) -> dict[str, Any]:
        """The message."""
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning:
            message["thinking"] = reasoning
        if calls:
            message["tool_calls"] = [
                {"id": call.call_id, "function": {"name": call.name, "arguments": _object(call.arguments)}}
                for call in calls
            ]
        return {"message": message}


class OllamaGenerateReply(OllamaReply):
    """Response of /api/generate."""

    def fields(self, content: str, reasoning: str, calls: Sequence[CallPart]) -> dict[str, Any]:  # noqa: ARG002
        """The text."""
        return {"response": content} | ({"thinking": reasoning} if reasoning else {})


def _object(arguments: str) -> dict[str, Any]:
    """The arguments of a call; what is no JSON object becomes the field "arguments" of one."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}


def _timestamp(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def add_ollama(app: FastAPI, service: Service) -> None:
    """Serve the routes."""
    chat_options, text_options = with_options(ChatOptions), with_options(TextOptions)

    @app.post("/api/chat", responses=ANSWERS)
    async def ollama_chat(body: OllamaChatRequest, request: Request) -> Response:
        """Answer a chat, by default in lines of JSON."""
        if not body.messages:
            return _loaded(service, {"message": {"role": "assistant", "content": ""}})
        asked = parse(chat_options, body.chat([message.to_openai() for message in body.messages], body.tools))
        return await service.answer(request, asked, OllamaChatReply)

    @app.post("/api/generate", responses=ANSWERS)
    async def ollama_generate(body: OllamaGenerateRequest, request: Request) -> Response:
        """Answer a prompt or continue a text, by default in lines of JSON."""
        asked: AnswerRequest
        if body.is_text:
            asked = parse(text_options, body.text())
        elif not body.prompt:
            return _loaded(service, {"response": ""})
        else:
            system = [{"role": "system", "content": body.system}] if body.system else []
            asked = parse(chat_options, body.chat([*system, {"role": "user", "content": body.prompt}]))
        return await service.answer(request, asked, OllamaGenerateReply)

    @app.get("/api/tags")
    async def ollama_tags() -> dict[str, Any]:
        """The one model."""
        return {"models": [_describe(service)]}

    @app.get("/api/ps")
    async def ollama_ps() -> dict[str, Any]:
        """The one model, which is always loaded."""
        model = _describe(service)
        limit = service.llm.runtime.target.context_limit
        return {
            "models": [model | {"expires_at": _timestamp(FOREVER), "size_vram": 0, "context_length": limit}]
        }

    @app.post("/api/show", responses=ANSWERS)
    async def ollama_show(body: ShowRequest) -> dict[str, Any]:
        """What the model is, and what it can do."""
        service.check_model((body.model or body.name or "").removesuffix(LATEST) or None)
        return _show(service)

    @app.get("/api/version")
    async def ollama_version() -> dict[str, Any]:
        """The version of Ollama whose interface this is, and eyas's own."""
        return {"version": f"{FOLLOWED}+eyas.{eyas.__version__}"}


def _loaded(service: Service, fields: dict[str, Any]) -> Response:
    """The answer to a request without a prompt, by which clients load a model."""
    document = {"model": service.model_name, "created_at": _timestamp(datetime.now(UTC)), **fields}
    return Response(line(document | {"done": True, "done_reason": "load"}), media_type="application/json")


def _describe(service: Service) -> dict[str, Any]:
    """The model as a list of Ollama's has it."""
    target, facts = service.llm.runtime.target, service.facts
    digest = hashlib.sha256((target.fingerprint or service.model_name).encode()).hexdigest()
    return {
        "name": service.model_name,
        "model": service.model_name,
        "modified_at": _timestamp(datetime.fromtimestamp(service.started, UTC)),
        "size": round(facts.parameters * facts.bits / 8),
        "digest": digest,
        "details": {
            "parent_model": "",
            "format": "gguf" if is_gguf(service.llm.path) else "safetensors",
            "family": target.family,
            "families": [target.family],
            "parameter_size": _in_billions(facts.parameters),
            "quantization_level": target.dtype.upper(),
        },
    }


def _show(service: Service) -> dict[str, Any]:
    target, tokenizer, form = service.llm.runtime.target, service.llm.tokenizer, service.chat_format
    able = {
        "completion": True,
        "insert": can_infill(tokenizer),
        "tools": form.takes_tools,
        "thinking": form.think is not None,
    }
    described = _describe(service)
    return {
        "modelfile": f"FROM {service.model_name}",
        "parameters": "",
        "template": _template(service),
        "license": "",
        "details": described["details"],
        "modified_at": described["modified_at"],
        "model_info": {
            "general.architecture": target.family,
            "general.parameter_count": service.facts.parameters,
            f"{target.family}.context_length": target.context_limit,
            f"{target.family}.embedding_length": target.hidden_size,
            f"{target.family}.vocab_size": target.vocab_size,
        },
        "capabilities": [name for name, is_able in able.items() if is_able],
    }


def _template(service: Service) -> str:
    """The chat template; if the model fills in, behind the words by which Ollama's clients know it."""
    tokenizer = service.llm.tokenizer
    if not can_infill(tokenizer):
        return tokenizer.chat_template
    prefix, suffix, middle = (
        tokenizer.token_text(tokenizer.fim_token_ids[part]) for part in ("prefix", "suffix", "middle")
    )
    filling = f"{prefix}{{{{ .Prompt }}}}{suffix}{{{{ .Suffix }}}}{middle}"
    return f"{{{{- if .Suffix }}}}{filling}{{{{- else }}}}{tokenizer.chat_template}{{{{- end }}}}"


def _in_billions(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.2f}M"
