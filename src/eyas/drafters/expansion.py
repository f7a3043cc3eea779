"""How a draft tree grows: EAGLE-2's expansion and rerank, and static trees.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4.1 (expansion) and 4.2 (rerank); docs/algorithm.md has a worked
example. The arithmetic of a dynamic tree is in `eyas.drafters.candidates`.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from eyas.config import TreeConfig
from eyas.drafters.candidates import (
    BELOW_ROOT,
    NO_NUMBER,
    AnyCandidates,
    Rounding,
    new_candidates,
    unrounded,
)
from eyas.drafters.ranked import Expand, Frontier
from eyas.engine.tree import DraftTree, Floats, Ints


class Expansion:
    """A dynamic tree, grown level by level: candidates in the terms of the drafters.

    Args:
        candidates: none yet, from `eyas.drafters.candidates.new_candidates`.
    """

    def __init__(self, candidates: AnyCandidates) -> None:
        self._candidates = candidates

    def expect(self, token_ids: Sequence[int], rates: Sequence[float]) -> None:
        """Expect a chain below the root: tokens, and the rate at which each follows the one before."""
        self._candidates.expect(token_ids, rates)

    def expected_values(self) -> list[float]:
        """Values of all of the chain, as probabilities."""
        return self._candidates.expected_values()

    def add_rest(self) -> None:
        """Add what is left of an expected chain; the last step before `rerank`."""
        self._candidates.add_rest()

    def grow(self, frontier: Frontier | None, token_ids: Ints, log_confidences: Floats) -> None:
        """Add a level: the children of `frontier`.

        Args:
            frontier: F nodes that were expanded; None is the root.
            token_ids: (F, K) children, most confident first.
            log_confidences: (F, K) natural logs; clamped to <= 0, so that a child never beats its parent.

        Raises:
            FloatingPointError: the draft gave a confidence that is not a number.
        """
        parents = BELOW_ROOT if frontier is None else frontier.candidates
        self._candidates.grow(parents, token_ids, log_confidences)

    def frontier(self) -> Frontier:
        """The `top_k` best nodes of the newest level, best first, ties to the lower flat index.

        Left out is what cannot be expanded: nodes of value 0, and tokens that end an answer.
        """
        return Frontier(*self._candidates.frontier())

    def newest_values(self) -> list[float]:
        """Values of the newest level's nodes, as probabilities; an expected chain's is left out."""
        return self._candidates.newest_values()

    def rerank(self, root: int, draft_tokens: int) -> DraftTree:
        """The `draft_tokens` candidates of highest value over all levels, as a tree under `root`."""
        return DraftTree(*self._candidates.best(root, draft_tokens), best=partial(self.rerank, root))

    def expanded(self, root: int, draft_tokens: int) -> DraftTree:
        """The nodes that were expanded, and the best of the last level: the paper's tree without rerank."""
        return DraftTree(*self._candidates.expanded(root, draft_tokens), best=partial(self.rerank, root))


def grow_tree(
    root: int,
    config: TreeConfig,
    expand: Expand,
    *,
    max_depth: int,
    terminal: Collection[int] = (),
    rounding: Rounding = unrounded,
) -> DraftTree:
    """Expand and rerank: the whole of EAGLE-2's drafting, or without one of its parts where `config` says so.

    Args:
        root: token id at the top.
        config: sizes of the tree.
        expand: drafts a level.
        max_depth: no node is deeper, whatever `config` says: the context ends there.
        terminal: stop tokens, which are never expanded.
        rounding: rounds each sum of logs (score_precision).
    """
    expansion = Expansion(new_candidates(config.tree_top_k, terminal, rounding, config.expand_by_value))
    frontier: Frontier | None = None
    for depth in range(min(config.depth, max_depth)):
        if depth:
            frontier = expansion.frontier()
            if not frontier.token_ids:
                break
        expansion.grow(frontier, *expand(frontier, config.tree_top_k))
    keep = expansion.rerank if config.rerank else expansion.expanded
    return keep(root, config.draft_tokens)


def grow_static(
    root: int,
    choices: Iterable[tuple[int, ...]],
    expand: Expand,
    *,
    max_depth: int,
    terminal: Collection[int] = (),
) -> DraftTree:
    """A tree of fixed shape: EAGLE-1's (arXiv 2401.15077) or Medusa's.

    Args:
        root: token id at the top.
        choices: each node as the sibling ranks on its path, e.g. (0, 2) = third child of the best child.
            With a node its parent is in the list too, and so are its better siblings.
        expand: drafts a level; it is called for the nodes that have children. A frontier's candidates are
            node indices.
        max_depth: deeper nodes are left out.
        terminal: stop tokens, which are never expanded: what the list has below them is left out.

    Raises:
        FloatingPointError: the draft gave a confidence that is not a number.
    """
    paths = sorted((path for path in choices if len(path) <= max_depth), key=lambda path: (len(path), path))
    inner = {path[:-1] for path in paths}
    width = 1 + max((path[-1] for path in paths), default=0)
    nodes: dict[tuple[int, ...], int] = {(): 0}
    token_ids, parents, log_values = [root], [-1], [0.0]
    frontier: Frontier | None = None
    rows: dict[tuple[int, ...], int] = {(): 0}  # where its nodes stand in it
    for _, group in groupby(paths, key=len):
        level = list(group)
        children, log_confidences = expand(frontier, width)
        if np.isnan(log_confidences).any():
            raise FloatingPointError(NO_NUMBER)
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
