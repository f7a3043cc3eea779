"""Copies: what followed the newest tokens where the text had them before.

An answer repeats its prompt and itself, in summaries and code and lists above all, and a small draft head is
poor at copying over hundreds of tokens. So trees of measured size hold, beside what the head drafts, one
chain that is looked up, as in prompt lookup decoding (Apoorv Saxena, 2023); it costs no pass of the head, and
where it is likely enough the head is not asked at all. How likely it is depends on how many of the newest
tokens were found again:

    text        the cat sat on the mat . Then the cat sat on ?
    found       the cat sat on                                    4 tokens: "the", then with 5 "mat", ...

Rates by that number are those that greedy and drawn answers showed (docs/log.md, 2026-11-28), corrected by
what became of the copies in this answer.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from eyas.drafters.ngrams import NgramEnds
from eyas.engine.tree import before_stop

SIZES = (8, 4, 2)  # of n-grams that are looked for, the longest first
# Rates of a copied token by how many tokens before it were found again: so many, and up to the next number.
FOUND = (2, 3, 4, 6, 8, 12, 16, 24)
GREEDY_RATES = (0.53, 0.64, 0.74, 0.81, 0.85, 0.91, 0.94, 0.97)
DRAWN_RATES = (0.31, 0.41, 0.54, 0.66, 0.75, 0.86, 0.90, 0.90)  # at temperature 1
PRIOR = 8  # observations that these count for
MOST = 32  # tokens of a chain
LEAST_VALUE = 0.02  # a chain ends before tokens that are less likely


@dataclass(frozen=True, slots=True)
class Copied:
    """A chain below the root, and the rate at which each token is accepted if the one before was."""

    token_ids: Sequence[int] = ()
    rates: Sequence[float] = ()

    def __bool__(self) -> bool:
        return bool(self.token_ids)


NOTHING = Copied()


class Copies:
    """The lookups of one answer.

    Args:
        temperature: of its draws.
        stops: a copy ends before these tokens.
    """

    def __init__(self, temperature: float = 0.0, stops: Collection[int] = ()) -> None:
        drawn = min(1.0, temperature)
        pairs = zip(GREEDY_RATES, DRAWN_RATES, strict=True)
        self._stops = stops
        self._ends = NgramEnds(SIZES)
        self._hits = [PRIOR * (greedy + drawn * (other - greedy)) for greedy, other in pairs]
        self._tries = [float(PRIOR)] * len(FOUND)
        self._last = _Lookup(0)

    def after(self, token_ids: Sequence[int], count: int) -> Copied:
        """Up to `count` tokens that may follow `token_ids`, which is the text of the last call and more."""
        self._learn(token_ids)
        found, start = self._longest(token_ids)
        self._last = _Lookup(len(token_ids), found)
        if not found:
            return NOTHING
        text = list(token_ids[start : start + MOST])
        while len(text) < MOST:  # the copy reaches into itself: a loop
            text += text[: MOST - len(text)]
        chain = before_stop(text[: max(0, count)], self._stops)
        rates: list[float] = []
        value = 1.0
        for at in range(len(chain)):
            rates.append(self._rate(found + at))
            value *= rates[-1]
            if value < LEAST_VALUE:
                break
        self._last.token_ids = chain[: len(rates)]
        return Copied(self._last.token_ids, rates)

    def _longest(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """How many of the newest tokens were found again, at most MOST, and where what followed them begins.

        Looked for are the longest n-grams first, of equal ones the last; (0, 0) if none is found.
        """
        self._ends.read(token_ids)
        length = len(token_ids)
        for n in SIZES:
            end = self._ends.end(token_ids[-n:]) if n < length else None
            if end is None:
                continue
            while n < min(end, MOST) and token_ids[end - n - 1] == token_ids[length - n - 1]:
                n += 1
            return n, end
        return 0, 0

    def _rate(self, found: int) -> float:
        at = _bucket(found)
        return self._hits[at] / self._tries[at]

    def _learn(self, token_ids: Sequence[int]) -> None:
        """What was looked up last time either came or did not."""
        last = self._last
        for offset, (copied, token) in enumerate(zip(last.token_ids, token_ids[last.length :], strict=False)):
            at = _bucket(last.found + offset)
            self._tries[at] += 1
            if copied != token:
                return
            self._hits[at] += 1


def _bucket(found: int) -> int:
    """Which of the rates is that of a token behind so many found again."""
    return bisect_right(FOUND, found) - 1


@dataclass(slots=True)
class _Lookup:
    """The last one."""

    length: int  # of the text
    found: int = 0
    token_ids: Sequence[int] = field(default_factory=tuple)
