"""The decoder layers of a draft network: as config.json describes them, and the names of their weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.errors import CheckpointError
from eyas.models.families.common import DRAFT, Config, Unsupported
from eyas.models.spec import GatedMLP, Rope, StackSpec, llama_stack
from eyas.models.tensors import stack_shapes as shapes_of

MAX_LAYERS = 8


def stack_config(
    config: Mapping[str, Any],
    directory: Path,
    *,
    first_input_norm: bool = True,
    final_norm: bool = True,
    scaled_rope: bool = False,
) -> StackSpec:
    """The decoder layers that a network's config.json describes.

    Args:
        config: the entries of config.json.
        directory: of the network, for messages.
        first_input_norm: whether the first layer norms its input.
        final_norm: whether the last layer's output is normed.
        scaled_rope: whether the rotary embedding may be scaled.

    Raises:
        CheckpointError: a size is missing or impossible, or a rotary scaling that such heads do not have.
    """
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        layers, inter = int(config.get("num_hidden_layers", 1)), int(config["intermediate_size"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        dim = int(config.get("head_dim") or (0 if heads < 1 or hidden % heads else hidden // heads))
        eps, theta = float(config.get("rms_norm_eps", 1e-6)), float(config.get("rope_theta") or 10000.0)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    if not (1 <= layers <= MAX_LAYERS and heads >= 1 and dim >= 2 and dim % 2 == 0):
        raise CheckpointError(
            f"{directory}/config.json has {layers} layers, hidden size {hidden} and {heads} heads; layers "
            f"lie in 1..{MAX_LAYERS}, and heads divide the hidden size into even parts, unless head_dim says "
            "how large they are."
        )
    if not (kv_heads >= 1 and heads % kv_heads == 0 and 0 <= eps < math.inf and 0 < theta < math.inf):
        raise CheckpointError(
            f"{directory}/config.json has {kv_heads} kv heads for {heads} heads, rms_norm_eps {eps} and "
            f"rope_theta {theta}; one of them is impossible."
        )
    if config.get("rope_scaling") is not None and not scaled_rope:
        raise CheckpointError(f"{directory}/config.json has rope_scaling, which such heads never have.")
    return llama_stack(
        hidden_size=hidden,
        intermediate_size=inter,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        rms_norm_eps=eps,
        rope=_rope(config, directory, dim) if scaled_rope else Rope.plain(theta, dim),  # never the target's
        qkv_bias=bool(config.get("qkv_bias", False)),
        first_input_norm=first_input_norm,
        final_norm=final_norm,
    )


def _rope(config: Mapping[str, Any], directory: Path, dim: int) -> Rope:
    """The rotary embedding, scaling included."""
    try:
        return Config({**config, "head_dim": dim}).rope()
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    except Unsupported as reason:
        raise CheckpointError(f"{directory} cannot be used: {reason}.") from reason


def stack_document(stack: StackSpec) -> dict[str, Any]:
    """The same sizes as entries of a Llama's config.json."""
    layer = stack.layers[0]
    assert isinstance(layer.mlp, GatedMLP), "draft layers have one MLP"
    assert layer.attention.rope is not None, "draft layers rotate their heads"
    own_dim = layer.attention.query_size != stack.hidden_size
    return {
        "hidden_size": stack.hidden_size,
        "intermediate_size": layer.mlp.size,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": layer.attention.heads,
        "num_key_value_heads": layer.attention.kv_heads,
        **({"head_dim": layer.attention.head_dim} if own_dim else {}),
        "hidden_act": layer.mlp.activation,
        "rms_norm_eps": layer.norms.eps,
        "rope_theta": layer.attention.rope.theta,
        "rope_scaling": None,
    }


def stack_shapes(stack: StackSpec, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Every weight of a stack of decoder layers, its name after `prefix`."""
    return {prefix + name: shape for name, shape in DRAFT.shapes(shapes_of(stack)).items()}
