"""Matrices in int8: each row, or each piece of a row, as integers in -127..127 times a scale.

One scale per row serves where a row's weights are of like magnitude. A layer over joined inputs, such as
[embedding; feature], may weigh one of them hundreds of times more than the other; the scale of the larger
would round the smaller one to 0, and the layer would no longer read it. Such pieces have their own scales.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Root mean squares of two pieces that share a scale differ by at most this factor: the smaller piece keeps at
# least three bits.
MOST_SPREAD = 16.0


def pieces_apart(matrix: NDArray[Any], size: int) -> int:
    """Scales that a row of (n, k) needs: one for each piece of `size` columns, or 1 where one serves all."""
    inputs = matrix.shape[1]
    if inputs <= size or inputs % size:
        return 1
    pieces = matrix.reshape(len(matrix), -1, size)
    sizes = np.sqrt(np.square(pieces, dtype=np.float64).mean(axis=(0, 2)))
    sizes = sizes[sizes > 0]
    spread = sizes.max() / sizes.min() if len(sizes) else 1.0
    return pieces.shape[1] if spread > MOST_SPREAD else 1


def to_int8(matrix: NDArray[Any], pieces: int = 1) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(n, k) integers and (n,) scales, or (n, pieces) of them; the largest weight of a piece becomes 127."""
    parts = matrix.reshape(len(matrix), pieces, -1)
    scale = np.abs(parts).max(axis=2).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    values = np.rint(parts / scale[:, :, None]).astype(np.int8).reshape(matrix.shape)
    return values, scale if pieces > 1 else scale[:, 0]


def from_int8(values: NDArray[np.int8], scale: NDArray[Any]) -> NDArray[np.float32]:
    """(n, k) weights from integers and (n,) or (n, pieces) scales.

    Raises:
        ValueError: the scales do not fit the matrix.
    """
    n, k = len(values), values.shape[-1]
    pieces = scale.shape[1] if scale.ndim == 2 else 1
    if values.ndim != 2 or scale.ndim not in (1, 2) or len(scale) != n or not pieces or k % pieces:
        raise ValueError("a scale for each row, or for each piece of a row, is needed")
    parts = values.reshape(n, pieces, -1) * scale.reshape(n, pieces, 1).astype(np.float32)
    return np.asarray(parts.reshape(n, k), dtype=np.float32)


def rounded(matrix: NDArray[Any], size: int) -> NDArray[np.float32]:
    """(n, k) float32 weights as int8 keeps them, where inputs come in pieces of `size`."""
    return from_int8(*to_int8(matrix, pieces_apart(matrix, size)))
