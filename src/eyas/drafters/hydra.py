"""Hydra: Medusa's tree, with heads that see which tokens were drafted above them.

Source: Hydra (arXiv 2402.05109), Sec. 3; Hydra++ is its Sec. 4. With the newest feature f (that of the token
before the root) the children of a node at depth i, whose path below the root is y_1..y_i, come from head i:

    z = [c; e(root); e(y_1); ..; e(y_i)]                        e: the target's embedding
    b = R z + SiLU(A z + a), then b + SiLU(B b + b') a few times    B, b': one and the same block
    logits = LM head of b                                       the target's own, or one of the head's own

Hydra takes c = f. Hydra++ runs a decoder layer with its own final norm over all features so far, and c is its
newest output. The features are true ones only, so the layer's cache is one causal pass over what was
committed (docs/laws.md, L7), a position per feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self

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
    DraftStack,
    Features,
    LMHead,
    ResBlock,
    Runtime,
    option,
)
from eyas.models import HydraCheckpoint, read_hydra_checkpoint
from eyas.registry import register_drafter
from eyas.tree import DraftTree, Floats, Ints, Prefix, root_only


@dataclass(frozen=True, slots=True, kw_only=True)
class HydraOptions(DraftOptions):
    """Size of the tree."""

    hydra_draft_tokens: int = option(len(TREE), "nodes kept of the static tree, those worth most first")

    def __post_init__(self) -> None:
        at_least("hydra_draft_tokens", self.hydra_draft_tokens, 1)


class Blocks(NamedTuple):
    """The blocks of one head, in order; the first reads feature and path."""

    first: ResBlock
    later: list[ResBlock]

    def __call__(self, inputs: Sequence[Features]) -> Features:
        """(F, H) from the parts of z, (F, H) each."""
        rows = self.first(*inputs)
        for block in self.later:
            rows = block(rows)
        return rows


@register_drafter("hydra", options=HydraOptions, head="hydra")
class Hydra:
    """Hydra heads (or Hydra++) over Medusa's static tree; needs Hydra heads for the target."""

    def __init__(
        self,
        runtime: Runtime,
        heads: Sequence[Blocks],
        prefix: DraftStack | None,
        lm_heads: Sequence[LMHead] | None,
        draft_ids: Ints | None,
    ) -> None:
        self.runtime = runtime
        self.heads = heads
        self._prefix = prefix
        self._lm_heads = lm_heads
        self._draft_ids = draft_ids

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the heads and put them on the runtime."""
        directory: Path = files.head()
        checkpoint = read_hydra_checkpoint(directory)
        sizes = checkpoint.sizes
        check_target(
            runtime,
            directory,
            hidden_size=sizes.hidden_size,
            fingerprint=checkpoint.fingerprint,
            draft_ids=checkpoint.draft_ids,
            training="eyas train hydra",
        )
        heads = []
        for head in checkpoint.heads:
            shared = [] if head.shared is None else [runtime.res_block(*head.shared, None)]
            first = runtime.res_block(*head.first, head.shortcut)
            heads.append(Blocks(first, shared * (sizes.layers - 1)))
        prefix = None if sizes.prefix is None else runtime.decoder_stack(sizes.prefix, checkpoint.prefix)
        lm_heads = _own_lm_heads(runtime, checkpoint, directory)
        return cls(runtime, heads, prefix, lm_heads, checkpoint.draft_ids)

    def open(self) -> "Session":
        """A session that has read nothing."""
        reader = Newest() if self._prefix is None else PrefixReader(self.runtime, self._prefix)
        return Session(self, reader)

    def lm_heads(self, prompt_ids: Sequence[int]) -> list[LMHead]:
        """The LM head of each head, for one answer."""
        if self._lm_heads is not None:
            return list(self._lm_heads)
        return [draft_head(self.runtime, self._draft_ids, prompt_ids)] * len(self.heads)


def _own_lm_heads(runtime: Runtime, checkpoint: HydraCheckpoint, directory: Path) -> list[LMHead] | None:
    own = [head.lm_head for head in checkpoint.heads if head.lm_head is not None]
    for weight, _ in own:
        check_vocabulary(runtime, directory, len(weight))
    return [runtime.own_lm_head(*layer) for layer in own] or None


class Reader(Protocol):
    """Makes of the committed features what the heads condition on."""

    num_forwards: int

    def begin(self, keep: int) -> None:
        """Start an answer on the first `keep` features."""
        ...

    def extend(self, features: Features) -> None:
        """Features (T, H) were committed."""
        ...

    def read(self) -> Features:
        """(1, H) c, up to the newest feature."""
        ...


class Newest:
    """The newest feature itself (Hydra)."""

    num_forwards = 0

    def begin(self, keep: int) -> None:
        """Nothing to keep: the newest feature is to come."""

    def extend(self, features: Features) -> None:
        """Remember the newest one."""
        self._feature = features[-1:]

    def read(self) -> Features:
        """That one."""
        return self._feature


class PrefixReader:
    """A decoder layer over all features (Hydra++), with its cache and what it has not read yet."""

    def __init__(self, runtime: Runtime, stack: DraftStack) -> None:
        self.num_forwards = 0
        self._runtime = runtime
        self._stack = stack
        self._cache = stack.new_cache()
        self._waiting: list[Features] = []

    def begin(self, keep: int) -> None:
        """Keep what was read, or waits, of the first `keep` features."""
        self.num_forwards = 0
        waiting, self._waiting = self._waiting, []
        start = self._cache.length
        self._cache.truncate(min(keep, start))
        for features in waiting:
            if keep > start:
                self._waiting.append(features[: keep - start])
            start += len(features)

    def extend(self, features: Features) -> None:
        """Remember them for the next tree."""
        self._waiting.append(features)

    def read(self) -> Features:
        """Read what waits; the output of its last row."""
        features = self._waiting[0] if len(self._waiting) == 1 else self._runtime.join(self._waiting)
        self._waiting = []
        self.num_forwards += 1
        outputs = self._stack.forward(self._cache, features)
        self._cache.commit(range(len(features)))
        return outputs[-1:]


class Session:
    """One sequence's prefix; fills the static tree in each cycle."""

    def __init__(self, drafter: Hydra, reader: Reader) -> None:
        self.reader = reader
        self._drafter = drafter
        self._num_levels = 0

    @property
    def num_forwards(self) -> int:
        """Passes of the prefix layer and of single heads since `begin`."""
        return self.reader.num_forwards + self._num_levels

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the prefix keeps its first `keep` features."""
        assert isinstance(context.options, HydraOptions), "the options of this method"
        self._num_levels = 0
        self._context = context
        self._lm_heads = self._drafter.lm_heads(context.prompt_ids)
        self._tree = first_nodes(context.options.hydra_draft_tokens)
        self.reader.begin(keep)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - `propose` gets them
        """Remember the committed features."""
        self.reader.extend(features)

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """The static tree, each node's children from the head of its depth."""
        depth = min(max_depth, len(self._drafter.heads))
        if depth < 1:
            return root_only(token_ids[-1])
        laps = self._context.laps
        if laps is not None:
            laps.mark("tree")
        parts = [self.reader.read(), self.embed(token_ids[-1:])]
        if laps is not None:
            laps.mark("draft")
        levels = _Levels(self, parts, Prefix(token_ids[len(self._context.prompt_ids) :]))
        return grow_static(
            token_ids[-1], self._tree, levels, max_depth=depth, terminal=self._context.stop_token_ids
        )

    def embed(self, token_ids: Sequence[int]) -> Features:
        """(F, H) embeddings of a level's tokens."""
        return self._drafter.runtime.embed(np.array(token_ids))

    def children(
        self, head: int, parts: Sequence[Features], prefixes: Sequence[Prefix]
    ) -> tuple[Ints, Floats]:
        """(F, K) best tokens and log confidences below nodes of one level."""
        context, laps = self._context, self._context.laps
        coupling = Coupling(context.sampler, prefixes, 1.0) if context.is_coupled else None
        self._num_levels += 1
        if laps is not None:
            laps.mark("tree")
        top = self._lm_heads[head].top_k(self._drafter.heads[head](parts), WIDTH, coupling)
        if laps is not None:
            laps.mark("draft")
        return top.token_ids, top.log_probs


class _Levels:
    """Fills one tree level by level: for each frontier node the parts of its z, and its prefix."""

    def __init__(self, session: Session, parts: list[Features], answer: Prefix) -> None:
        self._session = session
        self._parts = parts
        self._prefixes = [answer]

    def __call__(self, frontier: Frontier | None) -> tuple[Ints, Floats]:
        """Children of the frontier's nodes."""
        if frontier is not None:
            rows = np.array(frontier.parent_rows)
            self._parts = [part[rows] for part in self._parts]
            self._parts.append(self._session.embed(frontier.token_ids))
            self._prefixes = [
                self._prefixes[row].extended(token)
                for row, token in zip(frontier.parent_rows, frontier.token_ids, strict=True)
            ]
        return self._session.children(len(self._parts) - 2, self._parts, self._prefixes)
