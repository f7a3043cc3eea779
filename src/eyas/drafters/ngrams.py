"""Where the newest tokens of a growing text stood before: what lookups copy from."""

from collections.abc import Iterable, Sequence

Ngram = tuple[int, ...]


class NgramEnds:
    """Where each n-gram of a growing text ended; a step costs the tokens that are new.

    Args:
        sizes: the n of these n-grams.
        first: keep the place where an n-gram ended first, not where it ended last.
    """

    def __init__(self, sizes: Iterable[int], *, first: bool = False) -> None:
        self._ends: dict[int, dict[Ngram, int]] = {n: {} for n in sizes}
        self._first = first
        self._length = 0  # of what was read

    def read(self, token_ids: Sequence[int], length: int | None = None) -> None:
        """Take in what is new, but for the last token: the n-grams that end there are those to look for.

        The text are the first `length` tokens; None are all.
        """
        length = len(token_ids) if length is None else length
        for n, ends in self._ends.items():
            for end in range(max(n, self._length + 1), length):
                ngram = tuple(token_ids[end - n : end])
                if not (self._first and ngram in ends):
                    ends[ngram] = end
        self._length = max(0, length - 1)

    def end(self, ngram: Sequence[int]) -> int | None:
        """Index of the token that followed an n-gram, of one of the sizes; None if none was read."""
        return self._ends[len(ngram)].get(tuple(ngram))
