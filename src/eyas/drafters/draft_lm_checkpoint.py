"""A small draft language model on disk: decoder layers between the target's own embedding and LM head.

    config.json           model_type "eyas-draft-lm", otherwise that of a Llama
    model.safetensors     layers.{i}.input_layernorm.weight, layers.{i}.self_attn.*, layers.{i}.mlp.*, ..
                          norm.weight, and d2t for a draft vocabulary (`network_files`)

Embedding and LM head are the target's, so two layers are 14 MB for the default target, where its vocabulary
alone would be 57 MB. Any other `model_type` is a whole model, which a runtime loads by itself.
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
    read_arrays,
    read_config,
    stack_config,
    stack_shapes,
    take_draft_ids,
    write_network,
)
from eyas.models.spec import StackSpec

FILES = ("model.safetensors",)
MODEL_TYPE = "eyas-draft-lm"


@dataclass(frozen=True)
class DraftLMCheckpoint:
    """A draft language model as it lies on disk.

    Attributes:
        stack: sizes of its decoder layers.
        weights: float32 arrays by their names in the file, without `d2t`.
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole one.
        fingerprint: of the target that it was trained for.
        config: the whole config.json.
    """

    stack: StackSpec
    weights: Arrays
    draft_ids: NDArray[np.int64] | None
    fingerprint: str | None
    config: dict[str, Any]


def is_draft_lm(directory: Path) -> bool:
    """Whether the directory holds such layers; otherwise it is a whole model.

    Raises:
        CheckpointError: it has no usable config.json.
    """
    return read_config(directory).get("model_type") == MODEL_TYPE


def read_draft_lm_checkpoint(directory: Path) -> DraftLMCheckpoint:
    """Read a draft language model.

    Raises:
        CheckpointError: files that are missing, truncated or corrupt; a name that is unknown or missing; a
            wrong shape.
    """
    config = read_config(directory)
    arrays, source = read_arrays(directory, FILES)
    draft_ids = take_draft_ids(arrays, config, source)
    stack = stack_config(config, directory)
    check_names(arrays, stack_shapes(stack), source)
    return DraftLMCheckpoint(stack, arrays, draft_ids, config.get("target_fingerprint"), config)


def write_draft_lm_checkpoint(
    directory: Path,
    weights: Arrays,
    config: dict[str, Any],
    draft_ids: NDArray[np.int64] | None,
    precision: StoredPrecision = "bfloat16",
) -> None:
    """Write a draft language model into an existing directory; `model_type` is set.

    Raises:
        CheckpointError: names or shapes that `read_draft_lm_checkpoint` would refuse.
    """
    check_names(weights, stack_shapes(stack_config(config, directory)), directory)
    write_network(directory, weights, {**config, "model_type": MODEL_TYPE}, draft_ids, precision)
