"""How features are kept: as bfloat16, or as int8 with a float16 scale for each run of 32 numbers.

One scale for a whole row would not do: a few dimensions of a feature are many times as large as the others,
which would be rounded to nothing (docs/log.md, 2026-12-01).
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas.models.weights import BFLOAT16

FeatureDtype = Literal["bfloat16", "int8"]
GROUP = 32  # numbers of a row that share a scale


class Stored(NamedTuple):
    """Features (T, W) as they are kept.

    Attributes:
        values: (T, W) bfloat16, or int8.
        scale: (T, ceil(W / 32)) float16 of int8 values, else None.
    """

    values: NDArray[np.generic]
    scale: NDArray[np.generic] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of both."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


def encode(features: NDArray[np.float32], dtype: FeatureDtype) -> Stored:
    """Features (T, W) in a precision: rounded to the nearest, ties to even."""
    if dtype == "bfloat16":
        return Stored(features.astype(BFLOAT16))
    groups = _grouped(features)
    scale = (_largest(groups) / 127).astype(np.float16)
    step = scale.astype(np.float32)[..., None]
    whole = groups / np.where(step > 0, step, 1)  # a group of zeros, or of numbers too small for float16
    # A scale that was rounded down leaves the largest number just above 127.
    values = np.rint(whole, out=whole).clip(-127, 127).astype(np.int8)
    return Stored(values.reshape(len(features), -1)[:, : features.shape[1]], scale)


def decode(stored: Stored) -> NDArray[np.float32]:
    """The numbers (T, W)."""
    values = stored.values.astype(np.float32)
    if stored.scale is None:
        return values
    groups = _grouped(values) * stored.scale.astype(np.float32)[..., None]
    return groups.reshape(len(values), -1)[:, : values.shape[1]]


def _grouped(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, G, 32) of (T, W); zeros fill up the last group."""
    missing = -rows.shape[1] % GROUP
    padded = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    return padded.reshape(len(rows), -1, GROUP)


def _largest(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, G) largest sizes of (T, G, 32), by halves: NumPy is slow along short axes."""
    sizes = np.abs(groups)
    while sizes.shape[2] > 1:
        half = sizes.shape[2] // 2
        sizes = np.maximum(sizes[..., :half], sizes[..., half:])
    return sizes[..., 0]
