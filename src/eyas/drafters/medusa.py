"""Medusa: several heads look one, two, three, four tokens further ahead, each for itself.

Source: Medusa (arXiv 2401.10774), Sec. 2. With the target's feature f_t a Medusa head k = 0.. predicts the
token at t + 2 + k: residual blocks, then an LM head, the target's own or (published files) one of its own.
The token at t + 1 is the target's business. In eyas that one is committed already: it is the root.

    position        n-1          n            n+1          n+2
    token           x_{n-1}      x_n = root   depth 1      depth 2
    feature         f_{n-1}      -            head 0 of f_{n-1}, head 1 of f_{n-1}, ..

So the feature that counts is the newest one there is, that of the token *before* the root. A head does not
see which token was drafted above it: all nodes of a level have the same children (`_static_tree.py` says
which of them are kept).

At temperature > 0 the paper judges by what is typical of the target, which changes its distribution; that is
an option here (`medusa_lossy_typical`). By default the walk keeps plain decoding's ids, and children are
chosen with the sampler's own noise (docs/algorithm.md, section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from eyas.config import at_least
from eyas.drafters._static_tree import TREE, WIDTH, first_nodes
from eyas.drafters._target import check_target, check_vocabulary, draft_head
from eyas.expansion import Frontier, grow_static
from eyas.interfaces import (
    Coupling,
    DraftContext,
    DraftFiles,
    DraftOptions,
    Features,
    LMHead,
    ResBlock,
    Runtime,
    option,
)
from eyas.models import read_medusa_checkpoint
from eyas.registry import register_drafter
from eyas.tree import DraftTree, Floats, Ints, Prefix, root_only
from eyas.verification import WALK, Rule, TypicalAcceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class MedusaOptions(DraftOptions):
    """Size of the tree, and how it is judged at temperature > 0."""

    medusa_draft_tokens: int = option(len(TREE), "nodes kept of the static tree, those worth most first")
    medusa_lossy_typical: bool = option(
        False, "accept what is typical of the target, as the paper does: the answer's distribution changes"
    )

    def __post_init__(self) -> None:
        at_least("medusa_draft_tokens", self.medusa_draft_tokens, 1)

    @property
    def rule(self) -> Rule:
        """The walk, or typical acceptance."""
        return TypicalAcceptance() if self.medusa_lossy_typical else WALK


@register_drafter("medusa", options=MedusaOptions, head="medusa")
class Medusa:
    """Medusa heads over a static tree of 63 nodes; needs Medusa heads for the target."""

    def __init__(
        self,
        runtime: Runtime,
        blocks: Sequence[Sequence[ResBlock]],
        lm_heads: Sequence[LMHead] | None,
        draft_ids: Ints | None,
    ) -> None:
        self.runtime = runtime
        self.num_heads = len(blocks)
        self._blocks = blocks
        self._lm_heads = lm_heads
        self._draft_ids = draft_ids

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
        lm_heads = None
        if checkpoint.lm_heads is not None:
            check_vocabulary(runtime, directory, len(checkpoint.lm_heads[0]))
            lm_heads = [runtime.own_lm_head(weight, None) for weight in checkpoint.lm_heads]
        blocks = [[runtime.res_block(*block, None) for block in head] for head in checkpoint.blocks]
        return cls(runtime, blocks, lm_heads, checkpoint.draft_ids)

    def open(self) -> "Session":
        """A session that knows no feature yet."""
        return Session(self)

    def lm_heads(self, prompt_ids: Sequence[int]) -> list[LMHead]:
        """The LM head of each Medusa head, for one answer."""
        if self._lm_heads is not None:
            return list(self._lm_heads)
        return [draft_head(self.runtime, self._draft_ids, prompt_ids)] * self.num_heads

    def look(self, head: int, feature: Features) -> Features:
        """(1, H) what a head makes of a feature (1, H), for its LM head."""
        for block in self._blocks[head]:
            feature = block(feature)
        return feature


class Session:
    """One sequence's newest feature; heads have no cache."""

    def __init__(self, drafter: Medusa) -> None:
        self.num_forwards = 0
        self._drafter = drafter

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002 - the newest feature is to come
        """Start an answer."""
        assert isinstance(context.options, MedusaOptions), "the options of this method"
        self.num_forwards = 0
        self._context = context
        self._lm_heads = self._drafter.lm_heads(context.prompt_ids)
        self._tree = first_nodes(context.options.medusa_draft_tokens)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - heads read none
        """Remember the newest feature."""
        self._feature = features[-1:]

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The static tree, each level filled by its head."""
        depth = min(max_depth, self._drafter.num_heads)
        if depth < 1:
            return root_only(token_ids[-1])
        self.num_forwards += 1
        levels = _Levels(self, Prefix(token_ids[len(self._context.prompt_ids) :]))
        return grow_static(
            token_ids[-1], self._tree, levels, max_depth=depth, terminal=self._context.stop_token_ids
        )

    def children(self, head: int, prefix: Prefix) -> tuple[Ints, Floats]:
        """(1, K) best tokens and log confidences of a head, after an answer and the path above."""
        context = self._context
        coupling = Coupling(context.sampler, [prefix], 1.0) if context.is_coupled else None
        if context.laps is not None:
            context.laps.mark("tree")
        top = self._lm_heads[head].top_k(self._drafter.look(head, self._feature), WIDTH, coupling)
        if context.laps is not None:
            context.laps.mark("draft")
        return top.token_ids, top.log_probs


class _Levels:
    """Fills one tree level by level. Penalties see the most probable path for every node of a level."""

    def __init__(self, session: Session, prefix: Prefix) -> None:
        self._session = session
        self._prefix = prefix
        self._head = 0

    def __call__(self, frontier: Frontier | None) -> tuple[Ints, Floats]:
        """The same children for each of the frontier's nodes."""
        count = 1
        if frontier is not None:
            count = len(frontier.token_ids)
            self._head += 1
            self._prefix = self._prefix.extended(frontier.token_ids[0])
        token_ids, log_probs = self._session.children(self._head, self._prefix)
        return np.repeat(token_ids, count, axis=0), np.repeat(log_probs, count, axis=0)
