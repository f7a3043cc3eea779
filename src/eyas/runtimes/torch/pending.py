"""Which tokens of a sequence are committed, which are pending, and what each sees. No framework.

A cache keeps tokens in *slots*: the committed prefix in slots 0..length-1, where slot equals position, then
the pending tokens in the order they came. A pending token has a parent; it sees the prefix, its ancestors and
itself, at position length + depth (docs/laws.md, L6):

    committed      pending: parents [-1, 0, 0, 1]          token 3 sees
    a b c          d(-1)  e(0)  f(0)  g(1)                 a b c d e g
    slot 0 1 2     3      4     5     6                    at position 3 + 2
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyas.engine.tree import Bools, Ints


@dataclass(frozen=True)
class Placement:
    """Slots and positions of the T tokens of one forward.

    Attributes:
        length: committed tokens before them.
        parents: (P + T,) parent of every pending token, those of earlier forwards first; -1 is the prefix.
        depths: (P + T,) depth of every pending token.
        sees: (T, P + T) the pending tokens that each new one sees; None where they continue the prefix as a
            chain, so that ordinary causal attention is right.
    """

    length: int
    parents: Ints
    depths: Ints
    sees: Bools | None
    count: int

    @property
    def positions(self) -> Ints:
        """(T,) positions of the new tokens."""
        return self.length + self.depths[len(self.depths) - self.count :]

    @property
    def key_positions(self) -> Ints:
        """(length + P + T,) positions of all slots."""
        return np.concatenate((np.arange(self.length), self.length + self.depths))


class PathRows:
    """The slots of one sequence, and the tree of the pending ones."""

    def __init__(self) -> None:
        self.length = 0
        self._parents: Ints = np.zeros(0, dtype=np.int64)
        self._depths: Ints = np.zeros(0, dtype=np.int64)

    @property
    def num_pending(self) -> int:
        """Tokens appended since the last commit."""
        return len(self._parents)

    @property
    def num_slots(self) -> int:
        """Committed and pending tokens."""
        return self.length + len(self._parents)

    def place(self, count: int, parents: Ints | None) -> Placement:
        """Slots and positions of `count` new tokens. Nothing is kept before `append`.

        `parents` (count,) index the pending tokens, the new ones included; None continues the last token.
        """
        start = len(self._parents)
        own = np.arange(start, start + count)
        parents = own - 1 if parents is None else np.asarray(parents, dtype=np.int64)
        assert parents.shape == (count,), "one parent per token"
        assert bool(np.all((parents >= -1) & (parents < own))), "parents come before their children"
        every = np.concatenate((self._parents, parents))
        if not start and np.array_equal(parents, own - 1):
            return Placement(self.length, every, own, None, count)

        # All new tokens climb to their ancestors together: as many steps as the tree is deep.
        sees = np.zeros((count, start + count), dtype=np.bool_)
        depths = np.full(count, -1)
        rows, nodes = np.arange(count), own
        while len(rows):
            sees[rows, nodes] = True
            depths[rows] += 1
            nodes = every[nodes]
            inside = nodes >= 0
            rows, nodes = rows[inside], nodes[inside]
        return Placement(self.length, every, np.concatenate((self._depths, depths)), sees, count)

    def append(self, placement: Placement) -> None:
        """The tokens of `placement` are in their slots now."""
        self._parents, self._depths = placement.parents, placement.depths

    def moves(self, path: Sequence[int]) -> tuple[int, Ints]:
        """The copy that a commit of `path` needs: its first target slot, and the slots (M,) that go there."""
        kept = np.asarray(path, dtype=np.int64)
        if not len(kept):
            return self.length, kept
        assert 0 <= kept.min() <= kept.max() < self.num_pending, "a path holds pending tokens"
        above = np.concatenate(([-1], kept[:-1]))
        assert np.array_equal(self._parents[kept], above), (
            "a path starts at the committed prefix, and each row is the parent of the next"
        )
        still = int(np.argmin(np.append(kept == np.arange(len(kept)), False)))
        return self.length + still, self.length + kept[still:]

    def settle(self, count: int) -> None:
        """Count `count` more committed tokens and drop the pending ones."""
        self.length += count
        self._drop()

    def cut(self, length: int) -> None:
        """Keep `length` committed tokens and no pending one."""
        assert 0 <= length <= self.length, f"{self.length} tokens cannot be cut to {length}"
        self.length = length
        self._drop()

    def _drop(self) -> None:
        self._parents, self._depths = self._parents[:0], self._depths[:0]
