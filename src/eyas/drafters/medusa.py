"""Medusa: several heads look one, two, three, four tokens further ahead, each for itself.

Source: Medusa (arXiv 2401.10774), Sec. 2. With the target's feature f_t a Medusa head k = 0.. predicts the
token at t + 2 + k: residual blocks, then an LM head: one of its own (published files), or a linear map and
the target's.
The token at t + 1 is the target's business. In eyas that one is committed already: it is the root.

    position        n-1          n            n+1          n+2
    token           x_{n-1}      x_n = root   depth 1      depth 2
    feature         f_{n-1}      -            head 0 of f_{n-1}, head 1 of f_{n-1}, ..

So the feature that counts is the newest one there is, that of the token *before* the root. A head does not
see which token was drafted above it: all nodes of a level have the same children (`static_tree.py` says
which of them are kept).

At temperature > 0 the paper judges by what is typical of the target, which changes its distribution; that is
an option here (`medusa_lossy_typical`). By default the walk keeps plain decoding's ids, and children are
chosen with the sampler's own noise (docs/algorithm.md, section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from eyas.config import Option
from eyas.drafters.medusa_checkpoint import read_medusa_checkpoint
from eyas.drafters.policy.expansion import Frontier
from eyas.drafters.registry import register_drafter
from eyas.drafters.static_tree import TREE, Heads, Level, StaticTreeSession
from eyas.drafters.target import check_target
from eyas.engine.interfaces import (
    DraftContext,
    DraftFiles,
    DraftOptions,
    Features,
    Linear,
    ResBlock,
    Runtime,
)
from eyas.engine.tree import Prefix
from eyas.engine.verification import WALK, Rule, TypicalAcceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class MedusaOptions(DraftOptions):
    """Size of the tree, and how it is judged at temperature > 0."""

    medusa_draft_tokens: Annotated[
        int, Option("nodes kept of the static tree, the most valuable first", at_least=1)
    ] = len(TREE)
    medusa_lossy_typical: Annotated[
        bool,
        Option(
            "accept tokens that are typical of the target, as the paper does; this changes the answer's "
            "distribution"
        ),
    ] = False

    @property
    def rule(self) -> Rule:
        """The walk, or typical acceptance."""
        return TypicalAcceptance() if self.medusa_lossy_typical else WALK


@register_drafter("medusa", options=MedusaOptions, head="medusa")
class Medusa:
    """Medusa heads over a static tree of 63 nodes; needs Medusa heads for the target."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the heads and put them on the runtime."""
        directory: Path = files.head()
        checkpoint = read_medusa_checkpoint(directory)
        check_target(
            runtime,
            directory,
            hidden_size=checkpoint.hidden_size,
            fingerprint=checkpoint.fingerprint,
            draft_ids=checkpoint.draft_ids,
            training="eyas train medusa",
        )
        layers: list[list[ResBlock | Linear]] = [
            [runtime.res_block(*block, None) for block in head] for head in checkpoint.blocks
        ]
        for head, output in zip(layers, checkpoint.outputs, strict=bool(checkpoint.outputs)):
            head.append(runtime.linear(*output))
        own = [(weight, None) for weight in checkpoint.lm_heads or ()]
        return cls(Heads(runtime, directory, layers, own, checkpoint.draft_ids))

    def open(self) -> "Session":
        """A session that knows no feature yet."""
        return Session(self._heads)


class Session(StaticTreeSession):
    """One sequence's newest feature; heads have no cache."""

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002 - the newest feature is to come
        """Start an answer."""
        assert isinstance(context.options, MedusaOptions), "the options of this method"
        self.start(context, context.options.medusa_draft_tokens)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - heads read none
        """Remember the newest feature."""
        self._feature = features[-1:]

    def first_level(self, root: int, answer: Prefix) -> Level:  # noqa: ARG002 - heads read no token
        """The newest feature. All heads together count as one pass."""
        self.num_forwards += 1
        return Level([self._feature], [answer])

    def next_level(self, level: Level, frontier: Frontier) -> Level:
        """The same feature for all nodes. Penalties see the most probable path for every one of them."""
        return Level(level.inputs, [level.prefixes[0].extended(frontier.token_ids[0])])
