"""Medusa's tree of 63 nodes, which Hydra uses too.

Source: Medusa (arXiv 2401.10774), Sec. 2.3.3; the tree of its experiments and of Spec-Bench's. A node is the
list of sibling ranks on its path: (0, 2) is the third child of the root's best child.
"""

from math import prod

Path = tuple[int, ...]

# How many children the nodes have whose ranks are these; what is not named has none.
_CHILDREN: dict[Path, int] = {
    (): 10,
    **{(first,): count for first, count in enumerate((10, 7, 3, 2, 1, 1, 1, 1, 1, 1))},
    **{(0, second): count for second, count in enumerate((10, 3, 2, 1, 1, 1, 1, 1))},
    (1, 0): 2,
    (2, 0): 1,
    (0, 0, 0): 2,
}
TREE: tuple[Path, ...] = tuple((*path, rank) for path, count in _CHILDREN.items() for rank in range(count))
DEPTH = max(map(len, TREE))
WIDTH = 10  # most children of a node


def first_nodes(count: int) -> list[Path]:
    """The `count` nodes that are worth most, as a tree.

    A child of rank r = 0.. is taken to be accepted in 1 / (2 (r + 1)) of the cases where its parent is; ties
    go to the less deep node, then to the lower ranks. So a parent comes before its children and a better
    sibling before a worse one.
    """
    return sorted(TREE, key=lambda path: (prod(2 * (rank + 1) for rank in path), len(path), path))[:count]
