"""What an answer copies: the text before it, an original that it edits, a prediction of it.

Prompt lookup (Apoorv Saxena, 2023) searches for the newest tokens again in every cycle. Here a copy is
also followed for as long as it lasts, and behind a change.
"""

from collections.abc import Collection, Sequence

from eyas.drafters.ngrams import NgramEnds
from eyas.drafters.ranked import Continuation
from eyas.engine.tree import before_stop

SIZES = (8, 4, 2)  # n-grams that are looked up, the longest first
MOST = 32  # tokens of a continuation
COPIED = 6  # tokens in a row that make a copy, whose place is remembered when it breaks
BEFORE, BEHIND = 12, 48  # tokens around that place in which it may go on
FORGOTTEN = 48  # new tokens after which it will not
FAR = 6  # matching tokens elsewhere count as at most so many against those near the place
NEAR = 1  # further tokens that the neighbourhood counts for
PREDICTED = 8  # tokens that a prediction counts as having been copied when the answer begins


class CopyFinder:
    """Finds what may follow a growing text, by what it copies.

    An edited text is its original but for a few places, so a copy that breaks off goes on behind the change.
    After `COPIED` tokens in a row, the place where the copy broke is kept as an anchor. A match near it
    counts for more than the last occurrence of the same few tokens, and one token is enough there. Until one
    is found, the first new token is taken for a replacement of one token:

        original    total = price * amount ; return total ;
        edited      total = cost  * amount ; return ?
        anchor              ^ price: then comes `*` (guessed), which is found near the anchor, and so on

    What is found is a function of the text since the first call, however many tokens a call brings.

    Args:
        stops: a continuation ends before these tokens.
        prediction: what the answer is expected to be for the most part; it stands before the text, and the
            answer begins as a copy of it.
        prompt_length: tokens before the answer; used with a prediction.
    """

    def __init__(
        self, stops: Collection[int] = (), prediction: Sequence[int] = (), prompt_length: int = 0
    ) -> None:
        self._stops = stops
        self._prediction = list(prediction)
        self._ends = NgramEnds(SIZES)
        self._length = 0  # of the text so far
        self._place: int | None = None  # where the copy goes on; None while there is none
        self._run = 0  # tokens in a row that it has copied
        self._is_near = False  # whether it was found near the anchor
        self._anchor: int | None = None  # where the last long copy broke off
        self._num_new = 0  # tokens since then
        if prediction:
            self._length = len(prediction) + prompt_length
            self._place, self._run = 0, PREDICTED

    def __call__(self, token_ids: Sequence[int], count: int) -> Continuation:
        """At most `count` tokens that may follow `token_ids`, the text of the previous call and more."""
        if self._prediction:
            token_ids = [*self._prediction, *token_ids]
        first = self._length + 1 if self._length else len(token_ids)
        for length in range(first, len(token_ids) + 1):
            self._step(token_ids, length)
        self._length = len(token_ids)
        if self._place is not None:
            matched = min(self._run, MOST) + (NEAR if self._is_near else 0)
            return self._continuation(token_ids, self._place, matched, count)
        if self._anchor is not None and self._num_new == 1 and self._anchor + 1 < len(token_ids):
            return self._continuation(token_ids, self._anchor + 1, 0, count)
        return Continuation()

    def _continuation(self, token_ids: Sequence[int], start: int, matched: int, count: int) -> Continuation:
        text = list(token_ids[start : start + MOST])
        while len(text) < MOST:  # the continuation reaches into itself: a loop
            text += text[: MOST - len(text)]
        return Continuation(before_stop(text[: max(0, count)], self._stops), matched)

    def _step(self, token_ids: Sequence[int], length: int) -> None:
        """Take in the last token of the first `length` ones."""
        place, self._num_new = self._place, self._num_new + 1
        if place is not None and token_ids[place] == token_ids[length - 1]:
            self._place, self._run = place + 1, self._run + 1
            if self._run >= COPIED:
                self._anchor = None
            if self._run < SIZES[0]:  # a longer match may have come up elsewhere
                matched, found = self._longest(token_ids, length)
                if matched > self._run or (matched == self._run and not self._is_near):
                    self._place, self._run, self._is_near = found, matched, False
            return
        if place is not None and self._run >= COPIED:
            self._anchor, self._num_new = place, 1
        if self._num_new > FORGOTTEN:
            self._anchor = None
        self._run, found = self._longest(token_ids, length)
        near, at = self._nearest(token_ids, length)
        self._is_near = near > 0 and near >= min(self._run, FAR)
        if self._is_near:
            self._run, found = near, at
        self._place = found if self._run else None

    def _longest(self, token_ids: Sequence[int], length: int) -> tuple[int, int]:
        """How many of the newest tokens match, at most MOST, and where their continuation begins.

        The longest n-grams are tried first, and of equal ones the last occurrence counts; (0, 0) if there is
        none.
        """
        self._ends.read(token_ids, length)
        for n in SIZES:
            end = self._ends.end(token_ids[length - n : length]) if n < length else None
            if end is not None:
                return _num_matching(token_ids, length, end), end
        return 0, 0

    def _nearest(self, token_ids: Sequence[int], length: int) -> tuple[int, int]:
        """The same near the anchor, of any number of tokens; of equal ones the first behind the anchor."""
        anchor = self._anchor
        if anchor is None:
            return 0, 0
        best = (0, False, 0, 0)  # matching tokens, whether behind the anchor, closeness, place
        for end in range(max(1, anchor - BEFORE), min(length - 1, anchor + BEHIND) + 1):
            if token_ids[end - 1] == token_ids[length - 1]:
                matching = _num_matching(token_ids, length, end)
                best = max(best, (matching, end > anchor, -abs(end - anchor), end))
        return best[0], best[3]


def _num_matching(token_ids: Sequence[int], length: int, end: int) -> int:
    """How many tokens before `end` are the newest ones before `length`, at most MOST."""
    count = 0
    while count < min(end, MOST) and token_ids[end - count - 1] == token_ids[length - count - 1]:
        count += 1
    return count
