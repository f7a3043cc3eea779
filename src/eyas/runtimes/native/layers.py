"""From the description of decoder layers to a stack of the engine."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.models.spec import GatedMLP, LayerSpec, MoE, Norm, Rope, StackSpec

Vector = Callable[[int, str], NDArray[np.float32]]  # (layer, name such as "mlp_norm") -> weights as stored
# (layer, name such as "qkv") -> packed, biases included: one matrix, or several where formats differ
MatricesOf = Callable[[int, str], Sequence[_native.Matrix]]


def cache_type(weight_format: str, kv_dtype: str = "auto") -> str:
    """The type of keys and values: "auto" is float32 for float32 weights, else bfloat16."""
    if kv_dtype != "auto":
        return kv_dtype
    return "float32" if weight_format == "float32" else "bfloat16"


def fused_cache_type(kv_dtype: str) -> str:
    """The type with the same numbers whose scores are the same bits on every instruction set."""
    return "fused_bfloat16" if kv_dtype == "bfloat16" else kv_dtype


def make_stack(
    engine: _native.Engine,
    spec: StackSpec,
    vector: Vector,
    matrices: MatricesOf,
    final_norm: NDArray[np.float32] | None,
    kv_dtype: str,
) -> _native.Stack:
    """The engine's layers; `support` says which it does not compute.

    Args:
        engine: instruction set and threads.
        spec: of the layers.
        vector: float32 norm weights as stored, by layer and name.
        matrices: packed matrices by layer and name.
        final_norm: (H,) weights of the last norm, or None.
        kv_dtype: of keys and values: float32, bfloat16 or q8_0.
    """
    attention = spec.layers[0].attention
    ropes = list(dict.fromkeys(layer.attention.rope for layer in spec.layers if layer.attention.rope))
    shape = _native.StackShape(
        hidden=spec.hidden_size,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        ropes=[(np.asarray(rope.inverse_frequencies, dtype=np.float32), rope.factor) for rope in ropes],
        kv_dtype=kv_dtype,
    )
    layers = [_layer(index, layer, ropes, vector, matrices) for index, layer in enumerate(spec.layers)]
    if final_norm is None or spec.final_norm is None:
        return _native.Stack(engine, shape, layers)
    return _native.Stack(engine, shape, layers, _factors(final_norm, spec.final_norm), spec.final_norm.eps)


def _layer(
    index: int, spec: LayerSpec, ropes: list[Rope], vector: Vector, matrices: MatricesOf
) -> _native.Layer:
    attention, norms = spec.attention, spec.norms
    names = {*spec.norm_names, *(("query_norm", "key_norm") if attention.query_key_norm != "none" else ())}

    def norm(name: str) -> NDArray[np.float32] | None:
        return _factors(vector(index, name), norms) if name in names else None

    return _native.Layer(
        qkv=[*matrices(index, "qkv")],
        output=matrices(index, "output")[0],
        **_mlp(index, spec.mlp, matrices),
        attention_norm=norm("attention_norm"),
        attention_post_norm=norm("attention_post_norm"),
        hidden_norm=norm("hidden_norm"),
        residual_is_normed=spec.residual_is_normed,
        mlp_norm=norm("mlp_norm"),
        mlp_post_norm=norm("mlp_post_norm"),
        query_norm=norm("query_norm"),
        key_norm=norm("key_norm"),
        wide_norms=attention.query_key_norm == "width",
        eps=norms.eps,
        activation=(spec.mlp if isinstance(spec.mlp, GatedMLP) else spec.mlp.expert).activation,
        window=attention.window,
        rope=-1 if attention.rope is None else ropes.index(attention.rope),
        scale=attention.scale,
        softcap=attention.softcap,
        residual_multiplier=spec.residual_multiplier,
    )


def _mlp(index: int, mlp: GatedMLP | MoE, matrices: MatricesOf) -> dict[str, Any]:
    """The matrices of a layer's MLP or of its experts."""
    if isinstance(mlp, GatedMLP):
        return {"gate_up": [*matrices(index, "gate_up")], "down": matrices(index, "down")[0]}
    return {
        "mixture": _native.Mixture(
            router=matrices(index, "router")[0],
            gate_up=[[*matrices(index, f"expert_gate_up.{e}")] for e in range(mlp.experts)],
            down=[matrices(index, f"expert_down.{e}")[0] for e in range(mlp.experts)],
            top_k=mlp.top_k,
            is_normalised=mlp.normalised,
        )
    }


def _factors(weights: NDArray[np.float32], norm: Norm) -> NDArray[np.float32]:
    return weights + np.float32(norm.offset) if norm.offset else weights
