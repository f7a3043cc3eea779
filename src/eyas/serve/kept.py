"""Caches of finished runs, kept for the next turn of their conversations (docs/laws.md, L7)."""

from collections.abc import Sequence

from eyas.engine.cycle import Engine, Run, common_prefix

WORTH = 0.5  # share of a kept run's tokens that a prompt must begin with, or another may need it more


class KeptRuns:
    """At most `limit` runs, the least recently used one dropped first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runs: list[tuple[Engine, Run]] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def tokens(self) -> int:
        """Tokens in the caches of all kept runs."""
        return sum(len(run.token_ids) for _, run in self._runs)

    def keep(self, engine: Engine, run: Run) -> None:
        """Keep a run whose tokens and caches agree: it has ended, or stands between two cycles."""
        self._runs.append((engine, run))
        if len(self._runs) > self._limit:
            self._runs.pop(0)

    def take(self, engine: Engine, prompt_ids: Sequence[int]) -> Run | None:
        """The run of this engine that shares the longest prefix with a prompt, if that is most of the run."""
        best, longest = None, 0
        for index, (owner, run) in enumerate(self._runs):
            common = common_prefix(prompt_ids, run.token_ids) if owner is engine else 0
            if common > max(longest, WORTH * len(run.token_ids)):
                best, longest = index, common
        return None if best is None else self._runs.pop(best)[1]

    def shrink(self, tokens: int) -> None:
        """Drop runs until the others hold at most so many tokens."""
        while self._runs and self.tokens > tokens:
            self._runs.pop(0)
