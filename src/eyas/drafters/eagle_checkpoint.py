"""EAGLE heads on disk: the EAGLE-1/2 checkpoint layout, read and written strictly.

Layout (that of the authors' released heads): `config.json`, a Llama config, and `model.safetensors` (or a
`pytorch_model.bin`) with names that carry no prefix:

    fc.weight [h, 2h]   fc.bias [h]                     input: embedding first, feature second
    layers.0.self_attn.{q,k,v,o}_proj.weight            (+ .bias of q, k, v with "qkv_bias")
    layers.0.mlp.{gate,up,down}_proj.weight
    layers.0.post_attention_layernorm.weight [h]        there is no input_layernorm in layer 0
    embed_tokens.weight [V, h]                          may be there; the target's is used

Extensions of eyas: those of `network_files`; `layers.1.*` with `input_layernorm`; in config.json
`target_fingerprint`, `coupled_scale`, `acceptance_map` and `provenance`. Any other name is an error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.drafters.network_files import (
    Arrays,
    check_names,
    read_arrays,
    read_config,
    stack_config,
    stack_shapes,
    take_draft_ids,
    write_network,
)
from eyas.drafters.policy.acceptance import AcceptanceMap
from eyas.errors import CheckpointError, DataError
from eyas.models.spec import StackSpec

FILES = ("model.safetensors", "pytorch_model.bin")
DEFAULT_COUPLED_SCALE = (1.0,)
EXTENSIONS = ("draft_vocab_size", "coupled_scale", "acceptance_map", "target_fingerprint", "provenance")
ACCEPTANCE_MODES = ("greedy", "coupled", "top-k")


@dataclass(frozen=True)
class EagleCheckpoint:
    """A head as it lies on disk.

    Attributes:
        stack: sizes of its decoder layers.
        weights: float32 arrays by their names in the file, without `embed_tokens` and `d2t`.
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole one.
        fingerprint: of the target that it was trained for; None for published heads.
        coupled_scale: per depth, the scale of coupled confidences (docs/algorithm.md, section 4).
        acceptance: maps confidences to acceptance rates (section 6), by how children are chosen: "greedy",
            "coupled" or "top-k" (temperature > 0, without the sampler's noise).
        config: the whole config.json.
    """

    stack: StackSpec
    weights: Arrays
    draft_ids: NDArray[np.int64] | None
    fingerprint: str | None
    coupled_scale: tuple[float, ...]
    acceptance: dict[str, AcceptanceMap]
    config: dict[str, Any]


def read_eagle_checkpoint(directory: Path) -> EagleCheckpoint:
    """Read a head.

    Raises:
        CheckpointError: files that are missing, truncated or corrupt; a name that is unknown or missing; a
            wrong shape; a pickle that holds more than tensors.
    """
    config = read_config(directory)
    arrays, source = read_arrays(directory, FILES)
    arrays.pop("embed_tokens.weight", None)
    draft_ids = take_draft_ids(arrays, config, source)
    has_bias = "fc.bias" in arrays  # the weights decide, not the config: both spellings are in use
    stack = _stack(config, directory)
    check_names(arrays, expected_shapes(stack, has_bias), source)
    scale = tuple(float(value) for value in config.get("coupled_scale", DEFAULT_COUPLED_SCALE))
    if not scale or min(scale) <= 0:
        raise CheckpointError(
            f"{directory}/config.json has coupled_scale {scale}; it wants positive numbers."
        )
    return EagleCheckpoint(
        stack=stack,
        weights=arrays,
        draft_ids=draft_ids,
        fingerprint=config.get("target_fingerprint"),
        coupled_scale=scale,
        acceptance=_acceptance(config.get("acceptance_map", {}), directory),
        config=config,
    )


def write_eagle_checkpoint(
    directory: Path, weights: Arrays, config: dict[str, Any], draft_ids: NDArray[np.int64] | None
) -> None:
    """Write a head in bfloat16 into an existing directory.

    Args:
        weights: float32 arrays by the names of the layout.
        config: config.json; `draft_vocab_size` is added.
        draft_ids: (M,) ascending target ids, or None.

    Raises:
        CheckpointError: names or shapes that `read_eagle_checkpoint` would refuse.
    """
    check_names(weights, expected_shapes(_stack(config, directory), "fc.bias" in weights), directory)
    write_network(directory, weights, config, draft_ids)


def export_plain(source: Path, target: Path) -> None:
    """Write a one-layer head without eyas's extensions: the authors' code loads it.

    The draft vocabulary only selects rows of the target's LM head, so nothing is lost but speed.

    Raises:
        CheckpointError: a head of several layers, or a target folder that exists.
    """
    checkpoint = read_eagle_checkpoint(source)
    if checkpoint.stack.num_layers != 1:
        raise CheckpointError(
            f"{source} has {checkpoint.stack.num_layers} layers; the plain layout holds 1, so train one with "
            "`eyas train head --layers 1`."
        )
    if target.exists():
        raise CheckpointError(f"{target} exists already; name a new folder.")
    target.mkdir(parents=True)
    config = {key: value for key, value in checkpoint.config.items() if key not in EXTENSIONS}
    write_eagle_checkpoint(target, checkpoint.weights, config, None)


def expected_shapes(stack: StackSpec, fc_bias: bool) -> dict[str, tuple[int, ...]]:
    """Every weight that a head of these sizes has, without `d2t`."""
    hidden = stack.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (hidden, 2 * hidden)}
    if fc_bias:
        shapes["fc.bias"] = (hidden,)
    return shapes | stack_shapes(stack)


def _stack(config: dict[str, Any], directory: Path) -> StackSpec:
    """The first layer has no input norm, and the output, in the target's feature space, no final one."""
    return stack_config(config, directory, first_input_norm=False, final_norm=False)


def _acceptance(document: Any, directory: Path) -> dict[str, AcceptanceMap]:
    """By mode {"confidence": [..], "rate_by_depth": [[..], ..]}."""
    try:
        unknown = sorted(document.keys() - set(ACCEPTANCE_MODES))
        if unknown:
            raise DataError(f"unknown mode {unknown[0]!r}; it knows {', '.join(ACCEPTANCE_MODES)}.")
        return {
            mode: AcceptanceMap(
                confidence=tuple(map(float, entry["confidence"])),
                rate_by_depth=tuple(tuple(map(float, rates)) for rates in entry["rate_by_depth"]),
            )
            for mode, entry in document.items()
        }
    except (AttributeError, DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}/config.json has an unusable acceptance_map: {error}") from error
