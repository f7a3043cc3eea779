"""How a layer's weights become the engine's matrices, and those become packed bytes.

Weights whose products are taken together are one matrix where they have one format: query, key and value
below each other, gate and up in turns. Otherwise each is a matrix of its own. A mixture of experts has the
matrices `router`, `expert_gate_up.17` and `expert_down.17` instead of `gate_up` and `down`.
"""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.errors import ModelError
from eyas.models.formats import FORMATS, RawTensor, formats_of, stored_array
from eyas.models.mixes import block_format
from eyas.models.quantised import quantise
from eyas.models.spec import GatedMLP, LayerSpec
from eyas.models.weights import BFLOAT16

Stored = NDArray[Any]  # (n, k) float32 or bfloat16, or (n, bytes of a row) uint8 in a format of files
Get = Callable[[str], Stored]  # a layer's weight by its name, such as "query.weight"
MATRICES = ("qkv", "output", "gate_up", "down")
# Formats that are packed from bytes as a file has them; the others are made from numbers.
FILE_FORMATS = tuple(name for name in _native.weight_formats() if name not in formats_of("native"))
_LANES = 16
_PARTS = {
    "qkv": ("query", "key", "value"),
    "gate_up": ("gate", "up"),
    "expert_gate_up": ("expert_gate", "expert_up"),
}


def matrix_names(layer: LayerSpec) -> list[str]:
    """Names of a layer's matrices."""
    if isinstance(layer.mlp, GatedMLP):
        return [*MATRICES]
    experts = [f"{name}.{e}" for e in range(layer.mlp.experts) for name in ("expert_gate_up", "expert_down")]
    return ["qkv", "output", "router", *experts]


def weight_names(matrix: str) -> tuple[str, ...]:
    """The weights that make up a matrix: `query`, `expert_gate.17`; often itself."""
    name, *expert = matrix.split(".")
    return tuple(".".join([part, *expert]) for part in _PARTS.get(name, (name,)))


def matrix_shape(layer: LayerSpec, hidden: int, matrix: str) -> tuple[int, int]:
    """(outputs, inputs) of a matrix, or of one of its weights; gate and up together are padded to lanes."""
    attention, mlp, inputs = layer.attention, layer.mlp, layer.attention_inputs(hidden)
    inner = mlp.size if isinstance(mlp, GatedMLP) else mlp.expert.size
    gates = -(-inner // _LANES) * 2 * _LANES
    experts = 0 if isinstance(mlp, GatedMLP) else mlp.experts
    return {
        "qkv": (attention.query_size + 2 * attention.key_size, inputs),
        "query": (attention.query_size, inputs),
        "key": (attention.key_size, inputs),
        "value": (attention.key_size, inputs),
        "output": (hidden, attention.query_size),
        "gate_up": (gates, hidden),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
        "router": (experts, hidden),
    }[matrix.split(".")[0].removeprefix("expert_")]


def has_bias(layer: LayerSpec, matrix: str) -> bool:
    """Whether a matrix has a bias."""
    if matrix == "qkv":
        return layer.attention.bias
    if matrix == "output":
        return layer.attention.output_bias
    return isinstance(layer.mlp, GatedMLP) and layer.mlp.bias


def layer_matrix(get: Get, matrix: str, kind: str = "weight") -> Stored:
    """A matrix of a layer, or its bias with kind "bias"."""
    parts = [get(f"{name}.{kind}") for name in weight_names(matrix)]
    return interleave(*parts) if "gate_up" in matrix else join(parts)


def join(parts: Sequence[Stored]) -> Stored:
    """Matrices one below the other; parts of different types become float32."""
    if len(parts) == 1:
        return parts[0]
    if len({part.dtype for part in parts}) > 1:
        parts = [widen(part) for part in parts]
    return np.concatenate(parts)


def interleave(gate: Stored, up: Stored) -> Stored:
    """16 rows of `gate` and 16 of `up` in turns, zeros where there are too few: a block holds both."""
    blocks = -(-len(gate) // _LANES)
    mixed = np.zeros((blocks, 2, _LANES, *gate.shape[1:]), dtype=join([gate[:0], up[:0]]).dtype)
    for side, rows in enumerate((gate, up)):
        rows = rows if rows.dtype == mixed.dtype else widen(rows)
        padded = np.zeros((blocks * _LANES, *gate.shape[1:]), dtype=mixed.dtype)
        padded[: len(rows)] = rows
        mixed[:, side] = padded.reshape(blocks, _LANES, *gate.shape[1:])
    return mixed.reshape(blocks * 2 * _LANES, *gate.shape[1:])


def widen(rows: Stored) -> NDArray[np.float32]:
    """Float32, exactly."""
    return rows.astype(np.float32, copy=False)


def as_native(rows: Stored) -> NDArray[Any]:
    """An array as the module takes it: contiguous float32, or bfloat16 as uint16."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.uint16) if rows.dtype == BFLOAT16 else rows


def pack_matrix(rows: Stored, weight_format: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Packed bytes and int8 scales of weights.

    Raises:
        ModelError: a weight that is not finite.
    """
    data, scale, bad = _native.pack(as_native(rows), weight_format)
    if bad:
        raise ModelError(f"{name} holds {bad} weights that are not finite numbers; fetch the model again.")
    return data, scale


def make_matrix(
    rows: Stored, weight_format: str, name: str, bias: NDArray[np.float32] | None = None
) -> _native.Matrix:
    """A packed matrix in memory of its own; numbers get the format of `numbers_format`."""
    if rows.dtype != np.uint8:
        weight_format = numbers_format(weight_format, rows.shape[1])
        rows = in_blocks(rows, weight_format, name)
    data, scale = pack_matrix(rows, weight_format, name)
    n, k = len(rows), columns(rows, weight_format)
    return _native.Matrix(weight_format, n, k, data, scale if len(scale) else None, bias)


def numbers_format(weight_format: str, inputs: int) -> str:
    """The format of rows of so many numbers where `weight_format` was asked for.

    Where its blocks do not divide the rows, `block_format` has another one, or else it is int8.
    """
    return block_format(weight_format, inputs) or "int8"


def columns(rows: Stored, weight_format: str) -> int:
    """k of weights in a format."""
    if rows.dtype != np.uint8:
        return int(rows.shape[1])
    stored = FORMATS[weight_format]
    return int(rows.shape[1]) // stored.num_bytes * stored.block


def in_blocks(rows: Stored, weight_format: str, name: str) -> Stored:
    """Numbers quantised to a block format; any other leaves them as they are.

    Raises:
        ModelError: a weight that blocks cannot hold.
    """
    if FORMATS[weight_format].block == 1:
        return rows
    stored = "bfloat16" if rows.dtype == BFLOAT16 else "float32"
    rows = np.ascontiguousarray(rows)
    return quantise(RawTensor(rows.view(np.uint8), stored, rows.shape), weight_format, name).data


def rows_of(raw: RawTensor, weight_format: str) -> Stored:
    """A tensor's rows as `pack_matrix` takes them: bytes where the format is the file's, else numbers."""
    if raw.format == weight_format and weight_format in FILE_FORMATS:
        return raw.data
    return stored_array(raw)


def unpacked(rows: Stored, weight_format: str) -> Stored:
    """Numbers of rows: float32 where they are bytes of a file."""
    return _native.unpack(np.ascontiguousarray(rows), weight_format) if rows.dtype == np.uint8 else rows


@cache
def layout_key(weight_format: str) -> str:
    """8 hexadecimal digits that change whenever weights are packed in another way.

    They are a hash of a small layer packed by this very code and module: no number to raise by hand.
    """
    generator = np.random.default_rng(0)
    rows = {}
    for name in ("query", "key", "value", "output", "gate", "up", "down"):
        if weight_format in FILE_FORMATS:
            stored = FORMATS[weight_format]
            size = (70, 256 // stored.block * stored.num_bytes)
            rows[f"{name}.weight"] = generator.integers(0, 64, size, dtype=np.uint8)  # no scale is infinite
        else:
            rows[f"{name}.weight"] = generator.standard_normal((70, 150)).astype(np.float32)
    digest = sha256()
    for matrix in MATRICES:
        for array in pack_matrix(layer_matrix(rows.__getitem__, matrix), weight_format, "a probe"):
            digest.update(array.tobytes())
    return digest.hexdigest()[:8]
