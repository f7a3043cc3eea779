"""From the description of decoder layers to a stack of the engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.models.spec import Norm, StackSpec
from eyas.runtimes.native.matrices import MATRICES

Vector = Callable[[int, str], NDArray[np.float32]]  # (layer, name such as "mlp_norm") -> weights as stored
MatrixOf = Callable[[int, str], _native.Matrix]  # (layer, one of MATRICES) -> packed, its bias included
_NORMS = {"attention_norm": "input_norm", "mlp_norm": "post_norm"}


def make_stack(
    engine: _native.Engine,
    spec: StackSpec,
    vector: Vector,
    matrix: MatrixOf,
    final_norm: NDArray[np.float32] | None,
) -> _native.Stack:
    """The engine's layers.

    Args:
        engine: instruction set and threads.
        spec: of the layers.
        vector: float32 norm weights as stored, by layer and name.
        matrix: packed matrices by layer and name.
        final_norm: (H,) weights of the last norm, or None.
    """
    first = spec.layers[0]
    attention, rope = first.attention, first.attention.rope
    assert rope is not None, "layers without a rotary embedding were refused"
    shape = _native.StackShape(
        hidden=spec.hidden_size,
        intermediate=spec.mlp_size,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        eps=first.norms.eps,
        inverse_frequencies=np.asarray(rope.inverse_frequencies, dtype=np.float32),
        rope_factor=rope.factor,
    )
    layers = []
    for index, layer in enumerate(spec.layers):
        made: dict[str, Any] = {name: matrix(index, name) for name in MATRICES}
        made["window"] = layer.attention.window
        names = {name: _NORMS[name] for name in layer.norms.names}
        if layer.attention.query_key_norm != "none":
            names |= {"query_norm": "query_norm", "key_norm": "key_norm"}
        for name, engines in names.items():
            made[engines] = _with_offset(vector(index, name), layer.norms)
        layers.append(made)
    if final_norm is not None and spec.final_norm is not None:
        final_norm = _with_offset(final_norm, spec.final_norm)
    return _native.Stack(engine, shape, layers, final_norm)


def _with_offset(weights: NDArray[np.float32], norm: Norm) -> NDArray[np.float32]:
    return weights + np.float32(norm.offset) if norm.offset else weights
