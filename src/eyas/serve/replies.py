"""Responses in OpenAI's format: what the pieces of a request add up to, whole or chunk by chunk."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from eyas.engine.cycle import Piece
from eyas.engine.sampling import SampledToken
from eyas.models import Tokenizer
from eyas.serve.trace import describe_cycle, describe_tokens

LEAST_LOG_PROB = -9999.0  # JSON has no infinity
METRICS_LISTS = 4096  # cycles whose counts a response lists one by one


class Texts:
    """Texts of single tokens, each decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.of = lru_cache(maxsize=1 << 16)(self._decode)

    def _decode(self, token_id: int) -> str:
        return self._tokenizer.token_text(token_id)

    def bytes_of(self, token_id: int) -> list[int]:
        """A token's bytes, which may be a part of a character."""
        return list(self._tokenizer.token_bytes(token_id))

    def name_of(self, token_id: int) -> str:
        """A token as OpenAI's completions name it: its text, or its bytes if they are not UTF-8."""
        content = self._tokenizer.token_bytes(token_id)
        try:
            content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
        return self.of(token_id)

    def length_of(self, token_id: int) -> int:
        """Characters of an answer that begin in a token; special tokens have none."""
        if self._tokenizer.is_special(token_id):
            return 0
        return sum(byte & 0xC0 != 0x80 for byte in self._tokenizer.token_bytes(token_id))


@dataclass
class _Choice:
    """One answer so far."""

    text: str = ""
    tokens: list[SampledToken] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # in the text, of tokens that have log-probabilities
    length: int = 0  # of the text, what is held back included
    described: list[dict[str, Any]] = field(default_factory=list)
    cycles: list[dict[str, Any]] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)  # (accepted, drafted) of cycles that drafted
    num_reused: int = 0
    finish_reason: str | None = None  # of an answer that is whole


@dataclass
class Reply(ABC):
    """One response. `add` each piece, then take its `chunk`, or the `body` when all have come.

    Attributes:
        choices_per_prompt: n.
        settings: of the answers, for the field "eyas".
        logprobs: whether log-probabilities were asked for.
    """

    request_id: str
    model: str
    fingerprint: str
    prompt_tokens: Sequence[int]  # of each prompt
    choices_per_prompt: int
    settings: dict[str, Any]
    texts: Texts
    logprobs: bool = False
    trace: bool = False
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __post_init__(self) -> None:
        count = len(self.prompt_tokens) * self.choices_per_prompt
        self._choices = [_Choice() for _ in range(count)]

    def add(self, index: int, piece: Piece) -> None:
        """Take the next piece of choice `index`."""
        choice = self._choices[index]
        choice.text += piece.text
        choice.tokens += piece.tokens
        choice.described += describe_tokens(piece, self.texts.of)
        choice.num_reused = piece.num_reused
        choice.finish_reason = piece.finish_reason
        if self.trace:
            choice.cycles.append(describe_cycle(piece, self.texts.of))
        if piece.cycle is not None and piece.cycle.tree.num_draft_tokens:
            choice.steps.append((piece.cycle.num_accepted, piece.cycle.tree.num_draft_tokens))

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """The chunk of the piece that was added last."""
        choice, count = self._choices[index], len(piece.tokens)
        is_first = len(choice.tokens) == count
        own = choice.cycles[-1] if self.trace else {"tokens": choice.described[len(choice.tokens) - count :]}
        document = self._frame(self.chunk_object)
        document["choices"] = [
            {
                "index": index,
                **self._delta(piece.text, is_first=is_first),
                "logprobs": self._logprobs(choice, len(choice.tokens) - count),
                "finish_reason": piece.finish_reason,
                "eyas": own,
            }
        ]
        if is_first:
            document["eyas"] = self.settings
        if self.include_usage:
            document["usage"] = None
        elif self.is_whole:
            document["metrics"] = self._metrics()
        return document

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk, if `stream_options.include_usage` is set."""
        return self._frame(self.chunk_object) | {
            "choices": [],
            "usage": self.usage(),
            "metrics": self._metrics(),
        }

    def body(self) -> dict[str, Any]:
        """The whole response."""
        document = self._frame(self.whole_object)
        document["choices"] = [
            {
                "index": index,
                **self._message(choice.text),
                "logprobs": self._logprobs(choice, 0),
                "finish_reason": reason,
                "eyas": {"tokens": choice.described} | ({"cycles": choice.cycles} if self.trace else {}),
            }
            for index, (choice, reason) in enumerate(zip(self._choices, self.finish_reasons, strict=True))
        ]
        document |= {"usage": self.usage(), "metrics": self._metrics(), "eyas": self.settings}
        return document

    @property
    def is_whole(self) -> bool:
        """Whether every answer has ended."""
        return all(choice.finish_reason is not None for choice in self._choices)

    @property
    def finish_reasons(self) -> list[str | None]:
        """How each answer ended; None of one that has not."""
        return [choice.finish_reason for choice in self._choices]

    @property
    def answer_texts(self) -> list[str]:
        """The answers' texts so far."""
        return [choice.text for choice in self._choices]

    def usage(self) -> dict[str, Any]:
        """Counts of tokens; a prompt counts once, however many answers it gets."""
        prompt = sum(self.prompt_tokens)
        new = sum(len(choice.tokens) for choice in self._choices)
        size = self.choices_per_prompt
        groups = [self._choices[at : at + size] for at in range(0, len(self._choices), size)]
        reused = sum(max(choice.num_reused for choice in group) for group in groups)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": {"cached_tokens": reused},
        }

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _metrics(self) -> dict[str, Any] | None:
        """vLLM's counts, which are of one sequence: null for several."""
        if len(self._choices) > 1:
            return None
        return {"speculative_decoding": speculative_decoding(self._choices[0].steps)}

    @abstractmethod
    def _message(self, text: str) -> dict[str, Any]:
        """The whole text, as the fields of a choice in the body."""

    @abstractmethod
    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        """New text, as the fields of a choice in a chunk."""

    @abstractmethod
    def _logprobs(self, choice: _Choice, start: int) -> dict[str, Any] | None:
        """Log-probabilities of the tokens from `start` on."""


class ChatReply(Reply):
    """Response of /v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        return {"delta": ({"role": "assistant"} if is_first else {}) | {"content": text}}

    def _logprobs(self, choice: _Choice, start: int) -> dict[str, Any] | None:
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


class TextReply(Reply):
    """Response of /v1/completions."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:  # noqa: ARG002
        return {"text": text}

    def add(self, index: int, piece: Piece) -> None:
        """Take the next piece of choice `index`, and note where each of its tokens begins in the text."""
        super().add(index, piece)
        choice = self._choices[index]
        for token in piece.tokens if self.logprobs else ():
            choice.offsets.append(choice.length)
            choice.length += self.texts.length_of(token.id)

    def _logprobs(self, choice: _Choice, start: int) -> dict[str, Any] | None:
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


def speculative_decoding(steps: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """vLLM's counts of one answer, from (accepted, drafted) of each cycle that drafted.

    The histogram counts cycles by accepted tokens, the other one apart for each number of drafted ones.
    """
    accepted, drafted = sum(a for a, _ in steps), sum(d for _, d in steps)
    histogram: dict[str, int] = {}
    by_length: dict[str, dict[str, int]] = {}
    for kept, size in sorted(steps):
        histogram[str(kept)] = histogram.get(str(kept), 0) + 1
        own = by_length.setdefault(str(size), {})
        own[str(kept)] = own.get(str(kept), 0) + 1
    return {
        "mean_acceptance_length": 1 + accepted / len(steps) if steps else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "acceptance_histogram": histogram,
        "acceptance_histogram_by_draft_length": by_length,
        "num_spec_steps": len(steps),
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "per_step_accepted": [a for a, _ in steps[:METRICS_LISTS]],
        "per_step_drafted": [d for _, d in steps[:METRICS_LISTS]],
    }


def finite(log_prob: float | None) -> float | None:
    """A log-probability that JSON can hold."""
    return log_prob if log_prob is None else max(log_prob, LEAST_LOG_PROB)
