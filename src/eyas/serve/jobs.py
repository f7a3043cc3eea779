"""One answer on its way through the server, and what its reader is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from eyas.api.answer import Answer
from eyas.engine.cycle import Cycle, Engine, Piece, Request, Run
from eyas.errors import EyasError


class QueueFullError(EyasError):
    """The server has as many requests as it takes."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class DrainingError(EyasError):
    """The server is about to end."""


class DeadlineError(EyasError):
    """A request took longer than it may."""


NOTHING = Piece("", ())


@dataclass(frozen=True, slots=True)
class Update:
    """News of one job: what a cycle gave it, its end, or both.

    Attributes:
        cycle: tree and verdict; None for the prefill's token.
        seconds: since the job's prefill began.
        num_reused: prompt tokens that a cache held already.
        answer: with the last piece.
        error: what ended the job before its answer was whole; nothing else is told then.
    """

    piece: Piece = NOTHING
    cycle: Cycle | None = None
    seconds: float = 0.0
    num_reused: int = 0
    answer: Answer | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.answer is not None or self.error is not None


@dataclass(eq=False)
class Job:
    """An answer to make.

    Attributes:
        max_new_tokens: of its request, for the cache budget.
        deliver: takes each update, on the engine's thread: it must be quick.
        client: whose turn in the queue this is.
        deadline: seconds from now on.
    """

    request: Request
    engine: Engine
    max_new_tokens: int
    deliver: Callable[[Update], None]
    client: str = ""
    deadline: float = 600.0
    submitted: float = field(default_factory=perf_counter)
    is_cancelled: bool = False  # nobody waits for it any more
    began: float | None = None  # its prefill
    latest: float | None = None  # its newest tokens
    run: Run | None = None

    @property
    def tokens(self) -> int:
        """What its caches may come to hold: prompt, answer and a tree."""
        limit = self.engine.runtime.target.context_limit
        tree = 1 + self.request.tree.draft_tokens
        return min(limit, len(self.request.prompt_ids) + self.max_new_tokens) + tree

    def is_overdue(self, now: float) -> bool:
        """Whether its deadline is over."""
        return now - self.submitted > self.deadline
