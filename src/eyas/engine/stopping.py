"""When an answer ends, and which of its text is final (docs/laws.md, L4).

An answer ends at the first of: a stop token; the token that completes a stop string in the generated text;
`max_new_tokens`; a full context. Its ids include that last token; its text leaves out special tokens and ends
before the stop string. Streamed pieces hold back text that may still change: incomplete UTF-8 (in the
decoder) and any suffix that may begin a stop string. Joined, the pieces are the text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from eyas.config import Option, Options
from eyas.errors import ConfigError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingConfig(Options):
    """When an answer ends (docs/laws.md, L4)."""

    title: ClassVar[str] = "stopping"

    max_new_tokens: Annotated[
        int,
        Option(
            "tokens of the answer at most",
            at_least=1,
            common=True,
            http=("max_tokens", "max_completion_tokens"),
        ),
    ] = 512
    min_new_tokens: Annotated[
        int,
        Option(
            "tokens of the answer at least: no stop token before", at_least=0, off=0, http=("min_tokens",)
        ),
    ] = 0
    stop: Annotated[
        tuple[str, ...], Option("end the answer before this text; may be repeated", "TEXT", common=True)
    ] = ()
    stop_token_ids: Annotated[
        tuple[int, ...],
        Option("token ids that also end the answer, separated by spaces or commas", "ID", at_least=0),
    ] = ()
    ignore_eos: Annotated[bool, Option("go on past the model's own stop tokens")] = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):  # one, as OpenAI's interface also takes it; not its letters
            object.__setattr__(self, "stop", (self.stop,))
        Options.__post_init__(self)

    def check(self) -> None:
        """Raise ConfigError for limits that exclude each other, or a stop string that is always there."""
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens is {self.min_new_tokens}, above max_new_tokens "
                f"{self.max_new_tokens}; lower it."
            )
        if not all(self.stop):
            raise ConfigError(f"stop is {self.stop!r}, but a stop string must have at least one character.")


class TextDecoder(Protocol):
    """Turns tokens into text, as soon as it is final; skips special tokens."""

    def push(self, token_id: int) -> str:
        """Text that is final with this token."""
        ...

    def flush(self) -> str:
        """The rest at the end, with incomplete UTF-8 as replacement characters."""
        ...


class NoText:
    """A decoder for callers that need ids only."""

    def push(self, token_id: int) -> str:  # noqa: ARG002
        """No text."""
        return ""

    def flush(self) -> str:
        """No text."""
        return ""


class AnswerText:
    """Follows one answer token by token.

    Args:
        config: limits and stop strings.
        decoder: fresh, for this answer.
        stop_token_ids: the model's own stop tokens; those of `config` are added.
    """

    def __init__(
        self, config: StoppingConfig, decoder: TextDecoder, stop_token_ids: Iterable[int] = ()
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.num_tokens = 0
        self._config = config
        self._decoder = decoder
        self.stop_token_ids = stop_tokens(config, stop_token_ids)
        self._held = ""  # final text that may begin a stop string

    def push(self, token_id: int) -> str:
        """Count a token; returns the text that it releases. Sets `finish_reason` at the last one."""
        assert self.finish_reason is None, "the answer has ended"
        self.num_tokens += 1
        self._held += self._decoder.push(token_id)
        if token_id in self.stop_token_ids:
            return self.finish("stop")
        if not self._config.stop and self.num_tokens < self._config.max_new_tokens:
            return self._release(len(self._held))
        start = self._find_stop()
        if start is not None:
            self.finish_reason = "stop"
            return self._release(start, drop_rest=True)
        if self.num_tokens >= self._config.max_new_tokens:
            return self.finish("length")
        return self._release(len(self._held) - self._undecided())

    def finish(self, reason: FinishReason) -> str:
        """End here; returns the text that was held back, which may still complete a stop string."""
        self._held += self._decoder.flush()
        start = self._find_stop()
        self.finish_reason = reason if start is None else "stop"
        return self._release(len(self._held) if start is None else start, drop_rest=True)

    def _find_stop(self) -> int | None:
        """Where the first stop string starts. What was released before cannot be part of one."""
        starts = [self._held.find(stop) for stop in self._config.stop]
        return min((start for start in starts if start >= 0), default=None)

    def _undecided(self) -> int:
        """Length of the longest suffix that a stop string begins with."""
        longest = 0
        for stop in self._config.stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _release(self, size: int, *, drop_rest: bool = False) -> str:
        piece, rest = self._held[:size], self._held[size:]
        self._held = "" if drop_rest else rest
        return piece


def stop_tokens(config: StoppingConfig, model_stop_ids: Iterable[int]) -> frozenset[int]:
    """The stop tokens in force: the user's, and the model's unless they are ignored."""
    own = () if config.ignore_eos else model_stop_ids
    return frozenset(own) | frozenset(config.stop_token_ids)
