"""Hydra heads on disk: the published layout of Hydra and Hydra++, and eyas's own with the target's LM head.

Names, for head i = 0.. (the misspelling is the published one):

    prefix_embeding_layer.layers.0.*  .norm.weight              "prefix-mlp" (Hydra++) only: a decoder layer
    hydra_mlp.{i}.{j}.linear.weight|bias                        block j; the first reads (i + 2) h numbers
    hydra_mlp.{i}.{first}.res_connection.weight|bias            and so has a linear map around it
    hydra_lm_head.{i}[.1].weight [V, h] |bias [V]               the head's own LM head

All `hydra_num_layers` - 1 blocks after the first are one and the same. Published files repeat it under each
of its places; dropout modules lie between them, so places are 1, 3, 5, .. for "prefix-mlp" and 0, 1, 2, ..
for "mlp". What eyas writes holds it once, and no LM heads: the target's own reads the blocks' outputs, its
rows for the draft vocabulary of `d2t` (`network_files`).

Published configs lack the sizes of the prefix layer: those of the base model's config.json belong there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from eyas.drafters.network_files import (
    Arrays,
    StoredPrecision,
    check_names,
    check_one_head,
    read_arrays,
    read_config,
    stack_config,
    stack_shapes,
    take_draft_ids,
    write_network,
)
from eyas.errors import CheckpointError
from eyas.models.spec import StackSpec

FILES = ("model.safetensors", "hydra_lm_head.safetensors", "hydra_lm_head.pt")
PREFIX = "prefix_embeding_layer."
UNUSED = ("input_embed_fn.weight", PREFIX + "embed_tokens.weight")  # the target's embedding, again
HydraArch = Literal["mlp", "prefix-mlp"]
Layer = tuple[NDArray[Any], NDArray[Any]]  # weight (outputs, inputs), bias (outputs,)


class HydraHead(NamedTuple):
    """One head: a block over feature and path, and one that is repeated after it."""

    first: Layer
    shortcut: Layer
    shared: Layer | None  # None where hydra_num_layers is 1
    lm_head: Layer | None  # None where the target's is used


@dataclass(frozen=True)
class HydraSizes:
    """What a config.json says.

    Attributes:
        prefix: the decoder layer of Hydra++; None for "mlp".
    """

    heads: int
    layers: int
    hidden_size: int
    prefix: StackSpec | None

    @property
    def places(self) -> list[int]:
        """Where the blocks of a head lie in published files."""
        return [2 * j + 1 if self.prefix else j for j in range(self.layers)]

    def lm_head(self, head: int) -> str:
        """Name of a head's own LM head."""
        return f"hydra_lm_head.{head}.1" if self.prefix else f"hydra_lm_head.{head}"

    def shapes(self, vocab: int | None) -> dict[str, tuple[int, ...]]:
        """Every weight, the shared block at its first place; `vocab` None has no LM heads."""
        hidden = self.hidden_size
        shapes = {} if self.prefix is None else stack_shapes(self.prefix, PREFIX)
        for head in range(self.heads):
            for order, place in enumerate(self.places[:2]):
                inputs = hidden if order else (head + 2) * hidden
                for name in ("linear",) if order else ("linear", "res_connection"):
                    shapes[f"hydra_mlp.{head}.{place}.{name}.weight"] = (hidden, inputs)
                    shapes[f"hydra_mlp.{head}.{place}.{name}.bias"] = (hidden,)
            if vocab is not None:
                shapes[f"{self.lm_head(head)}.weight"] = (vocab, hidden)
                shapes[f"{self.lm_head(head)}.bias"] = (vocab,)
        return shapes


@dataclass(frozen=True)
class HydraCheckpoint:
    """Heads as they lie on disk.

    Attributes:
        sizes: of the networks.
        prefix: weights of the prefix layer by their names in a stack; empty for "mlp".
        heads: one for each depth.
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole one.
        fingerprint: of the target that they were trained for; None for published heads.
        config: the whole config.json.
    """

    sizes: HydraSizes
    prefix: Arrays
    heads: list[HydraHead]
    draft_ids: NDArray[np.int64] | None
    fingerprint: str | None
    config: dict[str, Any]


def read_hydra_checkpoint(directory: Path) -> HydraCheckpoint:
    """Read heads.

    Raises:
        CheckpointError: files that are missing, truncated or corrupt; a name that is unknown or missing; a
            wrong shape; a shared block that is not; heads that do not read the path.
    """
    config = read_config(directory)
    arrays, source = read_arrays(directory, FILES)
    for name in [name for name in arrays if name in UNUSED or name.endswith(".rotary_emb.inv_freq")]:
        del arrays[name]
    draft_ids = take_draft_ids(arrays, config, source)
    sizes = hydra_sizes(config, directory, arrays)
    _merge_repeats(arrays, sizes, source)
    own = arrays.get(sizes.lm_head(0) + ".weight")
    check_one_head(own, draft_ids, source)
    check_names(arrays, sizes.shapes(None if own is None else len(own)), source)
    prefix = {name.removeprefix(PREFIX): w for name, w in arrays.items() if name.startswith(PREFIX)}
    return HydraCheckpoint(
        sizes=sizes,
        prefix=prefix,
        heads=[_head(arrays, sizes, head) for head in range(sizes.heads)],
        draft_ids=draft_ids,
        fingerprint=config.get("target_fingerprint"),
        config=config,
    )


def write_hydra_checkpoint(
    directory: Path,
    weights: Arrays,
    config: dict[str, Any],
    draft_ids: NDArray[np.int64] | None,
    precision: StoredPrecision = "bfloat16",
) -> None:
    """Write heads without LM heads into an existing directory.

    Raises:
        CheckpointError: names or shapes that `read_hydra_checkpoint` would refuse.
    """
    check_names(weights, hydra_sizes(config, directory, weights).shapes(None), directory)
    write_network(directory, weights, config, draft_ids, precision)


def hydra_sizes(config: dict[str, Any], directory: Path, arrays: Arrays) -> HydraSizes:
    """What config.json says of the networks, and the arrays where it says nothing of their width.

    Raises:
        CheckpointError: an entry is missing or impossible.
    """
    try:
        heads, layers = int(config["hydra_num_heads"]), int(config["hydra_num_layers"])
        arch = config["hydra_head_arch"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    if min(heads, layers) < 1 or arch not in ("mlp", "prefix-mlp") or not config.get("grounded_heads", True):
        raise CheckpointError(
            f"{directory}/config.json has {heads} heads of {layers} layers, hydra_head_arch {arch!r} and "
            f"grounded_heads {config.get('grounded_heads')}; eyas reads grounded 'mlp' and 'prefix-mlp'."
        )
    if arch == "prefix-mlp":
        prefix = stack_config({**config, "num_hidden_layers": 1}, directory)
        return HydraSizes(heads, layers, prefix.hidden_size, prefix)
    bias = arrays.get("hydra_mlp.0.0.linear.bias", np.zeros(0))
    return HydraSizes(heads, layers, int(config.get("hidden_size", bias.size)), None)


def _merge_repeats(arrays: Arrays, sizes: HydraSizes, source: Path) -> None:
    """Drop the copies of the shared block, which must be copies."""
    for head in range(sizes.heads):
        for place in sizes.places[2:]:
            for kind in ("weight", "bias"):
                copy = arrays.pop(f"hydra_mlp.{head}.{place}.linear.{kind}", None)
                name = f"hydra_mlp.{head}.{sizes.places[1]}.linear.{kind}"
                if copy is not None and not np.array_equal(copy, arrays.get(name, copy)):
                    raise CheckpointError(
                        f"{source}: blocks {sizes.places[1]} and {place} of head {head} differ; they are one."
                    )


def _head(arrays: Arrays, sizes: HydraSizes, head: int) -> HydraHead:
    def layer(name: str) -> Layer | None:
        pair = (arrays.get(f"{name}.weight"), arrays.get(f"{name}.bias"))
        return None if pair[0] is None else cast(Layer, pair)

    first, *later = sizes.places
    name = f"hydra_mlp.{head}."
    return HydraHead(
        first=cast(Layer, layer(f"{name}{first}.linear")),
        shortcut=cast(Layer, layer(f"{name}{first}.res_connection")),
        shared=layer(f"{name}{later[0]}.linear") if later else None,
        lm_head=layer(sizes.lm_head(head)),
    )
