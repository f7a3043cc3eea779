"""Medusa: several heads look one, two, three, four tokens further ahead, each for itself.

Source: Medusa (arXiv 2401.10774), Sec. 2. With the target's feature f_t a Medusa head k = 0.. predicts the
token at t + 2 + k: residual blocks, then an LM head: one of its own (published files), or a linear map and
the target's.
The token at t + 1 is the target's own: in eyas it is committed already, as the root.

    position        n-1          n            n+1          n+2
    token           x_{n-1}      x_n = root   depth 1      depth 2
    feature         f_{n-1}      -            head 0 of f_{n-1}, head 1 of f_{n-1}, ..

So the feature that counts is the newest one there is, that of the token *before* the root. A head does not
see which token was drafted above it: all nodes of a level have the same children (`static_tree.py` says
which of them are kept).

At temperature > 0 the paper accepts tokens that are typical of the target, which changes its distribution;
that is an option here (`medusa_lossy_typical`). By default plain decoding's ids are kept, and children are
chosen with the sampler's own noise (docs/algorithm.md, section 4).

On disk, for head k = 0.. of m = `medusa_num_layers` residual blocks:

    {k}.{j}.linear.weight [h, h]   {k}.{j}.linear.bias [h]      block j = 0..m-1
    {k}.{m}.weight [V, h]                                       the head's own LM head

Published files (`medusa_lm_head.pt`, or .safetensors) hold an LM head for every Medusa head: gigabytes for a
large vocabulary. What eyas writes (`model.safetensors`) has a linear map in its place,

    {k}.output.weight [h, h]       {k}.output.bias [h]

and then the target's own LM head, its rows for the draft vocabulary: an LM head W O of each head's own, in
h^2 numbers instead of V h. A block can only add to what it reads (SiLU is never below -0.28), so without the
map a head could name little else than what the target would. A file has LM heads, or maps, for all heads or
for none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from numpy.typing import NDArray

from eyas.config import Option
from eyas.drafters.heads import HeadFile, register_head
from eyas.drafters.ranked import Frontier
from eyas.drafters.registry import register_drafter
from eyas.drafters.static_tree import TREE, LevelHeads, LevelInputs, StaticTreeSession
from eyas.drafters.target import read_for_target
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
from eyas.engine.verification import SAME_IDS, TYPICAL_ACCEPTANCE, AcceptanceRule
from eyas.errors import CheckpointError


@dataclass(frozen=True)
class MedusaHeadConfig:
    """Sizes of Medusa heads: so many, of so many residual blocks each."""

    hidden_size: int
    heads: int
    layers: int
    own_vocab: int | None  # rows of the LM heads of their own; None where the target's is used
    has_maps: bool  # before the target's LM head


def _config(file: HeadFile) -> MedusaHeadConfig:
    heads, layers = file.number("medusa_num_heads"), file.number("medusa_num_layers")
    if min(heads, layers) < 1:
        raise CheckpointError(
            f"{file.directory}/config.json has {heads} heads of {layers} layers; both must be at least 1."
        )
    hidden = file.hidden_size("0.0.linear.bias")
    vocab = file.own_vocabulary(f"0.{layers}.weight")
    return MedusaHeadConfig(hidden, heads, layers, vocab, vocab is None and "0.output.weight" in file.arrays)


def _tensors(config: MedusaHeadConfig) -> dict[str, tuple[int, ...]]:
    hidden, shapes = config.hidden_size, dict[str, tuple[int, ...]]()
    for head in range(config.heads):
        for layer in range(config.layers):
            shapes[f"{head}.{layer}.linear.weight"] = (hidden, hidden)
            shapes[f"{head}.{layer}.linear.bias"] = (hidden,)
        if config.own_vocab is not None:
            shapes[f"{head}.{config.layers}.weight"] = (config.own_vocab, hidden)
        if config.has_maps:
            shapes[f"{head}.output.weight"] = (hidden, hidden)
            shapes[f"{head}.output.bias"] = (hidden,)
    return shapes


MEDUSA = register_head(
    "medusa",
    title="Medusa heads",
    config=_config,
    tensors=_tensors,
    trainer="eyas.training.medusa:MedusaTrainer",
    files=("model.safetensors", "medusa_lm_head.safetensors", "medusa_lm_head.pt"),
    mark=("medusa_num_heads", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MedusaOptions(DraftOptions):
    """Size of the tree, and how it is verified at temperature > 0."""

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
    def rule(self) -> AcceptanceRule:
        """The same ids, or typical acceptance."""
        return TYPICAL_ACCEPTANCE if self.medusa_lossy_typical else SAME_IDS

    @property
    def own_draft_tokens(self) -> int:
        """The nodes that are kept."""
        return self.medusa_draft_tokens


@register_drafter("medusa", options=MedusaOptions, head="medusa")
class Medusa:
    """Medusa heads over a static tree of 63 nodes; needs Medusa heads for the target."""

    def __init__(self, heads: LevelHeads) -> None:
        self._heads = heads

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:
        """Read the heads and put them on the runtime."""
        directory: Path = files.head()
        file = read_for_target(MEDUSA, runtime, directory, lambda config: config.hidden_size)
        config, weights = file.config, file.weights

        def layer(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        layers: list[list[ResBlock | Linear]] = []
        for head in range(config.heads):
            blocks = (f"{head}.{block}.linear" for block in range(config.layers))
            layers.append([runtime.res_block(*layer(name), None) for name in blocks])
            if config.has_maps:
                layers[-1].append(runtime.linear(*layer(f"{head}.output")))
        has_own = config.own_vocab is not None
        own = [(weights[f"{head}.{config.layers}.weight"], None) for head in range(config.heads) if has_own]
        return cls(LevelHeads(runtime, directory, layers, own, file.draft_ids))

    def open(self) -> "MedusaSession":
        """A session that knows no feature yet."""
        return MedusaSession(self._heads)


class MedusaSession(StaticTreeSession):
    """One sequence's newest feature; heads have no cache."""

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002 - the newest feature is to come
        """Start an answer."""
        assert isinstance(context.options, MedusaOptions), "the options of this method"
        self.start(context, context.options.medusa_draft_tokens)

    def fork(self) -> "MedusaSession":
        """A new session: the newest feature is to come."""
        return MedusaSession(self._networks)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002 - heads read none
        """Remember the newest feature."""
        self._feature = features[-1:]

    def first_level(self, root: int, answer: Prefix) -> LevelInputs:  # noqa: ARG002 - heads read no token
        """The newest feature. All heads together count as one pass."""
        self.num_forwards += 1
        return LevelInputs([self._feature], [answer])

    def next_level(self, level: LevelInputs, frontier: Frontier) -> LevelInputs:
        """The same feature for all nodes. Penalties see the most probable path for every one of them."""
        return LevelInputs(level.inputs, [level.prefixes[0].extended(int(frontier.token_ids[0]))])
