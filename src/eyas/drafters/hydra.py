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
from typing import Annotated, Protocol, Self

import numpy as np

from eyas.config import Option
from eyas.drafters.hydra_checkpoint import read_hydra_checkpoint
from eyas.drafters.policy.expansion import Frontier
from eyas.drafters.registry import register_drafter
from eyas.drafters.static_tree import TREE, Heads, Level, StaticTreeSession
from eyas.drafters.target import check_target
from eyas.engine.interfaces import (
    DraftContext,
    DraftFiles,
    DraftOptions,
    DraftStack,
    Features,
    Runtime,
)
from eyas.engine.tree import Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class HydraOptions(DraftOptions):
    """Size of the tree."""

    hydra_draft_tokens: Annotated[
        int, Option("nodes kept of the static tree, the most valuable first", at_least=1)
    ] = len(TREE)


@register_drafter("hydra", options=HydraOptions, head="hydra")
class Hydra:
    """Hydra heads (or Hydra++) over Medusa's static tree; needs Hydra heads for the target."""

    def __init__(self, heads: Heads, prefix: DraftStack | None) -> None:
        self._heads = heads
        self._prefix = prefix

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
        blocks = []
        for head in checkpoint.heads:
            shared = [] if head.shared is None else [runtime.res_block(*head.shared, None)]
            blocks.append([runtime.res_block(*head.first, head.shortcut), *shared * (sizes.layers - 1)])
        own = [head.lm_head for head in checkpoint.heads if head.lm_head is not None]
        heads = Heads(runtime, directory, blocks, own, checkpoint.draft_ids)
        prefix = None if sizes.prefix is None else runtime.decoder_stack(sizes.prefix, checkpoint.prefix)
        return cls(heads, prefix)

    def open(self) -> "Session":
        """A session that has read nothing."""
        reader = Newest() if self._prefix is None else PrefixReader(self._heads.runtime, self._prefix)
        return Session(self._heads, reader)


class Reader(Protocol):
    """Makes of the committed features what the heads condition on."""

    num_forwards: int  # of one `read`

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

    num_forwards = 1

    def __init__(self, runtime: Runtime, stack: DraftStack) -> None:
        self._runtime = runtime
        self._stack = stack
        self._cache = stack.new_cache()
        self._waiting: list[Features] = []

    def begin(self, keep: int) -> None:
        """Keep what was read, or waits, of the first `keep` features."""
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
        outputs = self._stack.forward(self._cache, features)
        self._cache.commit(range(len(features)))
        return outputs[-1:]


class Session(StaticTreeSession):
    """One sequence's features, as its heads condition on them."""

    def __init__(self, heads: Heads, reader: Reader) -> None:
        super().__init__(heads)
        self.reader = reader
        self._runtime = heads.runtime

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the prefix keeps its first `keep` features."""
        assert isinstance(context.options, HydraOptions), "the options of this method"
        self.start(context, context.options.hydra_draft_tokens)
        self.reader.begin(keep)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - `propose` gets them
        """Remember the committed features."""
        self.reader.extend(features)

    def first_level(self, root: int, answer: Prefix) -> Level:
        """The parts c and e(root) of z."""
        self.num_forwards += self.reader.num_forwards + 1
        with self.drafting():
            return Level([self.reader.read(), self._embed([root])], [answer])

    def next_level(self, level: Level, frontier: Frontier) -> Level:
        """For each node the parts of its parent, and its own embedding."""
        self.num_forwards += 1
        above = [self._runtime.select(part, frontier.parent_rows) for part in level.inputs]
        parts = [*above, self._embed(frontier.token_ids)]
        paths = zip(frontier.parent_rows, frontier.token_ids, strict=True)
        return Level(parts, [level.prefixes[row].extended(token) for row, token in paths])

    def _embed(self, token_ids: Sequence[int]) -> Features:
        return self._runtime.embed(np.array(token_ids))
