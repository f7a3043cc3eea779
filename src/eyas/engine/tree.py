"""A draft tree as flat arrays: tokens, parents, values. No model, no cache.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4; the mask is SpecInfer's tree attention (arXiv 2305.09781).

Node 0 is the root: the newest committed token, which the target has not seen yet. Parents stand before
their children, so one left-to-right pass visits a tree in topological order.

    parents [-1, 0, 0, 1, 1]        mask      0 1 2 3 4        depth
            0                             0   x . . . .          0
           / \\                            1   x x . . .          1
          1   2                           2   x . x . .          1
         / \\                              3   x x . x .          2
        3   4                             4   x x . . x          2
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain as chain_iterators
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class DraftTree:
    """Draft tokens under a root.

    Attributes:
        token_ids: (N,) the root's token, then the draft tokens.
        parents: (N,) index of each node's parent; -1 for the root.
        log_values: (N,) natural log of each node's value (product of confidences on its path); root 0.
        proposals: per node with children, the (V,) distribution that they were drawn from, in the order of
            the nodes and without replacement. Only speculative sampling reads it.
        auxiliary: rows that the target computes in the same pass.
        best: gives the tree of the n best candidates, to show what rerank dropped.
        depth: of the deepest node.
    """

    token_ids: Ints
    parents: Ints
    log_values: Floats
    proposals: Mapping[int, Floats] = field(default_factory=dict)
    auxiliary: "Auxiliary | None" = None
    best: "Callable[[int], DraftTree] | None" = field(default=None, repr=False)
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        parents: list[int] = self.parents.tolist()
        assert parents, "a tree has at least its root"
        assert len(self.token_ids) == len(self.log_values) == len(parents), "one entry per node"
        assert parents[0] == -1, "node 0 is the root"
        depths = [0]
        for parent in parents[1:]:
            assert 0 <= parent < len(depths), "parents stand before their children"
            depths.append(depths[parent] + 1)
        object.__setattr__(self, "depth", max(depths))

    @property
    def num_draft_tokens(self) -> int:
        """Nodes without the root."""
        return len(self.token_ids) - 1

    @property
    def rows(self) -> tuple[Ints, Ints]:
        """(N + A,) token ids and parents of what the target computes: nodes, then auxiliary rows."""
        if self.auxiliary is None:
            return self.token_ids, self.parents
        more = self.auxiliary
        return np.concatenate((self.token_ids, more.token_ids)), np.concatenate((self.parents, more.parents))

    @cached_property
    def depths(self) -> Ints:
        """(N,) levels below the root; 0 for the root."""
        return node_depths(self.parents)

    @cached_property
    def children(self) -> list[dict[int, int]]:
        """Per node: token id -> child node. Of siblings with one token the first counts."""
        parents, token_ids = self.parents.tolist(), self.token_ids.tolist()
        children: list[dict[int, int]] = [{} for _ in parents]
        for node in range(1, len(parents)):
            children[parents[node]].setdefault(token_ids[node], node)
        return children

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, both included."""
        path = [node]
        while (node := int(self.parents[node])) >= 0:
            path.append(node)
        return path[::-1]

    def leaves(self) -> list[int]:
        """Nodes without children."""
        return [int(node) for node in np.setdiff1d(np.arange(len(self.parents)), self.parents)]

    def leaf_paths(self) -> Iterator[list[int]]:
        """Each root-to-leaf path, in the order of the leaves."""
        return (self.path(leaf) for leaf in self.leaves())


@dataclass(frozen=True, eq=False)
class Auxiliary:
    """Rows whose results go back to the drafter and never into the answer, such as Lookahead's window.

    Attributes:
        token_ids: (A,) their tokens.
        parents: (A,) what they follow: a node of the tree (0..N-1), or an earlier auxiliary row (N..).
        receive: takes the tokens that the target chooses after the rows from `first_asked` on.
    """

    token_ids: Ints
    parents: Ints
    receive: Callable[[list[int]], None]
    first_asked: int = 0


def node_depths(parents: Sequence[int] | Ints) -> Ints:
    """Depth of each node, (T,). A parent of -1 gives depth 0; parents come first."""
    depths: list[int] = []
    for parent in map(int, parents):
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return np.array(depths, dtype=np.int64)


def ancestor_mask(parents: Sequence[int] | Ints) -> Bools:
    """(T, T) whether row's node sees column's node: itself and its ancestors (docs/laws.md, L6)."""
    mask = np.eye(len(parents), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]  # the parent's row is complete: parents come first
    return mask


class Prefix(Sequence[int]):
    """An answer and a path below it, as one sequence of token ids that is never copied."""

    __slots__ = ("_answer", "_path")

    def __init__(self, answer: Sequence[int], path: tuple[int, ...] = ()) -> None:
        self._answer = answer
        self._path = path

    def __len__(self) -> int:
        return len(self._answer) + len(self._path)

    def __iter__(self) -> Iterator[int]:
        return chain_iterators(self._answer, self._path)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        return [*self][index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array([*self], dtype=dtype)

    def after(self, count: int) -> tuple[int, ...]:
        """The tokens behind the first `count`."""
        below = max(0, count - len(self._answer))
        return (*self._answer[count:], *self._path[below:])

    def extended(self, token_id: int) -> "Prefix":
        """The same answer, one token further down."""
        return Prefix(self._answer, (*self._path, token_id))


def root_only(root: int) -> DraftTree:
    """A tree without draft tokens: one step of plain decoding."""
    return chain(root, [])


def chain(root: int, token_ids: Sequence[int]) -> DraftTree:
    """A tree with one path: root, then `token_ids` in order, each of value 1."""
    size = 1 + len(token_ids)
    return DraftTree(
        token_ids=np.array([root, *token_ids], dtype=np.int64),
        parents=np.arange(-1, size - 1, dtype=np.int64),
        log_values=np.zeros(size),
    )


def trie(root: int, continuations: Iterable[Sequence[int]]) -> DraftTree:
    """A tree of continuations, each of value 1; those that begin alike share their first nodes."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    token_ids, parents = [root], [-1]
    for tokens in continuations:
        for depth in range(1, len(tokens) + 1):
            path = tuple(tokens[:depth])
            if path not in nodes:
                nodes[path] = len(token_ids)
                token_ids.append(path[-1])
                parents.append(nodes[path[:-1]])
    return DraftTree(
        np.array(token_ids, dtype=np.int64), np.array(parents, dtype=np.int64), np.zeros(len(token_ids))
    )


def before_stop(token_ids: Sequence[int], stops: Collection[int]) -> Sequence[int]:
    """The tokens before the first of `stops`: if all are accepted, the target itself says the stop."""
    for at, token in enumerate(token_ids):
        if token in stops:
            return token_ids[:at]
    return token_ids
