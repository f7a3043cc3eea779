"""The server's scheduler: one thread owns the model and makes all answers in one batch.

It goes round in short steps: end what was cancelled or is overdue, admit what fits, make one step of the
batch, pass on what that gave. An answer's ids do not depend on the batch (docs/laws.md, L8). Nothing waits
longer than a step: neither the answers under way for a new one, nor the thread for a client that has gone.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from time import perf_counter
from typing import Any, TypeVar

from eyas.engine.batch import Batch
from eyas.engine.cycle import Piece, Run
from eyas.engine.prefix_cache import PrefixCache
from eyas.errors import CapacityError
from eyas.serve.metrics import ServerMetrics
from eyas.serve.queue import DeadlineError, DrainingError, FairQueue, Job, QueueFullError

Result = TypeVar("Result")

MAX_RETRY_AFTER = 60  # seconds
NEW_WEIGHT = 0.1  # of the newest job in the mean seconds of a job

log = logging.getLogger(__name__)


IDLE_SECONDS = 5.0


class Scheduler:
    """Makes answers, many at a time, on a thread of its own.

    Args:
        metrics: where the counts go.
        max_concurrent: answers under way at a time.
        max_queue: answers that may wait in addition.
        limit_tokens: what the caches of all answers under way and the prefix cache may hold together.
        keep: ended runs whose caches the prefix cache keeps for later prompts.
        on_idle: called on the thread when there has been nothing to do for some seconds.
    """

    def __init__(
        self,
        metrics: ServerMetrics,
        *,
        max_concurrent: int,
        max_queue: int,
        limit_tokens: int,
        keep: int,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_idle = on_idle
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._max_queue = max_queue
        self._limit_tokens = limit_tokens
        self._changed = Condition()  # guards what other threads touch: queue, calls, count and end
        self._waiting = FairQueue()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._taken = 0  # jobs that have not ended
        self._is_closed = False
        self._prefixes = PrefixCache(keep)
        self._batch = Batch(self._prefixes)
        self._jobs: dict[Run, Job] = {}  # under way
        self._mean_seconds = 1.0  # of a job, once it has begun
        self._thread = Thread(target=self._work, name="eyas-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Answers under way."""
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all jobs of a request, or none.

        Raises:
            CapacityError: one could never fit the cache budget.
            QueueFullError: too many wait.
            DrainingError: the server is about to end.
        """
        for job in jobs:
            if job.tokens > self._limit_tokens:
                raise CapacityError(
                    f"prompt and answer may take {job.tokens} tokens of cache, but the server has "
                    f"{self._limit_tokens}; shorten the prompt or lower max_tokens."
                )
        with self._changed:
            if self._is_closed or not self._thread.is_alive():
                raise DrainingError("the server is about to end; ask another one.")
            most = self._max_concurrent + self._max_queue
            if self._taken + len(jobs) > most:
                raise QueueFullError(
                    f"the server has {self._taken} answers to make and takes at most {most}; "
                    "try again later.",
                    self._retry_after(),
                )
            self._taken += len(jobs)
            for job in jobs:
                self._waiting.push(job)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End these before the next step: their client has gone."""
        with self._changed:
            for job in jobs:
                job.is_cancelled = True
            self._changed.notify()

    def call(self, function: Callable[[], Result]) -> "Future[Result]":
        """Run something on the engine's thread, between two steps: loading a method, measuring."""
        future: Future[Result] = Future()
        with self._changed:
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def cut_off(self) -> None:
        """After the step that is under way, end all answers with an error; returns at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread, and with an error whatever is still under way."""
        self.cut_off()
        if self._thread.is_alive():
            self._thread.join()

    # ----- the engine's thread

    def _work(self) -> None:
        while True:
            with self._changed:
                if not (self._has_work() or self._is_closed):
                    self._changed.wait(IDLE_SECONDS)
                if self._is_closed:
                    break
                is_idle = not self._has_work()
                calls, self._calls = self._calls, deque()
            for function, future in calls:
                _answer_call(function, future)
            if is_idle:
                self._be_idle()
                continue
            try:
                self._round()
            except Exception as error:  # a bug in the scheduler must not end the server
                log.exception("a round of the scheduler failed")
                self._end_all(error)
        self._end_all(DrainingError("the server ended before the answer was whole; ask another one."))

    def _be_idle(self) -> None:
        """What may be done between answers; if that fails, those that came meanwhile know nothing of it."""
        try:
            self._on_idle()
        except Exception:
            log.exception("what the scheduler does when idle failed")

    def _has_work(self) -> bool:
        return bool(self._calls or len(self._waiting) or self._jobs)

    def _round(self) -> None:
        self._sweep()
        while self._admit():
            pass
        self._step()
        self._measure()

    def _sweep(self) -> None:
        """End what was cancelled or is overdue, wherever it stands."""
        now = perf_counter()
        with self._changed:
            dropped = self._waiting.remove(lambda job: job.is_over(now))
        for run, job in list(self._jobs.items()):
            if job.is_over(now):
                self._batch.cancel(run)
                del self._jobs[run]
                dropped.append(job)
        for job in dropped:
            self._end(job, None if job.is_cancelled else _overdue(job))

    def _admit(self) -> bool:
        """Admit the job whose turn it is, if it fits, with further answers to its prompt."""
        with self._changed:
            job = self._waiting.first()
            places = self._max_concurrent - len(self._jobs)
            room = self._limit_tokens - sum(other.tokens for other in self._jobs.values())
            if job is None or places < 1 or job.tokens > room:
                return False
            group = [self._waiting.pop()]
            # One place stays for each other client that waits.
            places, room = places - 1 - self._waiting.num_others(job.client), room - job.tokens

            def fits(sibling: Job) -> bool:
                nonlocal places, room
                places, room = places - 1, room - sibling.tokens
                return places >= 0 and room >= 0

            group += self._waiting.pop_siblings(job, fits)
        began = perf_counter()
        for job in group:
            self._metrics.queued.observe(began - job.submitted)
        try:
            runs = self._batch.admit(job.engine, [job.request for job in group])
        except Exception as error:
            for job in group:
                self._end(job, error)
            return True
        self._jobs.update(zip(runs, group, strict=True))
        self._prefixes.shrink(self._limit_tokens - sum(job.tokens for job in self._jobs.values()))
        return True

    def _step(self) -> None:
        """One step of the batch."""
        for run, outcome in self._batch.step():
            job = self._jobs[run]
            if isinstance(outcome, Exception) or outcome.finish_reason is not None:
                del self._jobs[run]
            if isinstance(outcome, Exception):
                self._end(job, outcome)
            else:
                self._tell(job, run, outcome)

    def _tell(self, job: Job, run: Run, piece: Piece) -> None:
        """Deliver a piece, and count it."""
        now = perf_counter()
        if job.latest is None:
            self._metrics.prompt(len(job.request.prompt_ids), piece.num_reused)
            self._metrics.first_token.observe(now - job.submitted)
        self._metrics.cycle(piece, None if job.latest is None else now - job.latest)
        job.latest = now
        if piece.finish_reason is not None:
            self._leave(piece.finish_reason, run, now - job.submitted)
            self._mean_seconds += NEW_WEIGHT * (piece.seconds - self._mean_seconds)
        job.deliver(piece)

    def _end(self, job: Job, error: Exception | None) -> None:
        """End a job before its answer is whole: by an error, or (None) because it was cancelled."""
        self._leave("abort" if error is None else "error", None, perf_counter() - job.submitted)
        if error is not None:
            job.deliver(error)

    def _leave(self, reason: str, run: Run | None, seconds: float) -> None:
        with self._changed:
            self._taken -= 1
        self._metrics.ended(reason, None if run is None else run.stats(), seconds)

    def _end_all(self, error: Exception) -> None:
        """End every job with `error`, also those that wait."""
        with self._changed:
            jobs = self._waiting.remove(lambda _: True)
            calls, self._calls = self._calls, deque()
        for run, job in self._jobs.items():
            self._batch.cancel(run)
            jobs.append(job)
        self._jobs.clear()
        for job in jobs:
            self._end(job, error)
        for _, future in calls:
            future.set_exception(error)

    def _measure(self) -> None:
        self._metrics.running.set(len(self._jobs))
        self._metrics.waiting.set(len(self._waiting))
        held = sum(job.tokens for job in self._jobs.values()) + self._prefixes.tokens
        self._metrics.cache_usage.set(held / self._limit_tokens)

    def _retry_after(self) -> int:
        """Estimated seconds until the jobs of this moment have ended."""
        rounds = max(1.0, self._taken / self._max_concurrent)
        return max(1, min(MAX_RETRY_AFTER, round(rounds * self._mean_seconds)))


def _overdue(job: Job) -> DeadlineError:
    return DeadlineError(
        f"the request took longer than the {job.deadline:g} seconds that it may; ask for a shorter answer."
    )


def _answer_call(function: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
