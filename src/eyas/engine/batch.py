"""Continuous batching: answers join and leave between steps, and one pass of the target serves all of them.

    batch = Batch(PrefixCache(8))
    batch.admit(engine, [request])
    while len(batch):
        for run, piece in batch.step():
            ...

A step is short: it reads a part of a prompt, or makes one cycle of all answers under way, in turns. So
nothing waits longer than that: neither the answers under way for a new one, nor another thread for the model.
The ids of an answer do not depend on the batch (docs/laws.md, L8); each has its own tree, sampler, seed and
method.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from eyas.engine.cycle import PREFILL_TOKENS, Engine, Piece, Request, Run
from eyas.engine.prefix_cache import PrefixCache

Prefill = Generator[None, None, list[Piece]]
Outcome = tuple[Run, Piece | Exception]


class Batch:
    """Answers under way on one runtime.

    Args:
        prefixes: where the caches of ended and cancelled answers go, and new ones look for theirs.
    """

    def __init__(self, prefixes: PrefixCache | None = None) -> None:
        self._prefixes = PrefixCache(0) if prefixes is None else prefixes
        self._reading: deque[tuple[list[Run], Prefill]] = deque()
        self._writing: list[Run] = []
        self._has_read = False  # the last step did

    def __len__(self) -> int:
        """Answers under way."""
        return len(self._writing) + sum(len(runs) for runs, _ in self._reading)

    def admit(self, engine: Engine, requests: Sequence[Request]) -> list[Run]:
        """Take in requests with one prompt, which is read once for all of them, beginning with the next step.

        Raises:
            CapacityError, ConfigError: the prompt does not fit the model (`TargetInfo.check_prompt`).
        """
        prompt_ids = requests[0].prompt_ids
        engine.runtime.target.check_prompt(prompt_ids)
        first = engine.open(requests[0], self._prefixes.take(engine, prompt_ids))
        runs = [first, *(engine.open(request) for request in requests[1:])]
        self._reading.append((runs, engine.prefill(runs)))
        return list(runs)

    def step(self) -> list[Outcome]:
        """Read a part of a prompt, or make one cycle of all runs that are past theirs.

        Returns:
            What some runs have got. After an exception or a piece with a `finish_reason` a run has left the
            batch.
        """
        self._has_read = bool(self._reading) and not (self._has_read and self._writing)
        try:
            outcomes = self._read() if self._has_read else self._write()
        except BaseException:  # interrupted within a cycle: tokens and caches may disagree
            self._reading.clear()
            self._writing.clear()
            raise
        ended = [run for run, outcome in outcomes if isinstance(outcome, Exception) or run.is_finished]
        self._writing = [run for run in self._writing if run not in ended]
        for run, outcome in outcomes:
            if isinstance(outcome, Piece) and run.is_finished:
                self._prefixes.keep(run)
        return outcomes

    def cancel(self, run: Run) -> None:
        """Take a run out. Its tokens and caches agree between two steps: a later prompt may go on from it."""
        if run in self._writing:
            self._writing.remove(run)
            self._prefixes.keep(run)
        for runs, _ in self._reading:
            if run in runs:
                runs.remove(run)
        self._reading = deque(group for group in self._reading if group[0])

    def _read(self) -> list[Outcome]:
        """Read parts of prompts, in turns, about as many tokens as one pass takes."""
        outcomes: list[Outcome] = []
        tokens = 0
        while self._reading and tokens < PREFILL_TOKENS:
            runs, prefill = self._reading.popleft()
            tokens += min(PREFILL_TOKENS, len(runs[0].request.prompt_ids))
            try:
                next(prefill)
                self._reading.append((runs, prefill))
            except StopIteration as done:
                pieces: list[Piece] = done.value
                self._writing += runs
                outcomes += zip(runs, pieces, strict=True)
            except Exception as error:
                outcomes += [(run, error) for run in runs]
        return outcomes

    def _write(self) -> list[Outcome]:
        """One cycle."""
        if not self._writing:
            return []
        # Whichever engine steps: they share the runtime, and each run has a drafter of its own.
        outcomes = self._writing[0].engine.try_step(self._writing)
        return list(zip(self._writing, outcomes, strict=True))


def run_all(
    engine: Engine,
    groups: Iterable[Sequence[Request]],
    size: int,
    lock: AbstractContextManager[object] | None = None,
) -> Iterator[tuple[Request, Run | Exception]]:
    """Answer many requests, `size` at a time; yields them in the order in which they end.

    The seconds of an answer are those of the batch: each pass serves all runs, and counts in full for each of
    them.

    Args:
        engine: that answers.
        groups: requests with one prompt each (`Batch.admit`); a group larger than `size` runs by itself.
        size: answers under way at a time.
        lock: held during each step, where other threads use the model, too.

    Yields:
        A request with its finished run, or with the error that ended it; the others go on. A run must be read
        before the next one is asked for: then its caches may serve another request.
    """
    batch, waiting = Batch(PrefixCache(size)), iter(groups)
    group = next(waiting, None)
    while group is not None or len(batch):
        while group is not None and (len(batch) + len(group) <= size or not len(batch)):
            try:
                batch.admit(engine, group)
            except Exception as error:
                yield from ((request, error) for request in group)
            group = next(waiting, None)
        with lock or nullcontext():
            outcomes = batch.step()
        for run, outcome in outcomes:
            if isinstance(outcome, Exception):
                yield run.request, outcome
            elif outcome.finish_reason is not None:
                yield run.request, run
