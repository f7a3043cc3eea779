"""EAGLE(-1): a static draft tree of 25 nodes over the same head as EAGLE-2.

Source: EAGLE (arXiv 2401.15077), Sec. 4.1 and App. A; the tree's shape is that of its experiments. A node is
written as the sibling ranks on its path. Of the 25 nodes the 10 that have children are run, in four passes
in addition to the one over the committed pairs. Cost-aware trees draft within the same shape.

At temperature > 0 ranks are chosen as in `eagle2`: by logit plus the sampler's noise, or by logit alone. With
`eagle_ratio` children are sampled from the draft's own distribution and verified by speculative sampling,
which keeps the distribution of the answer, not its ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Self

from eyas.config import Option
from eyas.drafters.eagle_head import EagleHead, EagleSession
from eyas.drafters.expansion import grow_static
from eyas.drafters.ranked import Frontier, TreeLimits
from eyas.drafters.registry import register_drafter
from eyas.drafters.tree_builder import TreeShape
from eyas.engine.interfaces import DraftContext, DraftFiles, DraftOptions, Runtime
from eyas.engine.tree import DraftTree, Floats, Ints, root_only
from eyas.engine.verification import SAME_IDS, SPECULATIVE_SAMPLING, AcceptanceRule

TREE = tuple(
    tuple(map(int, node))
    for node in (
        *("0", "1", "2", "3"),
        *("00", "01", "02", "10", "11", "20", "21", "30"),
        *("000", "001", "002", "010", "011", "020", "021", "100"),
        *("0000", "0001", "0002"),
        *("00000", "00001"),
    )
)
WIDTH = 4  # most children of a node
SHAPE = TreeShape(TREE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EagleOptions(DraftOptions):
    """How drafts are drawn and verified at temperature > 0."""

    eagle_ratio: Annotated[
        bool,
        Option(
            "draw the draft tokens and accept them by speculative (rejection) sampling: the answer has the "
            "same distribution, but other tokens"
        ),
    ] = False

    @property
    def rule(self) -> AcceptanceRule:
        """The same ids, or speculative sampling."""
        return SPECULATIVE_SAMPLING if self.eagle_ratio else SAME_IDS

    @property
    def own_draft_tokens(self) -> int:
        """The static tree's."""
        return len(TREE)


@register_drafter("eagle", options=EagleOptions, head="eagle")
class Eagle:
    """EAGLE static draft trees of 25 nodes; needs an EAGLE head for the target."""

    def __init__(self, head: EagleHead) -> None:
        self._head = head

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the head and put it on the runtime."""
        return cls(EagleHead.load(runtime, files.head()))

    def open(self) -> "Eagle1Session":
        """A session with an empty head cache."""
        return Eagle1Session(self._head)


class Eagle1Session(EagleSession):
    """One sequence's head state; fills the static tree in each cycle."""

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the head keeps its first `keep` pairs."""
        assert isinstance(context.options, EagleOptions), "the options of this method"
        self._is_drawn = context.options.eagle_ratio and not context.sampler.config.is_greedy
        super().begin(context, keep)

    def limits(self, token_ids: Sequence[int]) -> TreeLimits:  # noqa: ARG002 - always the same
        """The size of the static tree."""
        return TreeLimits(len(TREE), max(map(len, TREE)), WIDTH, SHAPE)

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The static tree, its ranks filled by the head."""
        if max_depth < 1:
            return root_only(token_ids[-1])
        stops = self._context.stop_token_ids
        with self.expander(token_ids) as expand:
            fill = partial(grow_static, token_ids[-1], TREE, max_depth=max_depth, terminal=stops)
            if not self._is_drawn:
                return fill(expand)
            proposals: dict[int, Floats] = {}

            def draw(frontier: Frontier | None, k: int) -> tuple[Ints, Floats]:
                children, log_probs, distributions = expand.sample(frontier, k)
                nodes = [0] if frontier is None else frontier.nodes
                proposals.update(zip(nodes, distributions, strict=True))
                return children, log_probs

            return replace(fill(draw), proposals=proposals)
