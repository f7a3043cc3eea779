"""Responses in OpenAI's format of chats and completions, whole or chunk by chunk."""

from abc import abstractmethod
from typing import Any, ClassVar

from eyas.engine.cycle import Piece
from eyas.engine.sampling import SampledToken
from eyas.serve.channel import DONE, event
from eyas.serve.replies import Choice, Reply
from eyas.serve.said import SaidReply
from eyas.serve.tools.calls import CallPart

LEAST_LOG_PROB = -9999.0  # JSON has no infinity


class OpenAIReply(Reply):
    """A response in the format of OpenAI's chats and completions."""

    tells_trace = True
    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def parts(self, index: int, piece: Piece) -> list[str]:
        """What is sent of the piece that was added last."""
        return [event(self.chunk(index, piece))]

    def closing(self) -> list[str]:
        """What a stream ends with."""
        return [event(self.usage_chunk()), DONE] if self.include_usage else [DONE]

    def failure(self, error: dict[str, Any]) -> list[str]:
        """What a stream ends with after an error, which comes in OpenAI's format."""
        return [event(error), DONE]

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """The chunk of the piece that was added last."""
        choice, count = self.choices[index], len(piece.tokens)
        is_first = len(choice.tokens) == count
        own = choice.cycles[-1] if self.trace else {"tokens": choice.described[len(choice.tokens) - count :]}
        document = self._frame(self.chunk_object)
        document["choices"] = [
            {
                "index": index,
                **self._delta(index, piece, is_first=is_first),
                "logprobs": self._logprobs(choice, len(choice.tokens) - count),
                "finish_reason": choice.finish_reason,
                "eyas": own,
            }
        ]
        if is_first:
            document["eyas"] = self.settings
        if self.include_usage:
            document["usage"] = None
        elif self.is_whole:
            document["metrics"] = self.metrics()
        return document

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk, if `stream_options.include_usage` is set."""
        return self._frame(self.chunk_object) | {
            "choices": [],
            "usage": self.usage(),
            "metrics": self.metrics(),
        }

    def body(self) -> dict[str, Any]:
        """The whole response."""
        document = self._frame(self.whole_object)
        document["choices"] = [
            {
                "index": index,
                **self._message(index),
                "logprobs": self._logprobs(choice, 0),
                "finish_reason": reason,
                "eyas": {"tokens": choice.described} | ({"cycles": choice.cycles} if self.trace else {}),
            }
            for index, (choice, reason) in enumerate(zip(self.choices, self.finish_reasons, strict=True))
        ]
        document |= {"usage": self.usage(), "metrics": self.metrics(), "eyas": self.settings}
        return document

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    @abstractmethod
    def _message(self, index: int) -> dict[str, Any]:
        """The whole answer, as the fields of a choice in the body."""

    @abstractmethod
    def _delta(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        """What is new, as the fields of a choice in a chunk."""

    @abstractmethod
    def _logprobs(self, choice: Choice, start: int) -> dict[str, Any] | None:
        """Log-probabilities of the tokens from `start` on."""


class ChatReply(SaidReply, OpenAIReply):
    """Response of /v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _message(self, index: int) -> dict[str, Any]:
        said = self.said[index]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": said.content if said.content or not said.calls else None,
            "refusal": None,
        }
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in said.calls
            ]
        return {"message": message}

    def _delta(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:  # noqa: ARG002
        parts = self.said[index].latest
        delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
        if parts.reasoning:
            delta["reasoning_content"] = parts.reasoning
        if parts.calls:
            delta["tool_calls"] = [_call_delta(at, part) for at, part in parts.calls]
        if parts.content or not (parts.reasoning or parts.calls):
            delta["content"] = parts.content
        return {"delta": delta}

    def _logprobs(self, choice: Choice, start: int) -> dict[str, Any] | None:
        if not self.logprobs:
            return None

        def entry(token_id: int, log_prob: float | None) -> dict[str, Any]:
            return {
                "token": self.texts.of(token_id),
                "logprob": finite(log_prob),
                "bytes": self.texts.bytes_of(token_id),
            }

        content = [
            entry(token.id, token.log_prob)
            | {"top_logprobs": [entry(other, log_prob) for other, log_prob in token.top]}
            for token in choice.tokens[start:]
        ]
        return {"content": content, "refusal": None}


class TextReply(OpenAIReply):
    """Response of /v1/completions."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _message(self, index: int) -> dict[str, Any]:
        return {"text": self.choices[index].text}

    def _delta(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:  # noqa: ARG002
        return {"text": piece.text}

    def add(self, index: int, piece: Piece) -> Piece:
        """Take the next piece of choice `index`, and note where each of its tokens begins in the text."""
        piece = super().add(index, piece)
        choice = self.choices[index]
        for token in piece.tokens if self.logprobs else ():
            choice.offsets.append(choice.length)
            choice.length += self.texts.length_of(token.id)
        return piece

    def _logprobs(self, choice: Choice, start: int) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        tokens = choice.tokens[start:]
        return {
            "tokens": [self.texts.name_of(token.id) for token in tokens],
            "token_logprobs": [finite(token.log_prob) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": choice.offsets[start:],
        }

    def _top(self, token: SampledToken) -> dict[str, float | None]:
        """The most probable tokens by name; of several with one name the first."""
        top: dict[str, float | None] = {}
        for other, log_prob in token.top:
            top.setdefault(self.texts.name_of(other), finite(log_prob))
        return top


def _call_delta(index: int, part: CallPart) -> dict[str, Any]:
    """A part of a call, as a chunk has it."""
    if part.name is None:
        return {"index": index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": index, "id": part.call_id, "type": "function", "function": function}


def finite(log_prob: float | None) -> float | None:
    """A log-probability that JSON can hold."""
    return log_prob if log_prob is None else max(log_prob, LEAST_LOG_PROB)
