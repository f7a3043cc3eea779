"""How a draft tree grows, level by level: a dynamic one, or one of fixed shape.

The arithmetic of a dynamic tree is in `eyas.drafters.tree_builder`.
"""

import math
from collections.abc import Callable, Collection, Iterable
from itertools import groupby

import numpy as np

from eyas.drafters.ranked import Expand, Frontier
from eyas.drafters.tree_builder import NO_NUMBER, AnyTreeBuilder, Node
from eyas.engine.tree import DraftTree


def grow(builder: AnyTreeBuilder, expand: Expand, k: int) -> None:
    """Draft level by level, `k` children for each node, until the builder has no use for another.

    Where `expand` has a method `grow` that takes the builder, it drafts all levels at once, with the same
    result.
    """
    at_once = getattr(expand, "grow", None)
    if at_once is not None and at_once(builder, k):
        return
    frontier: Frontier | None = None
    while True:
        found = builder.step(*expand(frontier, k))
        if found is None:
            return
        frontier = Frontier(*found)


def best_of(builder: AnyTreeBuilder, root: int) -> Callable[[int], DraftTree]:
    """Gives the tree of the `count` best candidates, which shows what rerank dropped."""

    def best(count: int) -> DraftTree:
        return DraftTree(*builder.finish(root, count), best=best)

    return best


def grow_static(
    root: int,
    choices: Iterable[Node],
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
    nodes: dict[Node, int] = {(): 0}
    token_ids, parents, log_values = [root], [-1], [0.0]
    frontier: Frontier | None = None
    rows: dict[Node, int] = {(): 0}  # where its nodes stand in it
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
            token_ids=np.array([token_ids[node] for node in at]),
            parent_rows=np.array([rows[path[:-1]] for path in expanded]),
            nodes=at,
        )
        rows = {path: row for row, path in enumerate(expanded)}
    return DraftTree(np.array(token_ids), np.array(parents), np.array(log_values))
