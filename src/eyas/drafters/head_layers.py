"""The decoder layers of a draft network: as config.json describes them, and the names of their weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.errors import CheckpointError
from eyas.models.families.common import DRAFT
from eyas.models.spec import GatedMLP, StackSpec, llama_stack
from eyas.models.tensors import stack_shapes as shapes_of

MAX_LAYERS = 8


def stack_config(
    config: Mapping[str, Any], directory: Path, *, first_input_norm: bool = True, final_norm: bool = True
) -> StackSpec:
    """The decoder layers that a network's config.json describes.

    Raises:
        CheckpointError: a size is missing or impossible, or a rotary scaling that heads do not have.
    """
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        layers, inter = int(config.get("num_hidden_layers", 1)), int(config["intermediate_size"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        eps, theta = float(config.get("rms_norm_eps", 1e-6)), float(config.get("rope_theta", 10000.0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    if not (1 <= layers <= MAX_LAYERS and heads >= 1 and hidden % heads == 0 and hidden // heads % 2 == 0):
        raise CheckpointError(
            f"{directory}/config.json has {layers} layers, hidden size {hidden} and {heads} heads; layers "
            f"lie in 1..{MAX_LAYERS}, and heads divide the hidden size into even parts."
        )
    if not (kv_heads >= 1 and heads % kv_heads == 0 and 0 <= eps < math.inf and 0 < theta < math.inf):
        raise CheckpointError(
            f"{directory}/config.json has {kv_heads} kv heads for {heads} heads, rms_norm_eps {eps} and "
            f"rope_theta {theta}; one of them is impossible."
        )
    if config.get("rope_scaling") is not None:
        raise CheckpointError(f"{directory}/config.json has rope_scaling, which heads never have.")
    return llama_stack(
        hidden_size=hidden,
        intermediate_size=inter,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        rms_norm_eps=eps,
        rope_theta=theta,  # never the target's
        qkv_bias=bool(config.get("qkv_bias", False)),
        first_input_norm=first_input_norm,
        final_norm=final_norm,
    )


def stack_document(stack: StackSpec) -> dict[str, Any]:
    """The same sizes as entries of a Llama's config.json."""
    layer = stack.layers[0]
    assert isinstance(layer.mlp, GatedMLP), "draft layers have one MLP"
    assert layer.attention.rope is not None, "draft layers rotate their heads"
    return {
        "hidden_size": stack.hidden_size,
        "intermediate_size": layer.mlp.size,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": layer.attention.heads,
        "num_key_value_heads": layer.attention.kv_heads,
        "hidden_act": layer.mlp.activation,
        "rms_norm_eps": layer.norms.eps,
        "rope_theta": layer.attention.rope.theta,
        "rope_scaling": None,
    }


def stack_shapes(stack: StackSpec, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Every weight of a stack of decoder layers, its name after `prefix`."""
    return {prefix + name: shape for name, shape in DRAFT.shapes(shapes_of(stack)).items()}
