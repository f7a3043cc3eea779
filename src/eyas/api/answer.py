"""An answer as it comes, and finished: text, ids, counts, and the document that `--json` prints."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from eyas.api.turns import TurnLock
from eyas.engine.batch import Batch
from eyas.engine.cycle import Engine, Piece, Request, Run
from eyas.engine.metrics import GenerationStats
from eyas.engine.stopping import FinishReason
from eyas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer; with n > 1, `choices` holds all of them and this is the first."""

    text: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: GenerationStats
    config: dict[str, Any]
    logprobs: tuple[dict[str, Any], ...] | None = None
    choices: tuple["Answer", ...] = ()

    @classmethod
    def of(cls, run: Run, config: dict[str, Any]) -> Self:
        """The answer of a run that has ended."""
        request = run.request
        assert request.text.finish_reason is not None, "the answer has ended"
        return cls(
            text=run.text,
            prompt_token_ids=tuple(request.prompt_ids),
            token_ids=tuple(run.generated),
            finish_reason=request.text.finish_reason,
            stats=run.stats(),
            config=config,
            logprobs=_logprobs(run) if request.num_log_probs is not None else None,
        )

    def with_choices(self, choices: "tuple[Answer, ...]") -> "Answer":
        """This answer as the first of several."""
        return replace(self, choices=choices)

    def to_dict(self) -> dict[str, Any]:
        """The document that `eyas generate --json` prints."""
        document: dict[str, Any] = self._own() | {"config": self.config}
        if self.choices:
            document["choices"] = [choice._own() for choice in self.choices]
        return document

    def _own(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "text": self.text,
            "prompt_token_ids": list(self.prompt_token_ids),
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "stats": self.stats.to_dict(),
        }
        if self.logprobs is not None:
            document["logprobs"] = list(self.logprobs)
        return document


class AnswerStream(Iterator[Piece]):
    """Pieces of one answer as they come; `answer` once all have come.

    Args:
        lock: held for one step at a time.
        batch: empty; what it keeps of earlier answers may serve this one.
        engine: that answers.
        request: the answer to make.
        config: of the answer.
    """

    def __init__(
        self, lock: TurnLock, batch: Batch, engine: Engine, request: Request, config: dict[str, Any]
    ) -> None:
        self._lock = lock
        self._batch = batch
        self._engine = engine
        self._request = request
        self.config = config
        self.is_closed = False
        self.run: Run | None = None

    def __next__(self) -> Piece:
        if self.is_closed or (self.run is not None and self.run.is_finished):
            raise StopIteration
        while True:
            try:
                with self._lock:
                    if self.run is None:
                        [self.run] = self._batch.admit(self._engine, [self._request])
                    outcomes = self._batch.step()
                for _, outcome in outcomes:  # none while a long prompt is read
                    if isinstance(outcome, Exception):
                        raise outcome
                    return outcome
            except BaseException:
                self.is_closed = True  # this answer cannot go on
                raise

    def close(self) -> None:
        """Stop early; the model stays usable."""
        self.is_closed = True
        if self.run is not None:
            self._batch.cancel(self.run)

    @property
    def answer(self) -> Answer:
        """The answer, once it has ended.

        Raises:
            ConfigError: pieces are still to come, or the stream was closed before.
        """
        if self.run is None or not self.run.is_finished:
            raise ConfigError(
                "the stream was closed before the answer ended; `run` holds what it said."
                if self.is_closed
                else "the answer has not ended; take all pieces of the stream first."
            )
        return Answer.of(self.run, self.config)


def _logprobs(run: Run) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"token_id": token.id, "logprob": token.log_prob, "top": [list(pair) for pair in token.top]}
        for token in run.tokens
    )
