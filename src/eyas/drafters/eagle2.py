"""EAGLE-2: a dynamic draft tree, shaped by the head's confidence.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4. The head's networks and caches are in `eagle_head.py`, the
tree's mathematics in `eyas.drafters.policy.expansion`. Trees of measured size
(`eyas.drafters.policy.budget`) also hold copies
(`eyas.drafters.policy.copies`), which the paper's do not. The paper's ablations (Table 3) are options of the
tree: `expand_by_value` and `rerank`.
"""

from collections.abc import Sequence
from typing import Self

from eyas.drafters.eagle_head import EagleHead, HeadState
from eyas.drafters.policy.budget import Budget
from eyas.drafters.policy.candidates import new_candidates, unrounded
from eyas.drafters.policy.copies import NOTHING, Copies
from eyas.drafters.policy.expansion import Expansion, grow_tree
from eyas.drafters.registry import register_drafter
from eyas.engine.interfaces import DraftContext, DraftFiles, Features, Runtime
from eyas.engine.tree import DraftTree, root_only
from eyas.errors import ConfigError


@register_drafter("eagle2", head="eagle", uses_costs=True)
class Eagle2:
    """EAGLE-2 dynamic draft trees; needs an EAGLE head for the target."""

    def __init__(self, head: EagleHead) -> None:
        self._head = head

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the head and put it on the runtime."""
        return cls(EagleHead.load(runtime, files.head()))

    def open(self) -> "Session":
        """A session with an empty head cache."""
        return Session(self._head)


class Session:
    """One sequence's head state; grows a tree per cycle."""

    def __init__(self, head: EagleHead) -> None:
        self._state = HeadState(head)
        self._rounding = {"float32": unrounded, "model": head.runtime.round_score}
        self._budget: Budget | None = None  # of tree="auto"
        self._copies: Copies | None = None  # of the same
        self._has_proposed = False

    @property
    def num_forwards(self) -> int:
        """Passes of the head since `begin`."""
        return self._state.num_forwards

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the head keeps its first `keep` pairs."""
        self._context = context
        self._has_proposed = False
        self._budget = None
        if context.tree.is_auto:
            if context.costs is None:
                raise ConfigError(
                    "tree is 'auto', but the request has no cost table; measure one, or set tree='fixed'."
                )
            self._budget = Budget(context.costs, context.tree, context.load)
            temperature = context.sampler.config.temperature
            self._copies = Copies(temperature, context.stop_token_ids) if context.tree.copies else None
        self._state.begin(context, keep)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Remember the committed pairs."""
        self._state.extend(features, token_ids)
        if self._budget is not None and self._has_proposed:
            self._budget.settle(len(token_ids))

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """Expand by value, then keep the best nodes of all levels."""
        self._has_proposed = True
        if max_depth < 1:
            return root_only(token_ids[-1])
        if self._budget is not None:
            return self._propose_within(self._budget, token_ids, max_depth)
        tree = self._context.tree
        with self._state.expander(token_ids) as expand:
            return grow_tree(
                token_ids[-1],
                tree,
                lambda frontier: expand(frontier, tree.tree_top_k),
                max_depth=max_depth,
                terminal=self._context.stop_token_ids,
                rounding=self._rounding[tree.score_precision],
            )

    def _propose_within(self, budget: Budget, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """As large a tree as pays; the head does not run where none does."""
        copied = self._copies.after(token_ids, max_depth) if self._copies else NOTHING
        waiting = self._state.num_waiting(token_ids)
        growth = budget.open(waiting, context=len(token_ids) - 1, copied=copied)
        if growth is None:
            return root_only(token_ids[-1])
        tree = self._context.tree
        with self._state.expander(token_ids) as expand:
            candidates = new_candidates(
                tree.tree_top_k,
                self._context.stop_token_ids,
                self._rounding[tree.score_precision],
                confidence=self._state.acceptance,
            )
            return budget.grow(
                token_ids[-1],
                growth,
                Expansion(candidates),
                lambda frontier: expand(frontier, tree.tree_top_k),
                max_depth=max_depth,
            )
