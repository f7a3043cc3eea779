"""Medusa's tree of 63 nodes, which Hydra uses too, and what fills it: a head for each level.

Source: Medusa (arXiv 2401.10774), Sec. 2.3.3; the tree of its experiments and of Spec-Bench's. A node is the
list of sibling ranks on its path: (0, 2) is the third child of the root's best child.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from eyas.drafters.expansion import grow_static
from eyas.drafters.ranked import Expand, Frontier, RankedSession, TreeLimits
from eyas.drafters.target import AnswerHead, check_vocabulary
from eyas.drafters.tree_builder import Node, TreeShape
from eyas.engine.interfaces import Coupling, DraftContext, Features, Linear, LMHead, ResBlock, Runtime, TopK
from eyas.engine.tree import DraftTree, Floats, Ints, Prefix, root_only

# How many children the nodes have whose ranks are these; what is not named has none.
_CHILDREN: dict[Node, int] = {
    (): 10,
    **{(first,): count for first, count in enumerate((10, 7, 3, 2, 1, 1, 1, 1, 1, 1))},
    **{(0, second): count for second, count in enumerate((10, 3, 2, 1, 1, 1, 1, 1))},
    (1, 0): 2,
    (2, 0): 1,
    (0, 0, 0): 2,
}
TREE: tuple[Node, ...] = tuple((*path, rank) for path, count in _CHILDREN.items() for rank in range(count))
WIDTH = 10  # most children of a node


def first_nodes(count: int) -> list[Node]:
    """The `count` nodes that are worth most, as a tree.

    A child of rank r = 0.. is taken to be accepted in 1 / (2 (r + 1)) of the cases where its parent is; ties
    go to the less deep node, then to the lower ranks. So a parent comes before its children and a better
    sibling before a worse one.
    """
    return sorted(TREE, key=lambda path: (prod(2 * (rank + 1) for rank in path), len(path), path))[:count]


class LevelInputs(NamedTuple):
    """What a head reads: a row for each node whose children it gives, or one row for them all."""

    inputs: list[Features]  # (F, H) each
    prefixes: list[Prefix]  # the answer up to and including each row's token


class LevelHead(NamedTuple):
    """Layers, of which the first reads all inputs, then an LM head."""

    layers: Sequence[ResBlock | Linear]
    lm_head: LMHead

    def children(self, level: LevelInputs, k: int, coupling: Coupling | None) -> TopK:
        """The `k` best children below each row."""
        first, *later = self.layers
        rows = first(*level.inputs)
        for layer in later:
            rows = layer(rows)
        return self.lm_head.top_k(rows, k, coupling)


class LevelHeads:
    """The heads that fill a tree, in the order of its levels; their LM heads are their own or the target's.

    Args:
        runtime: of the target.
        directory: where they come from.
        layers: of each head, from what it reads to what its LM head reads.
        own: LM head of each, weight (V, H) and bias (V,); empty where the target's serves them all.
        draft_ids: (M,) ascending ids that the target's is then confined to; None for all.

    Raises:
        CheckpointError: LM heads of their own, over another vocabulary.
    """

    def __init__(
        self,
        runtime: Runtime,
        directory: Path,
        layers: Sequence[Sequence[ResBlock | Linear]],
        own: Sequence[tuple[NDArray[Any], NDArray[Any] | None]],
        draft_ids: Ints | None,
    ) -> None:
        for weight, _ in own:
            check_vocabulary(runtime, directory, len(weight))
        self.runtime = runtime
        self._layers = layers
        self._own = [runtime.own_lm_head(*layer) for layer in own]
        self._draft_ids = draft_ids

    def __len__(self) -> int:
        return len(self._layers)

    def for_answer(self) -> AnswerHead | None:
        """The target's LM head for one answer; None where it is not used."""
        return None if self._own else AnswerHead(self.runtime, self._draft_ids)

    def over(self, lm_head: LMHead | None) -> list[LevelHead]:
        """The heads, over the target's LM head or, without it, their own."""
        lm_heads = self._own if lm_head is None else [lm_head] * len(self._layers)
        return [LevelHead(*pair) for pair in zip(self._layers, lm_heads, strict=True)]


class StaticTreeSession(RankedSession):
    """One sequence; fills the static tree in each cycle. A method says what its heads read."""

    num_forwards = 0

    def __init__(self, heads: LevelHeads) -> None:
        self._networks = heads

    def start(self, context: DraftContext, draft_tokens: int) -> None:
        """Start an answer with trees of so many nodes."""
        self.num_forwards = 0
        self._context = context
        self._answer_head = self._networks.for_answer()
        self._tree = first_nodes(draft_tokens)
        self._shape = TreeShape(self._tree)

    def limits(self, token_ids: Sequence[int]) -> TreeLimits:  # noqa: ARG002 - always the same
        """The size of the static tree, and a level for each head."""
        return TreeLimits(len(self._tree), len(self._networks), WIDTH, self._shape)

    @abstractmethod
    def first_level(self, root: int, answer: Prefix) -> LevelInputs:
        """What the first head reads below the root, the answer's last token. The session counts forwards."""

    @abstractmethod
    def next_level(self, level: LevelInputs, frontier: Frontier) -> LevelInputs:
        """What the next head reads for the frontier's nodes, whose parents were those of `level`."""

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The static tree, each level filled by its head."""
        root = token_ids[-1]
        depth = min(max_depth, len(self._networks))
        if depth < 1:
            return root_only(root)
        stops = self._context.stop_token_ids
        with self.expander(token_ids) as expand:
            return grow_static(root, self._tree, expand, max_depth=depth, terminal=stops)

    @contextmanager
    def expander(self, token_ids: Sequence[int], most_read: int | None = None) -> Iterator[Expand]:  # noqa: ARG002
        """Gives the children of one level after the other, below the last of these committed tokens."""
        lm_head = None if self._answer_head is None else self._answer_head.after(token_ids)
        heads = iter(self._networks.over(lm_head))
        answer = Prefix(token_ids[len(self._context.prompt_ids) :])
        level: LevelInputs | None = None

        def expand(frontier: Frontier | None, k: int) -> tuple[Ints, Floats]:
            nonlocal level
            nodes = 1
            if frontier is None:
                level = self.first_level(token_ids[-1], answer)
            else:
                assert level is not None, "the root comes first"
                nodes, level = len(frontier.token_ids), self.next_level(level, frontier)
            context = self._context
            coupling = Coupling(context.sampler, level.prefixes, 1.0) if context.is_coupled else None
            with self.drafting():
                top = next(heads).children(level, k, coupling)
            times = nodes // len(level.prefixes)
            return top.token_ids.repeat(times, axis=0), top.log_probs.repeat(times, axis=0)

        yield expand

    @contextmanager
    def drafting(self) -> Iterator[None]:
        """Time spent in it is the draft's, time before it the tree's."""
        laps = self._context.laps
        if laps is not None:
            laps.mark("tree")
        yield
        if laps is not None:
            laps.mark("draft")
