"""EAGLE-2: a dynamic draft tree, shaped by the head's confidence.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4. The head's networks and caches are in `eagle_head.py`, the tree's
mathematics in `eyas.drafters.expansion`. The paper's ablations (Table 3) are options of the tree:
`expand_by_value` and `rerank`.
"""

from collections.abc import Sequence
from typing import Self

from eyas.drafters.eagle_head import EagleHead, EagleSession
from eyas.drafters.expansion import grow_tree
from eyas.drafters.ranked import TreeLimits
from eyas.drafters.registry import register_drafter
from eyas.drafters.tree_builder import Rounding, unrounded
from eyas.engine.interfaces import DraftFiles, Runtime
from eyas.engine.tree import DraftTree, root_only


@register_drafter("eagle2", head="eagle")
class Eagle2:
    """EAGLE-2 dynamic draft trees; needs an EAGLE head for the target."""

    def __init__(self, head: EagleHead) -> None:
        self._head = head

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the head and put it on the runtime."""
        return cls(EagleHead.load(runtime, files.head()))

    def open(self) -> "Eagle2Session":
        """A session with an empty head cache."""
        return Eagle2Session(self._head)


class Eagle2Session(EagleSession):
    """One sequence's head state; grows a tree per cycle."""

    def __init__(self, head: EagleHead) -> None:
        super().__init__(head)
        self._rounding = {"float32": unrounded, "model": head.runtime.round_score}

    @property
    def rounding(self) -> Rounding:
        """Rounds sums of log confidences to the option's precision."""
        return self._rounding[self._context.tree.score_precision]

    def limits(self, token_ids: Sequence[int]) -> TreeLimits:  # noqa: ARG002 - the head's cache grows as needed
        """The sizes of the options."""
        tree = self._context.tree
        return TreeLimits(tree.draft_tokens, tree.depth, tree.tree_top_k)

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """Expand by value, then keep the best nodes of all levels."""
        if max_depth < 1:
            return root_only(token_ids[-1])
        with self.expander(token_ids) as expand:
            return grow_tree(
                token_ids[-1],
                self._context.tree,
                expand,
                max_depth=max_depth,
                terminal=self._context.stop_token_ids,
                rounding=self.rounding,
            )
