"""Prompt lookup: the newest tokens stood in the text before; propose what followed them there.

Source: prompt lookup decoding (Apoorv Saxena, 2023), in the rules of its two implementations. Both look for
the *earliest* occurrence of the newest n tokens, longest n first, and differ in what they take from there:

* "reference" (the original code, also Spec-Bench's), n = 3, 2, 1: exactly `pld_tokens` tokens, or nothing
  where fewer follow.
* "transformers" (`prompt_lookup_num_tokens`), n = 2, 1: up to `pld_tokens` tokens, as many as there are.

* "follow" is eyas's own (`eyas.drafters.copies`): the *last* occurrence of the newest 8, 4 or 2 tokens, the
  copy followed for as long as it goes on, and behind a change, as an edited text needs it.

The default is transformers' rule: it drafts through a repetition that has only just begun, such as a list's
or a loop's, where the reference still waits for ten tokens; and a short draft costs a pass little.

Where nothing is found nothing is proposed. A stop token ends the draft before itself: if all before it is
accepted, the target's own next token is that stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from eyas.config import Option
from eyas.drafters.copies import CopyFinder
from eyas.drafters.ngrams import NgramEnds
from eyas.drafters.ranked import Continuation, ContinuationSession
from eyas.drafters.registry import register_drafter
from eyas.engine.interfaces import DraftContext, DraftFiles, DraftOptions, Features, Runtime
from eyas.engine.tree import DraftTree, before_stop, chain

PldRule = Literal["transformers", "reference", "follow"]
_MAX_NGRAM = {"transformers": 2, "reference": 3, "follow": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class PldOptions(DraftOptions):
    """What is looked for, and how much is taken."""

    pld_rule: Annotated[
        PldRule,
        Option(
            "transformers: propose as many tokens as follow; reference: all --pld-tokens or none; follow: "
            "go on with a copy, behind a change too"
        ),
    ] = "transformers"
    pld_max_ngram: Annotated[
        int | None,
        Option(
            "length of the longest n-gram looked for; without it 2, or 3 by the reference's rule", at_least=1
        ),
    ] = None
    pld_tokens: Annotated[int, Option("tokens proposed at once", at_least=1)] = 10

    @property
    def max_ngram(self) -> int:
        """The longest n."""
        return self.pld_max_ngram or _MAX_NGRAM[self.pld_rule]

    @property
    def own_draft_tokens(self) -> int:
        """The tokens proposed at once."""
        return self.pld_tokens


@register_drafter("pld", options=PldOptions)
class PromptLookup:
    """Prompt lookup: repeats what followed the newest tokens before; needs no draft model."""

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:  # noqa: ARG003 - it needs neither
        """Nothing to load."""
        return cls()

    def open(self) -> "PldSession":
        """A session without text."""
        return PldSession()


class PldSession(ContinuationSession):
    """One sequence's n-grams."""

    num_forwards = 0

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002 - tokens are read again
        """Start without text."""
        assert isinstance(context.options, PldOptions), "the options of this method"
        self._options = context.options
        self._stops = context.stop_token_ids
        self._ends = NgramEnds(range(1, self._options.max_ngram + 1), first=True)
        self._prediction = list(context.prediction_ids)
        self._copies: CopyFinder | None = None
        if self._options.pld_rule == "follow":
            self._copies = CopyFinder(self._stops, self._prediction, len(context.prompt_ids))

    def fork(self) -> "PldSession":
        """A new session: nothing is kept from one answer to the next."""
        return PldSession()

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Nothing to remember: `propose` gets all tokens."""

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """A chain of what followed, cut before a stop token and at `max_depth`."""
        return chain(token_ids[-1], self.continuation(token_ids, max_depth).token_ids)

    def continuation(self, token_ids: Sequence[int], max_depth: int) -> Continuation:
        """The same, with the length of the n-gram that was found."""
        if self._copies is not None:
            return self._copies(token_ids, min(max_depth, self._options.pld_tokens))
        text = [*self._prediction, *token_ids] if self._prediction else token_ids
        self._ends.read(text)
        n, found = self._lookup(text)
        return Continuation(before_stop(found[:max_depth], self._stops), n)

    def _lookup(self, token_ids: Sequence[int]) -> tuple[int, Sequence[int]]:
        """n, and the continuation by the rule; what follows the earliest occurrence is longest."""
        length, count = len(token_ids), self._options.pld_tokens
        for n in range(min(self._options.max_ngram, length - 1), 0, -1):
            start = self._ends.end(token_ids[-n:])
            if start is None:
                continue
            if self._options.pld_rule == "reference" and (start + count > length or start >= length - n):
                continue
            return n, token_ids[start : start + count]
        return 0, []
