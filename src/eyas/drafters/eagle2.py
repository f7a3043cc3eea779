"""EAGLE-2: a dynamic draft tree, shaped by the head's confidence.

Source: EAGLE-2 (arXiv 2406.16858), Sec. 4.1 (expansion) and 4.2 (rerank); docs/algorithm.md has a worked
example. The head's networks and caches are in `eagle_head.py`, the arithmetic of the tree in
`tree_builder.py`. The paper's ablations (Table 3) are options: `expand_by_value` and `rerank`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from eyas.config import Option
from eyas.drafters.eagle_head import AnyEagleHead, EagleHead, EagleSession
from eyas.drafters.expansion import best_of, grow
from eyas.drafters.ranked import MOST_DEPTH, Expand
from eyas.drafters.registry import register_drafter
from eyas.drafters.tree_builder import Rounding, TreeRules, unrounded
from eyas.engine.interfaces import DraftContext, DraftFiles, DraftOptions, Runtime
from eyas.engine.tree import DraftTree, root_only
from eyas.engine.tree_options import AUTO_DEPTH, AUTO_DRAFT_TOKENS, AUTO_TOP_K, TreeOptions
from eyas.errors import ConfigError

ScorePrecision = Literal["float32", "model"]
MOST_TOP_K = 128  # each level is a pass of the head over K nodes, of K children each: more takes seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle2Options(DraftOptions):
    """Size and shape of the paper's tree (Sec. 4 and App. A). The root is not counted.

    With tree="auto" the sizes are the limits of each cycle's choice, and cannot be given.
    """

    sizes: ClassVar[tuple[str, ...]] = ("draft_tokens", "depth", "tree_top_k")

    draft_tokens: Annotated[
        int,
        Option(
            "nodes of the draft tree that the target verifies, not counting the root", at_least=1, common=True
        ),
    ] = 59
    depth: Annotated[
        int,
        Option("levels of the draft tree below the root", "D", at_least=1, at_most=MOST_DEPTH, common=True),
    ] = 6
    tree_top_k: Annotated[
        int, Option("nodes expanded on each level of the tree", "K", at_least=1, at_most=MOST_TOP_K)
    ] = 10
    score_precision: Annotated[
        ScorePrecision,
        Option("precision in which confidences are summed along a path: float32, or the model's own"),
    ] = "float32"
    expand_by_value: Annotated[
        bool,
        Option(
            "expand the nodes with the best product of confidences along their path; off, by their own "
            'confidence alone (Table 3 of the paper, "w/o value")'
        ),
    ] = True
    rerank: Annotated[
        bool,
        Option(
            "keep the best nodes of all levels; off, keep the nodes that were expanded (Table 3 of the "
            'paper, "w/o reranking")'
        ),
    ] = True

    @classmethod
    def of(cls, given: Mapping[str, Any], tree: TreeOptions) -> Self:
        """A small tree keeps every candidate, unless the number of draft tokens is given too."""
        sizes = [name for name in cls.sizes if name in given]
        if tree.is_auto:
            if sizes:
                raise ConfigError(
                    f"tree is 'auto', which chooses the size of each tree, but {sizes[0]} is "
                    f"{given[sizes[0]]}; leave one of them out."
                )
            return cls(draft_tokens=AUTO_DRAFT_TOKENS, depth=AUTO_DEPTH, tree_top_k=AUTO_TOP_K, **given)
        if "draft_tokens" in given or not sizes:
            return cls(**given)
        candidates = cls(**given, draft_tokens=1).num_candidates
        return cls(**given, draft_tokens=min(cls().draft_tokens, candidates))

    @classmethod
    def means_fixed(cls, given: Mapping[str, Any]) -> bool:
        """A size, or one of the paper's ablations."""
        return any(size in given for size in cls.sizes) or not (
            given.get("expand_by_value", True) and given.get("rerank", True)
        )

    def check(self) -> None:
        """Raise ConfigError where the sizes do not go together."""
        if self.draft_tokens > self.num_candidates:
            raise ConfigError(
                f"draft_tokens is {self.draft_tokens}, but depth {self.depth} and tree_top_k "
                f"{self.tree_top_k} give only {self.num_candidates} candidates; "
                "lower draft_tokens or raise one of the two."
            )

    def check_auto(self) -> None:
        """Raise ConfigError for the ablations."""
        if not (self.expand_by_value and self.rerank):
            raise ConfigError("tree is 'auto', which needs expand_by_value and rerank; set tree='fixed'.")

    @property
    def num_candidates(self) -> int:
        """Nodes that expansion makes before rerank: K + (D - 1) K^2."""
        return self.tree_top_k + (self.depth - 1) * self.tree_top_k**2

    @property
    def own_draft_tokens(self) -> int:
        """The size of the tree."""
        return self.draft_tokens


@register_drafter("eagle2", options=Eagle2Options, head="eagle", default_tree="auto")
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

    def __init__(self, head: AnyEagleHead) -> None:
        super().__init__(head)
        self._rounding = {"float32": unrounded, "model": head.runtime.round_score}

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the head keeps its first `keep` pairs."""
        assert isinstance(context.options, Eagle2Options), "the options of this method"
        self._options = context.options
        super().begin(context, keep)

    @property
    def rounding(self) -> Rounding:
        """Rounds sums of log confidences to the option's precision."""
        return self._rounding[self._options.score_precision]

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """Expand by value, then keep the best nodes of all levels."""
        if max_depth < 1:
            return root_only(token_ids[-1])
        with self.expander(token_ids) as expand:
            return grow_tree(
                token_ids[-1],
                self._options,
                expand,
                max_depth=max_depth,
                terminal=self._context.stop_token_ids,
                rounding=self.rounding,
            )


def grow_tree(
    root: int,
    options: Eagle2Options,
    expand: Expand,
    *,
    max_depth: int,
    terminal: Collection[int] = (),
    rounding: Rounding = unrounded,
) -> DraftTree:
    """Expand and rerank: EAGLE-2's drafting, or without one of its parts where `options` says so.

    Args:
        root: token id at the top.
        options: sizes of the tree, and which parts there are.
        expand: drafts a level.
        max_depth: no node is deeper, whatever `options` says: the context ends there.
        terminal: stop tokens, which are never expanded.
        rounding: rounds each sum of logs (score_precision).
    """
    depth = min(options.depth, max_depth)
    rules = TreeRules(options.tree_top_k, terminal, rounding=rounding, by_value=options.expand_by_value)
    builder = rules.builder(depth)
    if depth:
        grow(builder, expand, options.tree_top_k)
    keep = builder.finish if options.rerank else builder.expanded
    return DraftTree(*keep(root, options.draft_tokens), best=best_of(builder, root))
