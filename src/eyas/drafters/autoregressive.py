"""Plain decoding: proposes nothing, so every cycle gives one token.

It runs through the same loop, sampler, stopping rule and clock as every method: a speed-up compares like
with like, and its ids are the oracle of law L1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from eyas.drafters.ranked import PlainSession
from eyas.drafters.registry import register_drafter
from eyas.engine.interfaces import DraftContext, DraftFiles, DraftOptions, Features, Runtime
from eyas.engine.tree import DraftTree, root_only
from eyas.engine.tree_options import TreeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoregressiveOptions(DraftOptions):
    """No options: nothing is drafted, whatever the tree policy."""

    def max_draft_tokens(self, tree: TreeOptions) -> int:  # noqa: ARG002
        """None."""
        return 0


@register_drafter("autoregressive", options=AutoregressiveOptions)
class Autoregressive:
    """Plain decoding, one token per target pass."""

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:  # noqa: ARG003 - it needs neither
        """Nothing to load."""
        return cls()

    def open(self) -> "AutoregressiveSession":
        """A session without state."""
        return AutoregressiveSession()


class AutoregressiveSession(PlainSession):
    """Proposes the root alone."""

    num_forwards = 0

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Nothing to prepare."""

    def fork(self) -> "AutoregressiveSession":
        """A new session: nothing is kept from one answer to the next."""
        return AutoregressiveSession()

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Nothing to remember."""

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:  # noqa: ARG002
        """The root alone."""
        return root_only(token_ids[-1])
