"""Responses: what the pieces of a request add up to, whole or part by part, in any format."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from eyas.engine.cycle import Piece
from eyas.engine.sampling import SampledToken
from eyas.models import Tokenizer
from eyas.serve.channel import EVENTS
from eyas.serve.schemas import AnswerRequest
from eyas.serve.tools.answer import AnswerParser
from eyas.serve.trace import describe_cycle, describe_tokens

METRICS_LISTS = 4096  # cycles whose counts a response lists one by one


class Texts:
    """Texts of single tokens, each decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.of = lru_cache(maxsize=1 << 16)(self._decode)

    def _decode(self, token_id: int) -> str:
        return self.tokenizer.token_text(token_id)

    def bytes_of(self, token_id: int) -> list[int]:
        """A token's bytes, which may be a part of a character."""
        return list(self.tokenizer.token_bytes(token_id))

    def name_of(self, token_id: int) -> str:
        """A token as OpenAI's completions name it: its text, or its bytes if they are not UTF-8."""
        content = self.tokenizer.token_bytes(token_id)
        try:
            content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
        return self.of(token_id)

    def length_of(self, token_id: int) -> int:
        """Characters of an answer that begin in a token; special tokens have none."""
        if self.tokenizer.is_special(token_id):
            return 0
        return sum(byte & 0xC0 != 0x80 for byte in self.tokenizer.token_bytes(token_id))


@dataclass
class Choice:
    """One answer so far."""

    text: str = ""
    tokens: list[SampledToken] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # in the text, of tokens that have log-probabilities
    length: int = 0  # of the text, what is held back included
    described: list[dict[str, Any]] = field(default_factory=list)
    cycles: list[dict[str, Any]] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)  # (accepted, drafted) of cycles that drafted
    came: list[float] = field(default_factory=list)  # seconds after which each piece came
    num_reused: int = 0
    finish_reason: str | None = None  # of an answer that is whole


@dataclass
class Reply(ABC):
    """One response. `add` each piece, then take what to send of it, or the `body` when all have come.

    A stream is `opening`, the `parts` of each piece, and `closing` or `failure`.

    Attributes:
        choices_per_prompt: n.
        settings: of the answers, for the field "eyas".
        logprobs: whether log-probabilities were asked for.
        asked: the request's body.
        stop_token_ids: the tokens that end an answer.
        parsers: one for each answer to a chat.
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
    asked: AnswerRequest | None = None
    stop_token_ids: frozenset[int] = frozenset()
    parsers: Sequence[AnswerParser] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    media_type: ClassVar[str] = EVENTS
    tells_trace: ClassVar[bool] = False  # has a place for the cycles' trees

    def __post_init__(self) -> None:
        count = len(self.prompt_tokens) * self.choices_per_prompt
        self.choices = [Choice() for _ in range(count)]

    def add(self, index: int, piece: Piece) -> Piece:
        """Take the next piece of choice `index`; returns it as it is to be sent."""
        choice = self.choices[index]
        choice.text += piece.text
        choice.came.append(piece.seconds)
        choice.tokens += piece.tokens
        choice.described += describe_tokens(piece, self.texts.of)
        choice.num_reused = piece.num_reused
        choice.finish_reason = piece.finish_reason
        if self.trace:
            choice.cycles.append(describe_cycle(piece, self.texts.of))
        if piece.cycle is not None and piece.cycle.tree.num_draft_tokens:
            choice.steps.append((piece.cycle.num_accepted, piece.cycle.tree.num_draft_tokens))
        return piece

    def opening(self) -> list[str]:
        """What a stream begins with."""
        return []

    @abstractmethod
    def parts(self, index: int, piece: Piece) -> list[str]:
        """What is sent of the piece that was added last."""

    @abstractmethod
    def closing(self) -> list[str]:
        """What a stream ends with."""

    @abstractmethod
    def failure(self, error: dict[str, Any]) -> list[str]:
        """What a stream ends with after an error, which comes in OpenAI's format."""

    @abstractmethod
    def body(self) -> dict[str, Any]:
        """The whole response."""

    def has_ended(self, index: int) -> bool:
        """Whether choice `index` needs no more pieces."""
        return self.choices[index].finish_reason is not None

    @property
    def is_whole(self) -> bool:
        """Whether every answer has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    @property
    def finish_reasons(self) -> list[str | None]:
        """How each answer ended; None of one that has not."""
        return [choice.finish_reason for choice in self.choices]

    @property
    def answer_texts(self) -> list[str]:
        """The answers' texts so far."""
        return [choice.text for choice in self.choices]

    def usage(self) -> dict[str, Any]:
        """Counts of tokens; a prompt counts once, however many answers it gets."""
        prompt = sum(self.prompt_tokens)
        new = sum(len(choice.tokens) for choice in self.choices)
        size = self.choices_per_prompt
        groups = [self.choices[at : at + size] for at in range(0, len(self.choices), size)]
        reused = sum(max(choice.num_reused for choice in group) for group in groups)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": {"cached_tokens": reused},
        }

    def metrics(self) -> dict[str, Any] | None:
        """vLLM's counts, which are of one sequence: null for several."""
        if len(self.choices) > 1:
            return None
        return {"speculative_decoding": speculative_decoding(self.choices[0].steps)}


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
