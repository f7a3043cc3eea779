"""Continuous batching: answers join and leave between cycles, and one pass of the target serves all.

One thread owns the engine. It goes round in small steps: drop what was cancelled or is overdue, start what
fits, read a part of a prompt, step everything that writes, tell the news. An answer's ids do not depend on
its company (docs/laws.md, L8); it keeps its own tree, sampler, seed and method. Nothing waits longer than a
cycle and a part of a prompt: not a newcomer's neighbours, and not a client that has gone.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from time import perf_counter
from typing import Any, TypeVar

from eyas.api.answer import Answer
from eyas.engine.cycle import PREFILL_ROWS, Piece, Run
from eyas.errors import CapacityError
from eyas.serve.jobs import DeadlineError, DrainingError, Job, QueueFullError, Update
from eyas.serve.kept import KeptRuns
from eyas.serve.metrics import ServerMetrics
from eyas.serve.waiting import FairQueue

Prefill = Generator[None, None, tuple[Run, Piece]]
Result = TypeVar("Result")

LONGEST_RETRY = 60  # seconds that a refused client is told to wait at most
MEMORY = 0.1  # weight of the newest job in the mean time of a job

log = logging.getLogger(__name__)


class Scheduler:
    """Makes answers, many at a time, on a thread of its own.

    Args:
        metrics: where the counts go.
        max_concurrent: answers under way at a time.
        max_queue: answers that may wait beside.
        limit_tokens: what the caches of all answers under way, and of those kept, may hold.
        keep: finished runs whose caches are kept for a later turn.
    """

    def __init__(
        self, metrics: ServerMetrics, *, max_concurrent: int, max_queue: int, limit_tokens: int, keep: int
    ) -> None:
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._max_queue = max_queue
        self._limit_tokens = limit_tokens
        self._changed = Condition()  # guards what other threads touch: queue, calls, count and end
        self._waiting: FairQueue[Job] = FairQueue()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._taken = 0  # jobs that have not ended
        self._is_closed = False
        self._reading: deque[tuple[Job, Prefill]] = deque()
        self._writing: list[Job] = []
        self._kept = KeptRuns(keep)
        self._mean_seconds = 1.0  # of a job, once it has begun
        self._thread = Thread(target=self._work, name="eyas-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

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
                self._waiting.push(job.client, job)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more: they end before the next cycle."""
        with self._changed:
            for job in jobs:
                job.is_cancelled = True
            self._changed.notify()

    def call(self, function: Callable[[], Result]) -> "Future[Result]":
        """Run something on the engine's thread, between two cycles: loading a method, measuring."""
        future: Future[Result] = Future()
        with self._changed:
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def cut_off(self) -> None:
        """After the cycle that is under way, end all answers with an error; returns at once."""
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
                while not (self._has_work() or self._is_closed):
                    self._changed.wait()
                if self._is_closed:
                    break
                calls, self._calls = self._calls, deque()
            for function, future in calls:
                _answer_call(function, future)
            try:
                self._round()
            except Exception as error:  # a bug of ours must not take the server along
                log.exception("a round of the scheduler failed")
                self._end_all(error)
        self._end_all(DrainingError("the server ended before the answer was whole; ask another one."))

    def _has_work(self) -> bool:
        return bool(self._calls or len(self._waiting) or self._reading or self._writing)

    def _round(self) -> None:
        self._sweep()
        while self._begin():
            pass
        self._read()
        self._write()
        self._measure()

    def _sweep(self) -> None:
        """Drop what was cancelled or is overdue, wherever it stands."""
        now = perf_counter()

        def is_over(job: Job) -> bool:
            return job.is_cancelled or job.is_overdue(now)

        with self._changed:
            dropped = self._waiting.remove(is_over)
        dropped += [job for job, _ in self._reading if is_over(job)]
        dropped += [job for job in self._writing if is_over(job)]
        for job in dropped:
            if job.run is not None:  # between two cycles: its caches are as good as those of an ended run
                self._kept.keep(job.engine, job.run)
            self._end(job, None if job.is_cancelled else _overdue(job))
        self._forget(dropped)

    def _begin(self) -> bool:
        """Start the prefill of the job whose turn it is, if it fits."""
        under_way = [job for job, _ in self._reading] + self._writing
        with self._changed:
            job = self._waiting.first()
            room = self._limit_tokens - sum(other.tokens for other in under_way)
            if job is None or len(under_way) >= self._max_concurrent or job.tokens > room:
                return False
            self._waiting.pop()
        earlier = self._kept.take(job.engine, job.request.prompt_ids)
        self._kept.shrink(room - job.tokens)
        job.began = perf_counter()
        self._metrics.queued.observe(job.began - job.submitted)
        self._reading.append((job, job.engine.prefill(job.request, earlier)))
        return True

    def _read(self) -> None:
        """Read parts of prompts, in turns, about as many rows as one pass takes."""
        rows = 0
        while self._reading and rows < PREFILL_ROWS:
            job, prefill = self._reading.popleft()
            rows += min(PREFILL_ROWS, len(job.request.prompt_ids))
            try:
                next(prefill)
                self._reading.append((job, prefill))
            except StopIteration as done:
                job.run, piece = done.value
                self._writing.append(job)
                self._metrics.prompt(len(job.request.prompt_ids), job.run.num_reused)
                self._tell(job, piece)
            except Exception as error:
                self._end(job, error)

    def _write(self) -> None:
        """One cycle of all that write."""
        live = [job for job in self._writing if job.run is not None and not job.run.is_finished]
        if live:
            outcomes = live[0].engine.try_step([job.run for job in live if job.run is not None])
            for job, outcome in zip(live, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    self._end(job, outcome)
                    self._forget([job])
                else:
                    self._tell(job, outcome)
        ended = [job for job in self._writing if job.run is not None and job.run.is_finished]
        for job in ended:
            assert job.run is not None, "it has written"
            self._kept.keep(job.engine, job.run)
        self._forget(ended)

    def _tell(self, job: Job, piece: Piece) -> None:
        """Pass on what a cycle gave, with the whole answer if that was its end."""
        run, now = job.run, perf_counter()
        assert run is not None, "it has begun"
        assert job.began is not None, "it has begun"
        if job.latest is None:
            self._metrics.first_token.observe(now - job.submitted)
        between = None if job.latest is None else now - job.latest
        self._metrics.cycle(run.last_cycle, len(piece.tokens), between)
        job.latest = now
        answer = Answer.of(run, {}) if run.is_finished else None
        if answer is not None:
            self._leave(answer.finish_reason, answer, now - job.submitted)
            self._mean_seconds += MEMORY * (now - job.began - self._mean_seconds)
        job.deliver(Update(piece, run.last_cycle, now - job.began, run.num_reused, answer))

    def _end(self, job: Job, error: Exception | None) -> None:
        """A job ends before its answer is whole: by an error, or because nobody waits for it."""
        reason = "abort" if error is None else "error"
        self._leave(reason, None, perf_counter() - job.submitted)
        job.run = None
        if error is not None:
            job.deliver(Update(error=error))

    def _leave(self, reason: str, answer: Answer | None, seconds: float) -> None:
        with self._changed:
            self._taken -= 1
        self._metrics.ended(reason, answer, seconds)

    def _forget(self, jobs: Sequence[Job]) -> None:
        if jobs:
            self._writing = [job for job in self._writing if job not in jobs]
            self._reading = deque(pair for pair in self._reading if pair[0] not in jobs)

    def _end_all(self, error: Exception) -> None:
        """Every job ends with `error`, waiting ones too."""
        with self._changed:
            jobs = self._waiting.remove(lambda _: True)
            calls, self._calls = self._calls, deque()
        jobs += [job for job, _ in self._reading] + self._writing
        self._reading, self._writing = deque(), []
        for job in jobs:
            self._end(job, error)
        for _, future in calls:
            future.set_exception(error)

    def _measure(self) -> None:
        under_way = [job for job, _ in self._reading] + self._writing
        self._metrics.running.set(len(under_way))
        self._metrics.waiting.set(len(self._waiting))
        held = sum(job.tokens for job in under_way) + self._kept.tokens
        self._metrics.cache_usage.set(held / self._limit_tokens)

    def _retry_after(self) -> int:
        """Seconds until about what is here now has ended."""
        rounds = max(1.0, self._taken / self._max_concurrent)
        return max(1, min(LONGEST_RETRY, round(rounds * self._mean_seconds)))


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
