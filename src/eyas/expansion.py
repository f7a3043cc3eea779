"""How a draft tree grows: EAGLE-2's expansion and rerank, and static trees.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4.1 (expansion) and 4.2 (rerank); docs/algorithm.md has a worked
example. All arrays are small: at most K + (D - 1) K^2 candidates.

A candidate's *flat index* fixes every tie. Level 1 has indices 0..K-1; each later level has K*K, parent by
parent in the frontier's order, each parent's children from most to least confident:

    level 1    a  b                    flat  0 1
    level 2    a's children, b's       flat  2 3 | 4 5       (K = 2; frontier order a, b)
    level 3    of the two best of level 2, best first: flat 6 7 | 8 9

A value is the product of the confidences on the path, kept as a sum of natural logs.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby

import numpy as np

from eyas.config import TreeConfig
from eyas.tree import DraftTree, Floats, Ints, root_only

Rounding = Callable[[Floats], Floats]
Confidence = Callable[[Floats, int], Floats]  # log confidences (F, K) at a depth -> log acceptance rates


def unrounded(values: Floats) -> Floats:
    """Keep float64 sums: score_precision="float32" and better."""
    return values


@dataclass(frozen=True, slots=True)
class Frontier:
    """The F nodes of one level that are expanded next, best first."""

    candidates: list[int]  # flat indices
    token_ids: list[int]
    log_values: list[float]
    parent_rows: list[int]  # row of each node's parent in the frontier before (the root is row 0)

    def first(self, count: int) -> "Frontier":
        """Its `count` best nodes."""
        return Frontier(
            self.candidates[:count],
            self.token_ids[:count],
            self.log_values[:count],
            self.parent_rows[:count],
        )


@dataclass(slots=True)
class Expansion:
    """Candidates of a dynamic tree, grown level by level.

    Tokens of `terminal` end an answer and are never expanded. `by_value=False` expands by a node's own
    confidence instead of its value (the paper's ablation, Table 3). `confidence` maps own confidences before
    they are multiplied.

    A cycle's time is short: arrays do the arithmetic of a level in few calls, lists the bookkeeping.
    """

    top_k: int
    terminal: Collection[int] = ()
    rounding: Rounding = unrounded
    by_value: bool = True
    confidence: Confidence | None = None
    num_candidates: int = 0
    _levels: list["_Level"] = field(default_factory=list)

    def grow(self, frontier: Frontier | None, token_ids: Ints, log_confidences: Floats) -> None:
        """Add a level: the children of `frontier`.

        Args:
            frontier: F nodes that were expanded; None is the root.
            token_ids: (F, K) children, most confident first.
            log_confidences: (F, K) natural logs; clamped to <= 0, so that a child never beats its parent.
        """
        own = np.minimum(log_confidences, 0.0)
        if self.confidence is not None:
            own = self.confidence(own, 1 + len(self._levels))
        above = _ROOT if frontier is None else np.array(frontier.log_values)
        values = self.rounding(own + above[:, None]).ravel()  # V_child = V_parent * c_child
        tokens: list[int] = token_ids.ravel().tolist()
        self._levels.append(
            _Level(
                first=self.num_candidates,
                width=token_ids.shape[1],
                parents=_NO_PARENT if frontier is None else frontier.candidates,
                token_ids=tokens,
                log_values=values,
                merit=values if self.by_value else own.ravel(),
            )
        )
        self.num_candidates += len(tokens)

    def frontier(self) -> Frontier:
        """The `top_k` best nodes of the newest level, best first, ties to the lower flat index.

        Left out is what cannot be expanded: nodes of value 0, and tokens that end an answer.
        """
        level = self._levels[-1]
        values, tokens = level.log_values.tolist(), level.token_ids
        chosen: list[int] = []
        for at in np.argsort(-level.merit, kind="stable").tolist():
            if len(chosen) == self.top_k:
                break
            if values[at] > -math.inf and tokens[at] not in self.terminal:
                chosen.append(at)
        return Frontier(
            candidates=[level.first + at for at in chosen],
            token_ids=[tokens[at] for at in chosen],
            log_values=[values[at] for at in chosen],
            parent_rows=[at // level.width for at in chosen],
        )

    def newest_values(self) -> list[float]:
        """Values of the newest level's nodes, as probabilities."""
        values: list[float] = np.exp(self._levels[-1].log_values).tolist()
        return values

    def rerank(self, root: int, draft_tokens: int) -> DraftTree:
        """The `draft_tokens` candidates of highest value over all levels, as a tree under `root`.

        The order "value descending, then flat index ascending" puts every parent before its children, so
        its first elements are ancestor-closed under any ties (docs/laws.md, L5).

        Raises:
            FloatingPointError: the draft gave a confidence that is not a number.
        """
        return self._tree(root, best_of(self._values(), draft_tokens)) if self._levels else root_only(root)

    def expanded(self, root: int, draft_tokens: int) -> DraftTree:
        """The nodes that were expanded, and the best of the last level: the paper's tree without rerank.

        They are taken level by level, of each level the best first, until there are `draft_tokens`. Where a
        node is taken its parent was expanded, and so is taken too.

        Raises:
            FloatingPointError: as in `rerank`.
        """
        if not self._levels:
            return root_only(root)
        self._values()
        frontiers = [level.parents for level in self._levels[1:]] + [self.frontier().candidates]
        return self._tree(root, sorted([*chain.from_iterable(frontiers)][:draft_tokens]))

    def _values(self) -> Floats:
        """All candidates' log values, by flat index."""
        values = np.concatenate([level.log_values for level in self._levels])
        if math.isnan(values.sum()):
            raise FloatingPointError(_NO_NUMBER)
        return values

    def _tree(self, root: int, kept: list[int]) -> DraftTree:
        """The candidates `kept`, ascending flat indices: so level by level, parents before children."""
        node_of = {-1: 0}  # flat index -> node
        token_ids, parents, log_values = [root], [-1], [0.0]
        levels = iter(self._levels)
        level, end = None, 0
        for flat in kept:
            while level is None or flat >= end:
                level = next(levels)
                end = level.first + len(level.token_ids)
            at = flat - level.first
            node_of[flat] = len(token_ids)
            token_ids.append(level.token_ids[at])
            parents.append(node_of[level.parents[at // level.width]])
            log_values.append(level.log_values.item(at))
        return DraftTree(
            np.array(token_ids, dtype=np.int64),
            np.array(parents, dtype=np.int64),
            np.array(log_values),
            best=partial(self.rerank, root),
        )


@dataclass(frozen=True, slots=True)
class _Level:
    """The candidates of one level: `width` children of each of `parents`."""

    first: int  # flat index of the first
    width: int
    parents: list[int]  # flat indices, -1 is the root
    token_ids: list[int]
    log_values: Floats
    merit: Floats  # what the frontier is chosen by


_ROOT = np.zeros(1)  # log value of the root
_NO_PARENT = [-1]
_NO_NUMBER = "the draft gave a confidence that is not a number (docs/laws.md, L5)"
_LEAST = -float(np.finfo(np.float64).max)  # the least finite number


def best_of(values: Floats, count: int) -> list[int]:
    """Indices of the `count` largest finite values, ascending; of equal ones the lower indices are taken."""
    if count < len(values):
        edge = np.partition(values, len(values) - count)[len(values) - count].item()
    else:
        edge = -math.inf
    kept: list[int] = np.flatnonzero(values >= max(edge, _LEAST)).tolist()
    if len(kept) > count:  # too many tie at the edge: the last ones go
        ties = [at for at in kept if values.item(at) == edge]
        dropped = set(ties[count - len(kept) :])
        kept = [at for at in kept if at not in dropped]
    return kept


Draft = Callable[[Frontier | None], tuple[Ints, Floats]]


def grow_tree(
    root: int,
    config: TreeConfig,
    draft: Draft,
    *,
    max_depth: int,
    terminal: Collection[int] = (),
    rounding: Rounding = unrounded,
) -> DraftTree:
    """Expand and rerank: the whole of EAGLE-2's drafting, or without one of its parts where `config` says so.

    Args:
        root: token id at the top.
        config: sizes of the tree.
        draft: runs the draft network on a frontier of F nodes (None: on the root) and returns each node's
            best children as (token ids (F, K), log confidences (F, K)), most confident first.
        max_depth: no node is deeper, whatever `config` says: the context ends there.
        terminal: stop tokens, which are never expanded.
        rounding: rounds each sum of logs (score_precision).
    """
    expansion = Expansion(config.tree_top_k, terminal, rounding, config.expand_by_value)
    frontier: Frontier | None = None
    for depth in range(min(config.depth, max_depth)):
        if depth:
            frontier = expansion.frontier()
            if not frontier.token_ids:
                break
        expansion.grow(frontier, *draft(frontier))
    keep = expansion.rerank if config.rerank else expansion.expanded
    return keep(root, config.draft_tokens)


def grow_static(
    root: int,
    choices: Iterable[tuple[int, ...]],
    draft: Draft,
    *,
    max_depth: int,
    terminal: Collection[int] = (),
) -> DraftTree:
    """A tree of fixed shape: EAGLE-1's (arXiv 2401.15077) or Medusa's.

    Args:
        root: token id at the top.
        choices: each node as the sibling ranks on its path, e.g. (0, 2) = third child of the best child.
            With a node its parent is in the list too, and so are its better siblings.
        draft: as in `grow_tree`; it is called for the nodes that have children, level by level. A frontier's
            candidates are node indices. A child of log confidence -inf does not exist.
        max_depth: deeper nodes are left out.
        terminal: stop tokens, which are never expanded: what the list has below them is left out.

    Raises:
        FloatingPointError: the draft gave a confidence that is not a number.
    """
    paths = sorted((path for path in choices if len(path) <= max_depth), key=lambda path: (len(path), path))
    inner = {path[:-1] for path in paths}
    nodes: dict[tuple[int, ...], int] = {(): 0}
    token_ids, parents, log_values = [root], [-1], [0.0]
    frontier: Frontier | None = None
    rows: dict[tuple[int, ...], int] = {(): 0}  # where its nodes stand in it
    for _, group in groupby(paths, key=len):
        level = list(group)
        children, log_confidences = draft(frontier)
        if np.isnan(log_confidences).any():
            raise FloatingPointError(_NO_NUMBER)
        for path in level:
            row, rank = rows.get(path[:-1]), path[-1]
            if row is None or rank >= children.shape[1] or log_confidences[row, rank] == -math.inf:
                continue
            nodes[path] = len(token_ids)
            token_ids.append(int(children[row, rank]))
            parents.append(nodes[path[:-1]])
            log_values.append(log_values[parents[-1]] + min(0.0, float(log_confidences[row, rank])))
        expanded = [path for path in level if path in inner and path in nodes]
        expanded = [path for path in expanded if token_ids[nodes[path]] not in terminal]
        if not expanded:
            break
        at = [nodes[path] for path in expanded]
        frontier = Frontier(
            candidates=at,
            token_ids=[token_ids[node] for node in at],
            log_values=[log_values[node] for node in at],
            parent_rows=[rows[path[:-1]] for path in expanded],
        )
        rows = {path: row for row, path in enumerate(expanded)}
    return DraftTree(np.array(token_ids), np.array(parents), np.array(log_values))
