"""How decoder layers become packed matrices: which tensors lie in which matrix, in which order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.errors import ModelError
from eyas.models.weights import from_bfloat16
from eyas.runtimes.native.weights import Raw

Get = Callable[[str], Raw]
MATRICES = ("qkv", "output", "gate_up", "down")
_LANES = 16


def join(parts: Sequence[Raw]) -> Raw:
    """Matrices one below the other; parts of different types become float32."""
    if len({part.dtype for part in parts}) > 1:
        parts = [widen(part) for part in parts]
    return np.concatenate(parts)


def interleave(gate: Raw, up: Raw) -> Raw:
    """Rows in turns of 16 of `gate` and 16 of `up`, zeros where there are too few: a block holds both."""
    blocks = -(-len(gate) // _LANES)
    mixed = np.zeros((blocks, 2, _LANES, *gate.shape[1:]), dtype=join([gate[:0], up[:0]]).dtype)
    for side, rows in enumerate((gate, up)):
        rows = rows if rows.dtype == mixed.dtype else widen(rows)
        padded = np.zeros((blocks * _LANES, *gate.shape[1:]), dtype=mixed.dtype)
        padded[: len(rows)] = rows
        mixed[:, side] = padded.reshape(blocks, _LANES, *gate.shape[1:])
    return mixed.reshape(blocks * 2 * _LANES, *gate.shape[1:])


def widen(rows: Raw) -> NDArray[np.float32]:
    """float32 from bfloat16 bits, or as it is."""
    if rows.dtype == np.uint16:
        return from_bfloat16(rows)
    return rows.astype(np.float32, copy=False)


def layer_matrix(get: Get, prefix: str, matrix: str, suffix: str = "weight") -> Raw:
    """One of `MATRICES` of the layer at `prefix`, or its bias with suffix "bias"."""
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    if matrix == "qkv":
        return join([get(f"{attention}{part}_proj.{suffix}") for part in "qkv"])
    if matrix == "output":
        return get(f"{attention}o_proj.{suffix}")
    if matrix == "gate_up":
        return interleave(get(f"{mlp}gate_proj.{suffix}"), get(f"{mlp}up_proj.{suffix}"))
    return get(f"{mlp}down_proj.{suffix}")


def pack_matrix(rows: Raw, kind: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Packed bytes and int8 scales of (n, k) weights.

    Raises:
        ModelError: a weight that is not finite.
    """
    data, scale, bad = _native.pack(np.ascontiguousarray(rows), kind)
    if bad:
        raise ModelError(f"{name} holds {bad} weights that are not finite numbers; fetch the model again.")
    return data, scale


def make_matrix(rows: Raw, kind: str, name: str, bias: NDArray[np.float32] | None = None) -> _native.Matrix:
    """A packed matrix of its own memory."""
    data, scale = pack_matrix(rows, kind, name)
    n, k = rows.shape
    return _native.Matrix(kind, n, k, data, scale if kind == "int8" else None, bias)


def stack_layers(
    get: Get,
    matrices: Callable[[int, str], _native.Matrix],
    windows: Sequence[int],
    *,
    prefix: str,
    head_norms: bool = False,
    first_input_norm: bool = True,
) -> list[dict[str, Any]]:
    """The layers as the module wants them.

    Args:
        get: float32 norms by their full names.
        matrices: (layer, one of `MATRICES`) -> packed.
        windows: per layer.
        prefix: of the names, with `{}` for the layer.
    """
    layers = []
    for index, window in enumerate(windows):
        start = prefix.format(index)
        has_input_norm = first_input_norm or index > 0
        layer: dict[str, Any] = {matrix: matrices(index, matrix) for matrix in MATRICES}
        layer["window"] = window
        layer["input_norm"] = widen(get(start + "input_layernorm.weight")) if has_input_norm else None
        layer["post_norm"] = widen(get(start + "post_attention_layernorm.weight"))
        if head_norms:
            layer["query_norm"] = widen(get(start + "self_attn.q_norm.weight"))
            layer["key_norm"] = widen(get(start + "self_attn.k_norm.weight"))
        layers.append(layer)
    return layers
