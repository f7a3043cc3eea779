"""A fair queue: clients take turns, and each client's own jobs stay in order."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class FairQueue(Generic[Job]):
    """Jobs by client. A client with many of them waits behind its own, not before everybody else's."""

    def __init__(self) -> None:
        self._clients: OrderedDict[Hashable, deque[Job]] = OrderedDict()  # the first one's turn is next

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._clients.values())

    def push(self, client: Hashable, job: Job) -> None:
        """Put a job behind its client's others; a client without any gets the last turn."""
        self._clients.setdefault(client, deque()).append(job)

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
