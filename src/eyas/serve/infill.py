"""llama.cpp's /infill, which editors ask for the text at the cursor: its fields, its response, its limits.

An editor sends a request at each pause in typing and needs the newest answer alone. So a request ends the
same client's earlier one, which returns what it has.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field

from eyas.api.prompts import Prompt
from eyas.engine.cycle import Piece
from eyas.models import Infill, Snippet
from eyas.models.infill import infill_ids
from eyas.serve.channel import event
from eyas.serve.replies import Reply
from eyas.serve.schemas import MAX_ITEMS, AnswerRequest, Body, Text, with_options
from eyas.serve.service import ANSWERS, Service


class Extra(Body):
    """A piece of another file."""

    text: str
    filename: str = "tmp"
    time: Any = None  # when llama.vim took it


class InfillRequest(AnswerRequest):
    """Body of /infill."""

    input_prefix: str
    input_suffix: str
    input_extra: list[Extra] = Field([], max_length=MAX_ITEMS)
    prompt: str = Field("", description="what of the middle is written already")
    n_predict: int | None = Field(None, ge=-1, description="tokens at most; 0 reads the prompt alone")
    n_indent: int = Field(0, ge=0, description="end before a line that begins with fewer spaces")
    t_max_predict_ms: float | None = Field(
        None, description="end at the first line that ends after this time, in milliseconds"
    )
    response_fields: list[Text] | None = Field(None, description="the only fields of the response")
    return_tokens: bool = False

    idle: ClassVar[dict[str, Container[Any]]] = AnswerRequest.idle | {"n": (None, 1)}
    defaults: ClassVar[Mapping[str, Any]] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}

    @property
    def replaces_earlier(self) -> bool:
        """Whether it ends the client's earlier request: not where it only prepares for later ones."""
        return not self.reads_only

    @property
    def reads_only(self) -> bool:
        """Whether the prompt is to be read into the prefix cache, and nothing to be written."""
        return self.n_predict == 0

    @property
    def infill(self) -> Infill:
        """The one prompt."""
        extra = [Snippet(snippet.text, snippet.filename) for snippet in self.input_extra]
        return Infill(self.input_prefix, self.input_suffix, self.prompt, extra, trim=True)

    @property
    def prompts(self) -> list[Prompt]:
        """The one prompt."""
        return [self.infill]

    @property
    def options(self) -> dict[str, Any]:
        """The generation options."""
        options = super().options
        if self.n_predict is not None and self.n_predict >= 0:
            options["max_new_tokens"] = max(1, self.n_predict)
        return options


class LineLimits:
    """Ends a text at a line: the first that is indented too little, or the first that ends too late.

    Args:
        indent: spaces and tabs that each line but the first begins with, at least.
        seconds: from which on the text ends with its line; None is never.
    """

    def __init__(self, indent: int, seconds: float | None) -> None:
        self._indent = indent
        self._seconds = seconds
        self._held = ""  # a line break and the white space behind it
        self.is_over = False

    def push(self, text: str, elapsed: float) -> str:
        """Take more text, that came after so many seconds; returns what is certain to stay."""
        kept = ""
        for sign in text:
            is_blank = sign in " \t" and bool(self._held)
            if not is_blank and self._held and len(self._held) - 1 < self._indent:
                self.is_over = True
                return kept
            if sign == "\n":
                if self._seconds is not None and elapsed > self._seconds:
                    self.is_over = True
                    return kept + self.flush()
                kept, self._held = kept + self._held, sign
            elif is_blank:
                self._held += sign
            else:
                kept, self._held = kept + self._held + sign, ""
        return kept

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


@dataclass
class InfillReply(Reply):
    """Response of /infill."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.asked, InfillRequest)
        self._body = self.asked
        wait = self._body.t_max_predict_ms
        self._limits = LineLimits(self._body.n_indent, wait / 1000 if wait and wait > 0 else None)
        self._is_told = False  # the stream's last part has been sent

    def add(self, index: int, piece: Piece) -> Piece:
        """Take a piece, and of its text what the limits leave."""
        came = self.choices[index].came
        text = self._limits.push(piece.text, piece.seconds - came[0] if came else 0.0)
        if piece.finish_reason is not None and not self._limits.is_over:
            text += self._limits.flush()
        if self._body.reads_only:
            text = ""
        reason = "length" if self._limits.is_over else piece.finish_reason
        return super().add(index, replace(piece, text=text, finish_reason=reason))

    def parts(self, index: int, piece: Piece) -> list[str]:
        """A part of the text; the last one has all the numbers."""
        if piece.finish_reason is not None:
            self._is_told = True
            return [event(self._document(piece.text))]
        tokens = [token.id for token in piece.tokens]
        return [event({"index": index, "content": piece.text, "tokens": tokens, "stop": False})]

    def closing(self) -> list[str]:
        """Nothing, unless the stream was ended from outside and has not said so."""
        return [] if self._is_told else [event(self._document(self._end()))]

    def failure(self, error: dict[str, Any]) -> list[str]:
        """The error alone."""
        return [event(error)]

    def body(self) -> dict[str, Any]:
        """The whole response."""
        return self._document(self.choices[0].text + self._end())

    def _end(self) -> str:
        """End an answer that a later request has ended; returns what was held back."""
        if self.is_whole:
            return ""
        self.choices[0].finish_reason = "length"
        return self._limits.flush()

    def _document(self, content: str) -> dict[str, Any]:
        choice, body = self.choices[0], self._body
        tokens = [] if body.reads_only else [token.id for token in choice.tokens]
        document = {
            "index": 0,
            "content": content,
            "tokens": tokens if body.return_tokens else [],
            "stop": True,
            "stop_type": self._stop_type(),
            "model": self.model,
            "tokens_predicted": len(tokens),
            "tokens_evaluated": self.prompt_tokens[0],
            "tokens_cached": choice.num_reused,
            "has_new_line": "\n" in choice.text,
            "truncated": self._is_truncated(),
            "generation_settings": self.settings,
            "metrics": self.metrics(),
            "timings": self._timings(len(tokens)),
        }
        return document if body.response_fields is None else select(document, body.response_fields)

    def _is_truncated(self) -> bool:
        parse_special = bool(self._body.options.get("parse_special"))
        whole = infill_ids(self.texts.tokenizer, self._body.infill, parse_special=parse_special)
        return self.prompt_tokens[0] < len(whole)

    def _stop_type(self) -> str:
        choice = self.choices[0]
        if choice.finish_reason != "stop" or self._body.reads_only:
            return "limit"
        return "eos" if choice.tokens[-1].id in self.stop_token_ids else "word"

    def _timings(self, predicted: int) -> dict[str, Any]:
        """llama.cpp's numbers; the prompt's part ends with the first token."""
        cached, came = self.choices[0].num_reused, self.choices[0].came or [0.0]
        timings: dict[str, Any] = {"cache_n": cached}
        for name, count, seconds in (
            ("prompt", self.prompt_tokens[0] - cached, came[0]),
            ("predicted", predicted, came[-1] - came[0]),
        ):
            timings |= {
                f"{name}_n": count,
                f"{name}_ms": 1000 * seconds,
                f"{name}_per_token_ms": 1000 * seconds / max(1, count),
                f"{name}_per_second": count / seconds if seconds else 0.0,
            }
        return timings


def select(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The fields that were asked for; `timings/prompt_n` is a field of a field, under that whole name."""
    selected = {}
    for field in fields:
        value: Any = document
        for part in field.split("/"):
            value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
        if value is not MISSING:
            selected[field] = value
    return selected


def add_infill(app: FastAPI, service: Service) -> None:
    """Serve the route."""

    async def infill(body: InfillRequest, request: Request) -> Response:
        """Write the text between a prefix and a suffix."""
        return await service.answer(request, body, InfillReply)

    infill.__annotations__["body"] = with_options(InfillRequest)
    app.post("/infill", responses=ANSWERS)(infill)
