"""OpenAI's /v1/responses: a chat under other names, whose stream tells the begin and end of each item.

Nothing is stored here, so what refers to stored responses is an error.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from eyas.api.prompts import Chat, Prompt
from eyas.engine.cycle import Piece
from eyas.serve.channel import dump
from eyas.serve.llama_fields import ANYTHING
from eyas.serve.said import SaidReply
from eyas.serve.schemas import (
    MAX_ITEMS,
    AnswerRequest,
    Body,
    ChatRequest,
    NamedTool,
    Text,
    parse,
    with_options,
)
from eyas.serve.service import ANSWERS, Service

# Fields that ask for nothing, with the values for which that is so.
IDLE_HERE: dict[str, Container[Any]] = {
    **dict.fromkeys(("previous_response_id", "conversation", "prompt", "max_tool_calls"), (None,)),
    "background": (None, False),
    "include": (None, []),
    "reasoning": (None, {}),
    "truncation": (None, "disabled"),
    **dict.fromkeys(("n",), (None, 1)),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    # Hints for OpenAI's own caches and safety systems.
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "safety_identifier"), ANYTHING),
}


class Item(Body):
    """One item of the input; fields that are null are as good as absent."""

    id: Text | None = None
    status: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        return {name: value for name, value in item.items() if value is not None}


class InputText(Body):
    """A part of a message."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class MessageItem(Item):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputText]

    def to_message(self) -> dict[str, Any]:
        """The message of a chat."""
        return {"role": self.role, "content": _joined(self.content)}


class CallItem(Item):
    """A call in an earlier answer."""

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: str

    def to_message(self) -> dict[str, Any]:
        """The assistant's message that calls."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"role": "assistant", "tool_calls": [{"id": self.call_id, "function": function}]}


class OutputItem(Item):
    """What a called function gave."""

    type: Literal["function_call_output"]
    call_id: Text
    output: str | list[InputText]

    def to_message(self) -> dict[str, Any]:
        """The message of the role tool."""
        return {"role": "tool", "tool_call_id": self.call_id, "content": _joined(self.output)}


class ReasoningItem(Item):
    """The reasoning of an earlier answer."""

    type: Literal["reasoning"]
    summary: list[InputText] = Field([], max_length=MAX_ITEMS)
    content: list[InputText] = Field([], max_length=MAX_ITEMS)

    def to_message(self) -> dict[str, Any]:
        """The assistant's message whose reasoning it is."""
        return {"role": "assistant", "reasoning_content": _joined(self.content or self.summary)}


AnyItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(lambda item: item.get("type", "message") if isinstance(item, dict) else item.type),
]


class FlatTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: Text
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema")
    strict: bool | None = Field(None, description="true does not constrain the arguments")


class FlatChoice(Body):
    """A function that has to be called."""

    type: Literal["function"]
    name: Text


class FlatFormat(BaseModel):
    """The form of the text."""

    model_config = ConfigDict(extra="allow")
    type: Text


class TextSettings(Body):
    """What the text is to be like."""

    format: FlatFormat | None = None
    verbosity: None = None


class ResponsesRequest(BaseModel):
    """Body of /v1/responses. Its other fields are those of a chat, with `max_output_tokens`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    input: str | Annotated[list[AnyItem], Field(min_length=1, max_length=MAX_ITEMS)]
    instructions: str | None = None
    tools: list[FlatTool] | None = Field(None, max_length=MAX_ITEMS)
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    text: TextSettings | None = None

    def chat(self) -> dict[str, Any]:
        """The chat that asks for the same."""
        chat: dict[str, Any] = {**(self.model_extra or {}), "instructions": self.instructions}
        chat["messages"] = _messages(self.input)
        if self.tools:
            chat["tools"] = [
                {"type": tool.type, "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
                for tool in self.tools
            ]
        if isinstance(self.tool_choice, FlatChoice):
            chat["tool_choice"] = {"type": "function", "function": {"name": self.tool_choice.name}}
        else:
            chat["tool_choice"] = self.tool_choice
        if self.text is not None and self.text.format is not None:
            kind, rest = self.text.format.type, self.text.format.model_extra or {}
            chat["response_format"] = {"type": kind} | ({"json_schema": rest} if rest else {})
        return chat


class ResponsesChat(ChatRequest):
    """The chat that a response answers."""

    instructions: str | None = None

    idle: ClassVar[dict[str, Container[Any]]] = AnswerRequest.idle | IDLE_HERE
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"max_new_tokens": ("max_output_tokens",)}

    @property
    def prompts(self) -> list[Prompt]:
        """The one chat, with the instructions first."""
        [chat] = super().prompts
        assert isinstance(chat, Chat)
        if self.instructions is None:
            return [chat]
        system = {"role": "system", "content": self.instructions}
        return [Chat([system, *chat.messages], chat.tools, chat.options)]


def _joined(content: str | Sequence[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _messages(
    given: str | Sequence[MessageItem | CallItem | OutputItem | ReasoningItem],
) -> list[dict[str, Any]]:
    """The messages of an input; items of one answer become one message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for item in given:
        own = item.to_message()
        last = messages[-1] if messages else {}
        if own["role"] == last.get("role") == "assistant":
            for name, value in own.items():
                last[name] = last[name] + value if name in last and name != "role" else value
        else:
            messages.append(own)
    return messages


@dataclass
class ResponsesReply(SaidReply):
    """Response of /v1/responses: its items, and the events that tell of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.asked, ResponsesChat)
        self._chat = self.asked
        self._items: list[dict[str, Any]] = []
        self._is_open = False  # the last item may grow
        self._num_events = 0
        self._news: list[str] = []
        self._reasoning_tokens = 0

    def add(self, index: int, piece: Piece) -> Piece:
        """Take the next piece, and note what it adds to the items."""
        piece = super().add(index, piece)
        latest = self.said[index].latest
        if latest.reasoning:
            self._reasoning_tokens += len(piece.tokens)
            self._grow("reasoning", latest.reasoning)
        if latest.content:
            self._grow("message", latest.content)
        for _, part in latest.calls:
            if part.name is not None:
                self._open(_call_item(self._new_id("fc"), part.call_id, part.name))
            self._grow("function_call", part.arguments)
        if piece.finish_reason is not None:
            if not self._items:
                self._grow("message", "")
            self._close()
        return piece

    def opening(self) -> list[str]:
        """The response, without any items."""
        for kind in ("created", "in_progress"):
            self._tell(f"response.{kind}", response=self._document("in_progress"))
        return self._take()

    def parts(self, index: int, piece: Piece) -> list[str]:  # noqa: ARG002
        """The events since the last ones."""
        return self._take()

    def closing(self) -> list[str]:
        """The whole response."""
        self._close()
        self._tell(f"response.{self._status}", response=self._document(self._status))
        return self._take()

    def failure(self, error: dict[str, Any]) -> list[str]:
        """The error."""
        told = error["error"]
        self._tell("error", code=told["code"], message=told["message"], param=told["param"])
        return self._take()

    def body(self) -> dict[str, Any]:
        """The whole response."""
        return self._document(self._status)

    @property
    def _status(self) -> str:
        return "incomplete" if self.choices[0].finish_reason == "length" else "completed"

    def _document(self, status: str) -> dict[str, Any]:
        chat, is_whole = self._chat, status != "in_progress"
        usage = self.usage()
        return {
            "id": f"resp_{self.request_id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": chat.instructions,
            "max_output_tokens": chat.options.get("max_new_tokens"),
            "metadata": {},
            "model": self.model,
            "output": self._items,
            "parallel_tool_calls": chat.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": chat.options["temperature"],
            "text": {"format": {"type": "text"}},
            "tool_choice": _choice(chat),
            "tools": [{"type": "function", **tool["function"]} for tool in chat.callable_tools],
            "top_p": chat.options.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
                "total_tokens": usage["total_tokens"],
            }
            if is_whole
            else None,
            "user": chat.user,
            "eyas": self.settings,
            "metrics": self.metrics() if is_whole else None,
        }

    def _grow(self, kind: str, text: str) -> None:
        """More text for an item of this kind: the last one, or a new one."""
        if not self._is_open or self._items[-1]["type"] != kind:
            self._open(_text_item(kind, self._new_id("rs" if kind == "reasoning" else "msg")))
        item = self._items[-1]
        place: dict[str, Any] = {"item_id": item["id"], "output_index": len(self._items) - 1}
        if kind == "function_call":
            item["arguments"] += text
            self._tell("response.function_call_arguments.delta", **place, delta=text)
            return
        item["content"][0]["text"] += text
        more = {"content_index": 0, "delta": text} | ({"logprobs": []} if kind == "message" else {})
        self._tell(f"response.{item['content'][0]['type']}.delta", **place, **more)

    def _open(self, item: dict[str, Any]) -> None:
        """Begin an item, which ends the one before."""
        self._close()
        self._items.append(item)
        self._is_open = True
        at = len(self._items) - 1
        bare = item | ({"content": []} if "content" in item else {})
        self._tell("response.output_item.added", output_index=at, item=bare)
        if "content" in item:
            place = {"item_id": item["id"], "output_index": at, "content_index": 0}
            self._tell("response.content_part.added", **place, part=item["content"][0])

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        item, at = self._items[-1], len(self._items) - 1
        item["status"] = "completed"
        place: dict[str, Any] = {"item_id": item["id"], "output_index": at}
        if "content" in item:
            [part] = item["content"]
            more: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
            self._tell(f"response.{part['type']}.done", **place, content_index=0, text=part["text"], **more)
            self._tell("response.content_part.done", **place, content_index=0, part=part)
        else:
            self._tell(
                "response.function_call_arguments.done",
                **place,
                name=item["name"],
                arguments=item["arguments"],
            )
        self._tell("response.output_item.done", output_index=at, item=item)

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self.request_id}_{len(self._items)}"

    def _tell(self, kind: str, **fields: Any) -> None:
        document = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        self._news.append(f"event: {kind}\ndata: {dump(document)}\n\n")

    def _take(self) -> list[str]:
        news, self._news = self._news, []
        return news


def _choice(chat: ResponsesChat) -> str | dict[str, str]:
    """The tool choice as this interface writes it."""
    if isinstance(chat.tool_choice, NamedTool):
        return {"type": "function", "name": chat.tool_choice.function.name}
    return chat.tool_choice or "auto"


def _text_item(kind: str, item_id: str) -> dict[str, Any]:
    """An item of text: a message, or reasoning."""
    if kind == "reasoning":
        own: dict[str, Any] = {"summary": [], "content": [{"type": "reasoning_text", "text": ""}]}
    else:
        content = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        own = {"role": "assistant", "content": [content]}
    return {"type": kind, "id": item_id, "status": "in_progress", **own}


def _call_item(item_id: str, call_id: str, name: str) -> dict[str, Any]:
    own = {"call_id": call_id, "name": name, "arguments": ""}
    return {"type": "function_call", "id": item_id, "status": "in_progress", **own}


def add_responses(app: FastAPI, service: Service) -> None:
    """Serve the route."""
    chat = with_options(ResponsesChat)

    @app.post("/v1/responses", responses=ANSWERS)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer a chat, in items."""
        return await service.answer(request, parse(chat, body.chat()), ResponsesReply)
