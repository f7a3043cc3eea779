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

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from eyas.config import TreeConfig
from eyas.tree import DraftTree, Floats, Ints

Rounding = Callable[[Floats], Floats]


def unrounded(values: Floats) -> Floats:
    """Keep float64 sums: score_precision="float32" and better."""
    return values


@dataclass(frozen=True)
class Frontier:
    """The nodes of one level that are expanded next, best first."""

    candidates: Ints  # (F,) flat indices
    token_ids: Ints  # (F,)
    log_values: Floats  # (F,)
    parent_rows: Ints  # (F,) row of each node's parent in the frontier before (the root is row 0)


@dataclass
class Expansion:
    """Candidates of a dynamic tree, grown level by level.

    Tokens of `terminal` end an answer and are never expanded. `by_value=False` expands by a node's own
    confidence instead of its value (the paper's ablation, Table 3).
    """

    top_k: int
    terminal: Collection[int] = ()
    rounding: Rounding = unrounded
    by_value: bool = True
    token_ids: list[Ints] = field(default_factory=list)
    parents: list[Ints] = field(default_factory=list)  # flat index of the parent, -1 for the root
    log_values: list[Floats] = field(default_factory=list)
    num_candidates: int = 0

    def grow(self, frontier: Frontier | None, token_ids: Ints, log_confidences: Floats) -> Frontier:
        """Add the children of `frontier` (None: the root's) and choose the next frontier.

        Args:
            frontier: F nodes that were expanded.
            token_ids: (F, K) children, most confident first.
            log_confidences: (F, K) natural logs; clamped to <= 0, so that a child never beats its parent.

        Returns:
            The `top_k` best of the new candidates, best first, ties to the lower flat index.
        """
        if np.isnan(log_confidences).any():
            raise FloatingPointError("the draft gave a confidence that is not a number (docs/laws.md, L5)")
        own = np.minimum(log_confidences, 0.0)
        if frontier is None:
            above, parents = np.zeros(1), np.array([-1])
        else:
            above, parents = frontier.log_values, frontier.candidates
        values = self.rounding(own + above[:, None])  # V_child = V_parent * c_child
        first = self.num_candidates
        width = token_ids.shape[1]
        self.token_ids.append(token_ids.ravel())
        self.parents.append(np.repeat(parents, width))
        self.log_values.append(values.ravel())
        self.num_candidates += token_ids.size

        merit = values if self.by_value else own
        # A child of value 0 can never be accepted, and nothing follows a stop token.
        dead = ~np.isfinite(values) | np.isin(token_ids, list(self.terminal))
        chosen = best_first(np.where(dead, -np.inf, merit).ravel(), self.top_k)
        chosen = chosen[~dead.ravel()[chosen]]
        return Frontier(
            candidates=first + chosen,
            token_ids=token_ids.ravel()[chosen],
            log_values=values.ravel()[chosen],
            parent_rows=chosen // width,
        )

    def rerank(self, root: int, draft_tokens: int) -> DraftTree:
        """The `draft_tokens` candidates of highest value over all levels, as a tree under `root`.

        The order "value descending, then flat index ascending" puts every parent before its children, so
        its first elements are ancestor-closed under any ties (docs/laws.md, L5).
        """
        if not self.num_candidates:
            return DraftTree(np.array([root]), np.array([-1]), np.zeros(1))
        log_values = np.concatenate(self.log_values)
        kept = best_first(log_values, draft_tokens)
        kept = np.sort(kept[np.isfinite(log_values[kept])])  # level-major: parents come first
        flat_parents = np.concatenate(self.parents)[kept]
        parents = np.where(flat_parents < 0, 0, 1 + np.searchsorted(kept, flat_parents))
        return DraftTree(
            token_ids=np.concatenate(([root], np.concatenate(self.token_ids)[kept])),
            parents=np.concatenate(([-1], parents)),
            log_values=np.concatenate(([0.0], log_values[kept])),
        )


def best_first(values: Floats, count: int) -> Ints:
    """Indices of the `count` largest values, descending; ties to the lower index."""
    return np.argsort(-values, kind="stable")[:count]


Draft = Callable[[Frontier | None], tuple[Ints, Floats]]


def grow_tree(
    root: int,
    config: TreeConfig,
    draft: Draft,
    *,
    max_depth: int,
    terminal: Collection[int] = (),
    rounding: Rounding = unrounded,
    by_value: bool = True,
) -> DraftTree:
    """Expand and rerank: the whole of EAGLE-2's drafting.

    Args:
        root: token id at the top.
        config: sizes of the tree.
        draft: runs the draft network on a frontier of F nodes (None: on the root) and returns each node's
            best children as (token ids (F, K), log confidences (F, K)), most confident first.
        max_depth: no node is deeper, whatever `config` says: the context ends there.
        terminal: stop tokens, which are never expanded.
        rounding: rounds each sum of logs (score_precision).
        by_value: see `Expansion`.
    """
    expansion = Expansion(config.tree_top_k, terminal, rounding, by_value)
    frontier: Frontier | None = None
    for _ in range(min(config.depth, max_depth)):
        frontier = expansion.grow(frontier, *draft(frontier))
        if not len(frontier.token_ids):
            break
    return expansion.rerank(root, config.draft_tokens)


def grow_static(root: int, choices: Sequence[tuple[int, ...]], draft: Draft, *, max_depth: int) -> DraftTree:
    """A tree of fixed shape: EAGLE-1's (arXiv 2401.15077) or Medusa's.

    Args:
        root: token id at the top.
        choices: each node as the sibling ranks on its path, e.g. (0, 2) = third child of the best child.
            With a node its parent is in the list too.
        draft: as in `grow_tree`; it is called for the nodes that have children, level by level.
        max_depth: deeper nodes are left out.
    """
    paths = sorted((path for path in choices if len(path) <= max_depth), key=lambda p: (len(p), p))
    nodes = {(): 0} | {path: 1 + index for index, path in enumerate(paths)}
    token_ids, parents, log_values = [root], [-1], [0.0]
    expanded: list[tuple[int, ...]] = [()]
    frontier: Frontier | None = None
    for depth in range(1, 1 + max((len(path) for path in paths), default=0)):
        children, log_confidences = draft(frontier)
        for path in (path for path in paths if len(path) == depth):
            row, rank = expanded.index(path[:-1]), path[-1]
            token_ids.append(int(children[row, rank]))
            parents.append(nodes[path[:-1]])
            log_values.append(log_values[parents[-1]] + min(0.0, float(log_confidences[row, rank])))
        above = expanded
        expanded = [p for p in paths if len(p) == depth and any(q[:-1] == p for q in paths)]
        at = np.array([nodes[path] for path in expanded], dtype=np.int64)
        frontier = Frontier(
            candidates=at,
            token_ids=np.array(token_ids)[at],
            log_values=np.array(log_values)[at],
            parent_rows=np.array([above.index(path[:-1]) for path in expanded], dtype=np.int64),
        )
    return DraftTree(np.array(token_ids), np.array(parents), np.array(log_values))
