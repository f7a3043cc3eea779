"""Hydra: Medusa's tree, with heads that see which tokens were drafted above them.

Source: Hydra (arXiv 2402.05109), Sec. 3; Hydra++ is its Sec. 4. With the newest feature f (that of the token
before the root) the children of a node at depth i, whose path below the root is y_1..y_i, come from head i:

    z = [c; e(root); e(y_1); ..; e(y_i)]                        e: the target's embedding
    b = R z + SiLU(A z + a), then b + SiLU(B b + b') a few times    B, b': one and the same block
    logits = LM head of b                                       the target's own, or one of the head's own

Hydra takes c = f. Hydra++ runs a decoder layer with its own final norm over all features so far, and c is its
newest output. The features are true ones only, so the layer's cache is one causal pass over what was
committed (docs/laws.md, L7), a position per feature.

On disk, for head i = 0.. (the misspelling is the published one):

    prefix_embeding_layer.layers.0.*  .norm.weight              "prefix-mlp" (Hydra++) only: a decoder layer
    hydra_mlp.{i}.{j}.linear.weight|bias                        block j; the first reads (i + 2) h numbers
    hydra_mlp.{i}.{first}.res_connection.weight|bias            and so has a linear map around it
    hydra_lm_head.{i}[.1].weight [V, h] |bias [V]               the head's own LM head

All `hydra_num_layers` - 1 blocks after the first are one and the same. Published files repeat it under each
of its places; dropout modules lie between them, so places are 1, 3, 5, .. for "prefix-mlp" and 0, 1, 2, ..
for "mlp". What eyas writes holds it once, and no LM heads: the target's own reads the blocks' outputs, its
rows for the draft vocabulary. Published configs lack the sizes of the prefix layer: those of the base model's
config.json belong there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from eyas.config import Option
from eyas.drafters.head_arrays import Arrays
from eyas.drafters.head_layers import stack_config, stack_shapes
from eyas.drafters.heads import HeadFile, register_head
from eyas.drafters.ranked import Frontier
from eyas.drafters.registry import register_drafter
from eyas.drafters.static_tree import TREE, LevelHeads, LevelInputs, StaticTreeSession
from eyas.drafters.target import read_for_target
from eyas.engine.interfaces import (
    DraftContext,
    DraftFiles,
    DraftOptions,
    DraftStack,
    Features,
    Runtime,
)
from eyas.engine.tree import Ints, Prefix
from eyas.errors import CheckpointError
from eyas.models.spec import StackSpec

PREFIX = "prefix_embeding_layer."


@dataclass(frozen=True)
class HydraHeadConfig:
    """Sizes of Hydra heads: so many, of so many residual blocks each.

    Attributes:
        prefix: the decoder layer of Hydra++; None for Hydra.
        own_vocab: rows of the LM heads of their own; None where the target's is used.
    """

    heads: int
    layers: int
    hidden_size: int
    prefix: StackSpec | None
    own_vocab: int | None = None

    @property
    def places(self) -> list[int]:
        """Where the blocks of a head lie in published files."""
        return [2 * block + 1 if self.prefix else block for block in range(self.layers)]

    def block(self, head: int, number: int) -> str:
        """Name of a head's block."""
        return f"hydra_mlp.{head}.{self.places[number]}"

    def lm_head(self, head: int) -> str:
        """Name of a head's own LM head."""
        return f"hydra_lm_head.{head}.1" if self.prefix else f"hydra_lm_head.{head}"


def _config(file: HeadFile) -> HydraHeadConfig:
    document = file.document
    heads, layers = file.number("hydra_num_heads"), file.number("hydra_num_layers")
    arch, is_grounded = document.get("hydra_head_arch"), document.get("grounded_heads", True)
    if min(heads, layers) < 1 or arch not in ("mlp", "prefix-mlp") or not is_grounded:
        raise CheckpointError(
            f"{file.directory}/config.json has {heads} heads of {layers} layers, hydra_head_arch {arch!r} "
            f"and grounded_heads {is_grounded}; eyas reads grounded 'mlp' and 'prefix-mlp'."
        )
    prefix = None
    if arch == "prefix-mlp":
        prefix = stack_config({**document, "num_hidden_layers": 1}, file.directory)
    hidden = prefix.hidden_size if prefix else file.hidden_size("hydra_mlp.0.0.linear.bias")
    config = HydraHeadConfig(heads, layers, hidden, prefix)
    return replace(config, own_vocab=file.own_vocabulary(config.lm_head(0) + ".weight"))


def _tensors(config: HydraHeadConfig) -> dict[str, tuple[int, ...]]:
    """The shared block at its first place."""
    hidden = config.hidden_size
    shapes = {} if config.prefix is None else stack_shapes(config.prefix, PREFIX)
    for head in range(config.heads):
        for number in range(min(2, config.layers)):
            inputs = hidden if number else (head + 2) * hidden
            for part in ("linear",) if number else ("linear", "res_connection"):
                shapes[f"{config.block(head, number)}.{part}.weight"] = (hidden, inputs)
                shapes[f"{config.block(head, number)}.{part}.bias"] = (hidden,)
        if config.own_vocab is not None:
            shapes[f"{config.lm_head(head)}.weight"] = (config.own_vocab, hidden)
            shapes[f"{config.lm_head(head)}.bias"] = (config.own_vocab,)
    return shapes


def _copies(config: HydraHeadConfig) -> dict[str, str]:
    """The shared block at its further places."""
    return {
        f"{config.block(head, number)}.linear.{part}": f"{config.block(head, 1)}.linear.{part}"
        for head in range(config.heads)
        for number in range(2, config.layers)
        for part in ("weight", "bias")
    }


HYDRA = register_head(
    "hydra",
    title="Hydra heads",
    config=_config,
    tensors=_tensors,
    trainer="eyas.training.hydra:HydraTrainer",
    files=("model.safetensors", "hydra_lm_head.safetensors", "hydra_lm_head.pt"),
    unused=("input_embed_fn.weight", PREFIX + "embed_tokens.weight", "*.rotary_emb.inv_freq"),
    copies=_copies,
    mark=("hydra_num_heads", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HydraOptions(DraftOptions):
    """Size of the tree."""

    hydra_draft_tokens: Annotated[
        int, Option("nodes kept of the static tree, the most valuable first", at_least=1)
    ] = len(TREE)

    @property
    def own_draft_tokens(self) -> int:
        """The nodes that are kept."""
        return self.hydra_draft_tokens


@register_drafter("hydra", options=HydraOptions, head="hydra")
class Hydra:
    """Hydra heads (or Hydra++) over Medusa's static tree; needs Hydra heads for the target."""

    def __init__(self, heads: LevelHeads, prefix: DraftStack | None) -> None:
        self._heads = heads
        self._prefix = prefix

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the heads and put them on the runtime."""
        directory: Path = files.head()
        file = read_for_target(HYDRA, runtime, directory, lambda config: config.hidden_size)
        config, weights = file.config, file.weights

        def layer(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        blocks = []
        for head in range(config.heads):
            first = config.block(head, 0)
            blocks.append([runtime.res_block(*layer(f"{first}.linear"), layer(f"{first}.res_connection"))])
            if config.layers > 1:
                shared = runtime.res_block(*layer(f"{config.block(head, 1)}.linear"), None)
                blocks[-1] += [shared] * (config.layers - 1)
        has_own = config.own_vocab is not None
        own = [layer(config.lm_head(head)) for head in range(config.heads) if has_own]
        heads = LevelHeads(runtime, directory, blocks, own, file.draft_ids)
        prefix = None
        if config.prefix is not None:
            names = (name for name in weights if name.startswith(PREFIX))
            stack: Arrays = {name.removeprefix(PREFIX): weights[name] for name in names}
            prefix = runtime.decoder_stack(config.prefix, stack)
        return cls(heads, prefix)

    def open(self) -> "HydraSession":
        """A session that has read nothing."""
        reader = Newest() if self._prefix is None else PrefixReader(self._heads.runtime, self._prefix)
        return HydraSession(self._heads, reader)


class Reader(Protocol):
    """Makes of the committed features what the heads condition on."""

    num_forwards: int  # of one `read`

    @property
    def num_waiting(self) -> int:
        """Features that the next `read` reads."""
        ...

    def begin(self, keep: int) -> None:
        """Start an answer on the first `keep` features."""
        ...

    def extend(self, features: Features) -> None:
        """Features (T, H) were committed."""
        ...

    def fork(self) -> "Reader":
        """A reader with a copy of what this one has read, and of what waits."""
        ...

    def read(self) -> Features:
        """(1, H) c, up to the newest feature."""
        ...


class Newest:
    """The newest feature itself (Hydra)."""

    num_forwards = 0
    num_waiting = 1

    def begin(self, keep: int) -> None:
        """Nothing to keep: the newest feature is to come."""

    def extend(self, features: Features) -> None:
        """Remember the newest one."""
        self._feature = features[-1:]

    def fork(self) -> "Newest":
        """Nothing to copy: the newest feature is to come."""
        return Newest()

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

    @property
    def num_waiting(self) -> int:
        """Features that the layer has not read yet."""
        return sum(len(features) for features in self._waiting)

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

    def fork(self) -> "PrefixReader":
        """A reader with a copy of the cache."""
        fork = PrefixReader(self._runtime, self._stack)
        fork._cache, fork._waiting = self._cache.fork(self._cache.length), [*self._waiting]
        return fork

    def read(self) -> Features:
        """Read what waits; the output of its last row."""
        features = self._waiting[0] if len(self._waiting) == 1 else self._runtime.join(self._waiting)
        self._waiting = []
        outputs = self._stack.forward(self._cache, features)
        self._cache.commit(range(len(features)))
        return outputs[-1:]


class HydraSession(StaticTreeSession):
    """One sequence's features, as its heads condition on them."""

    def __init__(self, heads: LevelHeads, reader: Reader) -> None:
        super().__init__(heads)
        self.reader = reader
        self._runtime = heads.runtime

    def begin(self, context: DraftContext, keep: int = 0) -> None:
        """Start an answer; the prefix keeps its first `keep` features."""
        assert isinstance(context.options, HydraOptions), "the options of this method"
        self.start(context, context.options.hydra_draft_tokens)
        self.reader.begin(keep)

    def fork(self) -> "HydraSession":
        """A session with a copy of what was read."""
        return HydraSession(self._networks, self.reader.fork())

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - `propose` gets them
        """Remember the committed features."""
        self.reader.extend(features)

    def unread(self, token_ids: Sequence[int], most: int) -> int:  # noqa: ARG002 - the layer reads all of them
        """Features that the prefix layer reads before the heads draft."""
        return self.reader.num_waiting

    def first_level(self, root: int, answer: Prefix) -> LevelInputs:
        """The parts c and e(root) of z."""
        self.num_forwards += self.reader.num_forwards + 1
        with self.drafting():
            return LevelInputs([self.reader.read(), self._embed(np.array([root]))], [answer])

    def next_level(self, level: LevelInputs, frontier: Frontier) -> LevelInputs:
        """For each node the parts of its parent, and its own embedding."""
        self.num_forwards += 1
        above = [self._runtime.select(part, frontier.parent_rows) for part in level.inputs]
        parts = [*above, self._embed(frontier.token_ids)]
        paths = zip(frontier.parent_rows.tolist(), frontier.token_ids.tolist(), strict=True)
        return LevelInputs(parts, [level.prefixes[row].extended(token) for row, token in paths])

    def _embed(self, token_ids: Ints) -> Features:
        return self._runtime.embed(token_ids)
