"""Prompt lookup in cost-aware trees: the tree includes the continuation of the newest n-gram's last
occurrence.

An answer repeats its prompt and itself, above all in summaries, code and lists, and a small draft network is
poor at copying over hundreds of tokens. So a cost-aware tree includes one chain that is looked up, as in
prompt lookup decoding (Apoorv Saxena, 2023). It costs no pass of the network, which does not run at all where
the chain is likely enough. How likely it is depends on how many of the newest tokens also stand before it:

    text        the cat sat on the mat . Then the cat sat on ?
    matched     the cat sat on                                    4 tokens: "the", then with 5 "mat", ...

The initial rates by that number were measured on greedy and on sampled answers (docs/log.md, 2026-11-28);
what becomes of the chains in an answer corrects them. A method that finds continuations by itself
(`eyas.drafters.ranked.ContinuationSession`) supplies the chain instead, with rates of the same kind.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from eyas.drafters.copies import MOST
from eyas.drafters.ranked import Continuation
from eyas.drafters.tree_builder import NO_CHAIN, ExpectedChain

# Rates of a token by how many tokens before it matched: this many, and up to the next number.
MATCHED = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
GREEDY_RATES = (0.2, 0.35, 0.53, 0.64, 0.74, 0.81, 0.85, 0.91, 0.94, 0.97)
SAMPLED_RATES = (0.1, 0.2, 0.31, 0.41, 0.54, 0.66, 0.75, 0.86, 0.90, 0.90)  # at temperature 1
PRIOR = 8  # observations that the initial rates count for
LEAST_VALUE = 0.02  # a chain ends before tokens that are less likely

Find = Callable[[Sequence[int], int], Continuation]  # of a text, at most so many tokens


class ExpectedChains:
    """The continuations of one answer with their acceptance rates, which follow what becomes of them.

    Args:
        find: looks for a continuation.
        temperature: of the answer's sampling.
    """

    def __init__(self, find: Find, temperature: float = 0.0) -> None:
        sampled = min(1.0, temperature)
        pairs = zip(GREEDY_RATES, SAMPLED_RATES, strict=True)
        self._find = find
        self._hits = [PRIOR * (greedy + sampled * (other - greedy)) for greedy, other in pairs]
        self._tries = [float(PRIOR)] * len(MATCHED)
        self._last, self._last_length = Continuation(), 0  # what was found, and for a text of which length

    def after(self, token_ids: Sequence[int], count: int) -> ExpectedChain:
        """Up to `count` tokens that may follow `token_ids`, the text of the previous call and more."""
        self._learn(token_ids)
        found = self._find(token_ids, min(count, MOST))
        rates: list[float] = []
        value = 1.0
        for at in range(len(found.token_ids)):
            rates.append(self._rate(found.matched + at))
            value *= rates[-1]
            if value < LEAST_VALUE:
                break
        kept = found.token_ids[: len(rates)]
        self._last, self._last_length = Continuation(kept, found.matched), len(token_ids)
        return ExpectedChain(kept, rates) if kept else NO_CHAIN

    def _rate(self, matched: int) -> float:
        at = _bucket(matched)
        return self._hits[at] / self._tries[at]

    def _learn(self, token_ids: Sequence[int]) -> None:
        """Count which tokens of the previous chain came true, up to the first that did not."""
        came = token_ids[self._last_length :]
        for offset, (expected, token) in enumerate(zip(self._last.token_ids, came, strict=False)):
            at = _bucket(self._last.matched + offset)
            self._tries[at] += 1
            if expected != token:
                return
            self._hits[at] += 1


def _bucket(matched: int) -> int:
    return bisect_right(MATCHED, matched) - 1
