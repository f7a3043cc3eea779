"""The prefix cache: runs whose caches serve later prompts that begin alike (docs/laws.md, L7)."""

from collections.abc import Sequence
from dataclasses import replace

from eyas.engine.cycle import Engine, Run, common_prefix

MIN_SHARED = 2  # tokens: of a shorter common prefix no row can be kept, see `Engine.open`


class PrefixCache:
    """At most `limit` runs, the least recently used one dropped first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runs: list[Run] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def tokens(self) -> int:
        """Tokens that the caches of all runs hold."""
        return sum(len(run.token_ids) for run in self._runs)

    def keep(self, run: Run) -> None:
        """Keep a run whose tokens and caches agree: it has ended, or stands between two cycles."""
        self._runs.append(run)
        if len(self._runs) > self._limit:
            self._runs.pop(0)

    def take(self, engine: Engine, prompt_ids: Sequence[int]) -> Run | None:
        """For `Engine.open`: the run of this engine with the longest common prefix.

        A prompt that goes on where the run ended, as the next turn of a conversation does, takes the run out
        of the cache. Any other gets a fork, and the run stays for its own next turn.
        """
        best, longest = None, MIN_SHARED - 1
        for run in self._runs:
            common = common_prefix(prompt_ids, run.token_ids) if run.engine is engine else 0
            if common > longest:
                best, longest = run, common
        if best is None:
            return None
        self._runs.remove(best)
        if longest == len(best.token_ids):
            return best
        self._runs.append(best)
        return replace(best, cache=best.cache.fork(longest), session=best.session.fork())

    def shrink(self, tokens: int) -> None:
        """Drop runs until the others hold at most so many tokens."""
        while self._runs and self.tokens > tokens:
            self._runs.pop(0)
