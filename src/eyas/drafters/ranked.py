"""What a drafter offers so that a tree policy can choose the size of its trees.

Every session proposes the method's own tree (`propose`), which is the policy `fixed`. A session that derives
from one of the two classes here can be sized too (`tree="auto"`, `eyas.drafters.policy`):

* `RankedSession` ranks the children of any node: the policy asks for one level after the other.
* `ContinuationSession` knows one continuation at once, without a network.

Neither contains anything of the policy. `PlainSession` never proposes anything, so every policy fits it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from eyas.drafters.acceptance import AcceptanceMap
from eyas.drafters.tree_builder import Rounding, TreeShape, unrounded
from eyas.engine.interfaces import DraftContext, DraftSession, Features
from eyas.engine.tree import DraftTree, Floats, Ints
from eyas.engine.tree_options import AUTO_DEPTH, AUTO_DRAFT_TOKENS, AUTO_TOP_K

MOST_DEPTH = 128  # of a method's own tree: each level is a pass of its draft network


class Frontier(NamedTuple):
    """The F nodes of one level that are expanded next.

    Attributes:
        token_ids: (F,) their tokens.
        parent_rows: (F,) row of each node's parent in the frontier before (the root is row 0).
        nodes: of a tree of fixed shape, their indices in it.
    """

    token_ids: Ints
    parent_rows: Ints
    nodes: Sequence[int] = ()


# Runs the draft network on a frontier (None: the root) for the k best children of each node: (token ids (F,
# K), log confidences (F, K)), most confident first; a child of log confidence -inf does not exist. Levels in
# order.
Expand = Callable[[Frontier | None, int], tuple[Ints, Floats]]


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """How large a drafter's trees may get.

    Attributes:
        shape: which nodes there may be, by their sibling ranks; None for all.
    """

    draft_tokens: int = AUTO_DRAFT_TOKENS
    depth: int = AUTO_DEPTH
    top_k: int = AUTO_TOP_K  # nodes expanded on a level, and children of each
    shape: TreeShape | None = None


DEFAULT_LIMITS = TreeLimits()


class SizableSession(DraftSession, ABC):
    """A session whose trees have a size that can be chosen."""

    @property
    @abstractmethod
    def num_forwards(self) -> int:
        """Forward passes of the draft network since `begin`."""

    @abstractmethod
    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the first `keep` committed tokens are those of the one before."""

    @abstractmethod
    def fork(self) -> "SizableSession":
        """A session with a copy of what this one has read, for an answer that begins alike."""

    @abstractmethod
    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Tokens were committed, with the target's features of the rows before them."""

    @abstractmethod
    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The method's own tree."""


class RankedSession(SizableSession):
    """A session of a drafter that ranks the children of any node."""

    @property
    def acceptance(self) -> AcceptanceMap | None:
        """Maps confidences to acceptance rates; None takes them as they are."""
        return None

    @property
    def rounding(self) -> Rounding:
        """Rounds each sum of log confidences."""
        return unrounded

    def limits(self, token_ids: Sequence[int]) -> TreeLimits:  # noqa: ARG002
        """How large a tree below the root `token_ids[-1]` may get; in an answer only the depth changes."""
        return DEFAULT_LIMITS

    def unread(self, token_ids: Sequence[int], most: int) -> int:  # noqa: ARG002
        """Committed tokens that the network reads before it drafts below the root `token_ids[-1]`.

        A drafter that can skip tokens reads only the last `most`.
        """
        return 1

    @abstractmethod
    def expander(
        self, token_ids: Sequence[int], most_read: int | None = None
    ) -> AbstractContextManager[Expand]:
        """Get ready to draft below the root `token_ids[-1]`; leaving the context ends the tree.

        Args:
            token_ids: everything committed, prompt included, root last.
            most_read: as `most` of `unread`; None reads everything.
        """


class Continuation(NamedTuple):
    """Tokens that may follow the root.

    Attributes:
        matched: tokens at the end of the text that also stand before the place this was taken from; the more
            there are, the likelier it is to be accepted.
    """

    token_ids: Sequence[int] = ()
    matched: int = 0


class ContinuationSession(SizableSession):
    """A session of a drafter that proposes one continuation, found without a network."""

    @abstractmethod
    def continuation(self, token_ids: Sequence[int], max_depth: int) -> Continuation:
        """At most `max_depth` tokens that may follow `token_ids`, none of them a stop token."""


class PlainSession:
    """A session that proposes no draft token."""
