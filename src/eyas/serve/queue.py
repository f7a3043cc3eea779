"""Jobs that wait for their turn, and the errors by which a server refuses or ends one."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from eyas.engine.cycle import Engine, Piece, Request
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


@dataclass(eq=False)
class Job:
    """A request on its way through the server.

    Attributes:
        max_new_tokens: of the request, for the cache budget. deliver: takes each piece, and the error that
        ends the job early; on the engine's thread, so it must be quick. client: whose turn in the queue this
        is. deadline: seconds from now on.
    """

    request: Request
    engine: Engine
    max_new_tokens: int
    deliver: Callable[[Piece | Exception], None]
    client: str = ""
    deadline: float = 600.0
    submitted: float = field(default_factory=perf_counter)
    is_cancelled: bool = False  # its client has gone
    latest: float | None = None  # when its newest tokens came

    @property
    def tokens(self) -> int:
        """Tokens that its caches may come to hold: prompt, answer and a tree."""
        limit = self.engine.runtime.target.context_limit
        tree = 1 + self.request.options.max_draft_tokens(self.request.tree)
        return min(limit, len(self.request.prompt_ids) + self.max_new_tokens) + tree

    def is_over(self, now: float) -> bool:
        """Whether it has to end now: cancelled, or past its deadline."""
        return self.is_cancelled or now - self.submitted > self.deadline


class FairQueue:
    """Jobs by client. Clients take turns, so one with many jobs does not hold up the others."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()  # the first one's turn is next

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._clients.values())

    def push(self, job: Job) -> None:
        """Put a job behind its client's others; a client without any gets the last turn."""
        self._clients.setdefault(job.client, deque()).append(job)

    def first(self) -> Job | None:
        """The job whose turn it is; it stays."""
        return next((jobs[0] for jobs in self._clients.values()), None)

    def pop(self) -> Job:
        """Take the job whose turn it is; its client's next one waits a full round."""
        client, jobs = self._clients.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            self._clients[client] = jobs
        return job

    def pop_siblings(self, job: Job, wanted: Callable[[Job], bool]) -> list[Job]:
        """Take the further answers to a popped job's prompt, as long as they are wanted."""
        jobs, siblings = self._clients.get(job.client, deque()), list[Job]()
        while jobs and jobs[0].request.prompt_ids is job.request.prompt_ids and jobs[0].engine is job.engine:
            if not wanted(jobs[0]):
                break
            siblings.append(jobs.popleft())
        if not jobs:
            self._clients.pop(job.client, None)
        return siblings

    def num_others(self, client: str) -> int:
        """Other clients that wait."""
        return len(self._clients.keys() - {client})

    def remove(self, unwanted: Callable[[Job], bool]) -> list[Job]:
        """Take out all jobs for which `unwanted` holds."""
        removed: list[Job] = []
        for client, jobs in list(self._clients.items()):
            removed += [job for job in jobs if unwanted(job)]
            left = deque(job for job in jobs if job not in removed)
            if left:
                self._clients[client] = left
            else:
                del self._clients[client]
        return removed
