"""Medusa heads on disk: the published layout, and eyas's own with the target's LM head.

Names, for head k = 0.. of m = `medusa_num_layers` residual blocks:

    {k}.{j}.linear.weight [h, h]   {k}.{j}.linear.bias [h]      block j = 0..m-1
    {k}.{m}.weight [V, h]                                       the head's own LM head

Published files (`medusa_lm_head.pt`, or .safetensors) hold an LM head for every Medusa head: gigabytes for a
large vocabulary. What eyas writes (`model.safetensors`) has a linear map in its place,

    {k}.output.weight [h, h]       {k}.output.bias [h]

and then the target's own LM head, its rows for the draft vocabulary of `d2t` (`network_files`): an LM head
W O of each head's own, in h^2 numbers instead of V h. A block can only add to what it reads (SiLU is never
below -0.28), so without the map a head could name little else than what the target would. A file has LM
heads, or maps, for all heads or for none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.drafters.network_files import (
    Arrays,
    StoredPrecision,
    check_names,
    check_one_head,
    read_arrays,
    read_config,
    take_draft_ids,
    write_network,
)
from eyas.errors import CheckpointError

FILES = ("model.safetensors", "medusa_lm_head.safetensors", "medusa_lm_head.pt")


@dataclass(frozen=True)
class MedusaCheckpoint:
    """Heads as they lie on disk.

    Attributes:
        hidden_size: h.
        blocks: per head its blocks, each (weight (h, h), bias (h,)).
        outputs: per head the map (weight (h, h), bias (h,)) before the target's LM head; empty without.
        lm_heads: per head its own LM head (V, h); None where the target's is used.
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole one.
        fingerprint: of the target that they were trained for; None for published heads.
        config: the whole config.json.
    """

    hidden_size: int
    blocks: list[list[tuple[NDArray[Any], NDArray[Any]]]]
    outputs: list[tuple[NDArray[Any], NDArray[Any]]]
    lm_heads: list[NDArray[Any]] | None
    draft_ids: NDArray[np.int64] | None
    fingerprint: str | None
    config: dict[str, Any]


def read_medusa_checkpoint(directory: Path) -> MedusaCheckpoint:
    """Read heads.

    Raises:
        CheckpointError: files that are missing, truncated or corrupt; a name that is unknown or missing; a
            wrong shape; a pickle that holds more than tensors.
    """
    config = read_config(directory)
    arrays, source = read_arrays(directory, FILES)
    draft_ids = take_draft_ids(arrays, config, source)
    heads, layers = medusa_sizes(config, directory)
    hidden = _hidden_size(arrays, config, source)
    own = arrays.get(f"0.{layers}.weight")
    check_one_head(own, draft_ids, source)
    vocab = None if own is None else len(own)
    has_outputs = "0.output.weight" in arrays and own is None
    check_names(arrays, medusa_shapes(heads, layers, hidden, vocab, has_outputs), source)
    return MedusaCheckpoint(
        hidden_size=hidden,
        blocks=[
            [(arrays[f"{k}.{j}.linear.weight"], arrays[f"{k}.{j}.linear.bias"]) for j in range(layers)]
            for k in range(heads)
        ],
        outputs=[
            (arrays[f"{k}.output.weight"], arrays[f"{k}.output.bias"]) for k in range(heads) if has_outputs
        ],
        lm_heads=None if own is None else [arrays[f"{k}.{layers}.weight"] for k in range(heads)],
        draft_ids=draft_ids,
        fingerprint=config.get("target_fingerprint"),
        config=config,
    )


def write_medusa_checkpoint(
    directory: Path,
    weights: Arrays,
    config: dict[str, Any],
    draft_ids: NDArray[np.int64] | None,
    precision: StoredPrecision = "bfloat16",
) -> None:
    """Write heads with maps instead of LM heads into an existing directory.

    Raises:
        CheckpointError: names or shapes that `read_medusa_checkpoint` would refuse.
    """
    heads, layers = medusa_sizes(config, directory)
    check_names(weights, medusa_shapes(heads, layers, config["hidden_size"], None, True), directory)
    write_network(directory, weights, config, draft_ids, precision)


def medusa_sizes(config: dict[str, Any], directory: Path) -> tuple[int, int]:
    """Numbers of heads and of blocks in each."""
    try:
        heads, layers = int(config["medusa_num_heads"]), int(config["medusa_num_layers"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    if min(heads, layers) < 1:
        raise CheckpointError(f"{directory}/config.json has {heads} heads of {layers} layers; both are >= 1.")
    return heads, layers


def medusa_shapes(
    heads: int, layers: int, hidden: int, vocab: int | None, has_outputs: bool
) -> dict[str, tuple[int, ...]]:
    """Every weight of heads of these sizes; `vocab` None has no LM heads."""
    shapes: dict[str, tuple[int, ...]] = {}
    for head in range(heads):
        for layer in range(layers):
            shapes[f"{head}.{layer}.linear.weight"] = (hidden, hidden)
            shapes[f"{head}.{layer}.linear.bias"] = (hidden,)
        if vocab is not None:
            shapes[f"{head}.{layers}.weight"] = (vocab, hidden)
        if has_outputs:
            shapes[f"{head}.output.weight"] = (hidden, hidden)
            shapes[f"{head}.output.bias"] = (hidden,)
    return shapes


def _hidden_size(arrays: Arrays, config: dict[str, Any], source: Path) -> int:
    """The config's, or where published heads do not say, that of the first bias."""
    if "hidden_size" in config:
        return int(config["hidden_size"])
    bias = arrays.get("0.0.linear.bias")
    if bias is None:
        raise CheckpointError(f"{source} lacks 0.0.linear.bias, which its config.json asks for.")
    return int(bias.size)
