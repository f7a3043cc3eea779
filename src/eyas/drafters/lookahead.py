"""Lookahead decoding: the target writes n-grams ahead of the text, and they are proposed where they fit.

Source: lookahead decoding (arXiv 2402.02057), with its code's W = 7 columns, levels N = 5 and G = 7 guesses.

The *window* holds N - 1 rows of guessed tokens. Row 0 continues the root; the token of row r in column i was
chosen by the target after row r - 1's in that column. One pass asks the target for one more row:

    column      0      1      2      ...            a row of the pass sees, besides the text:
    row 0     root   w[0]   w[1]                      row 0:  the root and row 0 up to its column
    row 1     w1[0]  w1[1]  w1[2]                     row r:  row 0 up to its column, then rows 1..r in it
    row 2     w2[0]  w2[1]  w2[2]
    new       after row 2, in each column

That is a tree: row 0 is a chain below the root, and in the rows below it a token's parent stands right above.
Mask and positions (root + row + column) follow from the parents alone, so the window makes a tree's auxiliary
rows. Read downwards, columns are n-grams: a token and the N - 1 below it. They go to a pool, where each token
keeps the G that were seen last. Those of the root are proposed; guesses that begin alike share nodes.

After each pass the window moves on by one position, however many tokens were accepted: row 1 becomes row 0,
and so on. It starts as row 0 alone, drawn from the prompt's tokens, with N - 2 tokens too many; each of the
first N - 2 cycles, which decode plainly, adds a row and takes the first column away.

Cost-aware trees (tree="auto") make no sense here and are refused: most of a pass is the window, which is
needed whole to find n-grams at all, and the pool does not rank its guesses.

Above temperature 0 the window's tokens are the target's draws too. Where the context is too short for the
window only the pool is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np

from eyas.config import Option
from eyas.drafters.registry import register_drafter
from eyas.engine.interfaces import DraftContext, DraftFiles, DraftOptions, Features, Runtime
from eyas.engine.tree import Auxiliary, DraftTree, before_stop, trie

Ngram = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookaheadOptions(DraftOptions):
    """Sizes of the window and of the pool."""

    lookahead_window: Annotated[int, Option("columns of the window (W in the paper)", at_least=1)] = 7
    lookahead_level: Annotated[int, Option("tokens of an n-gram (N in the paper)", at_least=3)] = 5
    lookahead_guesses: Annotated[
        int, Option("n-grams kept and proposed for each first token (G in the paper)", at_least=1)
    ] = 7

    @property
    def own_draft_tokens(self) -> int:
        """Window and guesses, N - 1 rows of each; while it fills, the window's first row is longer."""
        rows = self.lookahead_level - 1
        return rows * (self.lookahead_window + self.lookahead_guesses) + rows


@register_drafter("lookahead", options=LookaheadOptions)
class Lookahead:
    """Lookahead decoding: n-grams that the target writes ahead; needs no draft model."""

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:  # noqa: ARG003 - it needs neither
        """Nothing to load."""
        return cls()

    def open(self) -> "LookaheadSession":
        """A session without a window."""
        return LookaheadSession()


class Window:
    """N - 1 rows of tokens ahead of a root; fewer while it warms up.

    Row 0 lacks column 0, which is the root's.
    """

    def __init__(self, first_row: Sequence[int], level: int) -> None:
        self.rows = [list(first_row)]
        self._level = level

    @property
    def depth(self) -> int:
        """How far below the root the last token of the last row stands."""
        return len(self.rows[0]) + len(self.rows) - 1

    def parents(self, num_nodes: int) -> list[int]:
        """Per token, row by row, what it follows: the root, 0, or an earlier token, from `num_nodes` on."""
        above = [0, *range(num_nodes, num_nodes + len(self.rows[0]))]
        parents = above[:-1]
        for row in self.rows[1:]:
            first = num_nodes + len(parents)
            parents += above
            above = [*range(first, first + len(row))]
        return parents

    def advance(self, root: int, new: list[int]) -> list[tuple[int, Ngram]]:
        """Take the target's tokens after the last row; returns the n-grams that they complete."""
        rows = self.rows
        if len(rows) < self._level - 1:
            self.rows = [row[1:] for row in rows] + [new if len(rows) == 1 else new[1:]]
            return []
        self.rows = [rows[1][1:], *rows[2:], new]
        return list(zip([root, *rows[0]], zip(*rows[1:], new, strict=True), strict=True))


class Pool:
    """Per first token the `size` n-grams that were seen last, the oldest first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ngrams: dict[int, dict[Ngram, None]] = {}  # inner dictionaries are ordered sets

    def add(self, first: int, rest: Ngram) -> None:
        """An n-gram was seen."""
        kept = self._ngrams.setdefault(first, {})
        kept.pop(rest, None)
        kept[rest] = None
        if len(kept) > self._size:
            del kept[next(iter(kept))]

    def after(self, first: int) -> list[Ngram]:
        """What was seen after a token."""
        return list(self._ngrams.get(first, ()))


class LookaheadSession:
    """One sequence's window and pool."""

    num_forwards = 0

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002 - both start again
        """A window of the prompt's tokens, drawn by a generator of the answer's own, and an empty pool."""
        options, sampler = context.options, context.sampler
        assert isinstance(options, LookaheadOptions), "the options of this method"
        size = options.lookahead_window + options.lookahead_level - 3
        drawn = np.random.default_rng([sampler.seed, sampler.choice]).choice(context.prompt_ids, size)
        self._window = Window(drawn.tolist(), options.lookahead_level)
        self._pool = Pool(options.lookahead_guesses)
        self._stops = context.stop_token_ids

    def fork(self) -> "LookaheadSession":
        """A new session: nothing is kept from one answer to the next."""
        return LookaheadSession()

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Nothing to remember: `propose` gets all tokens."""

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The root's n-grams, and beside them the window."""
        root, window = token_ids[-1], self._window
        tree = trie(root, (before_stop(rest[:max_depth], self._stops) for rest in self._pool.after(root)))
        if window.depth > max_depth:
            return tree

        def receive(new: list[int]) -> None:
            for first, rest in window.advance(root, new):
                self._pool.add(first, rest)

        tokens = [token for row in window.rows for token in row]
        rows = Auxiliary(
            token_ids=np.array(tokens, dtype=np.int64),
            parents=np.array(window.parents(len(tree.token_ids)), dtype=np.int64),
            receive=receive,
            first_asked=len(tokens) - len(window.rows[-1]),
        )
        return replace(tree, auxiliary=rows)
