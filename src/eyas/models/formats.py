"""How weights are stored: one table of formats, and the float32 values of any of them.

A format stores `block` consecutive numbers of a row in `num_bytes` bytes. Formats of GGUF have the names and
the layouts of the `gguf` package, which also dequantises them.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.weights import BFLOAT16


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """One way to store weights.

    Attributes:
        name: as options and errors call it.
        block: numbers that are stored together.
        num_bytes: of a block.
        computes: runtimes that can be told to compute in it, whatever the format of the file (`--dtype`). The
            native one multiplies the formats of files too (`_native.weight_formats()`).
    """

    name: str
    block: int
    num_bytes: int
    computes: tuple[str, ...] = ()


# "int8" is not read from files of models: the native runtime makes it, with a scale for each output.
FORMATS = {
    weight_format.name: weight_format
    for weight_format in (
        WeightFormat("float32", 1, 4, ("native", "torch")),
        WeightFormat("bfloat16", 1, 2, ("native", "torch")),
        WeightFormat("float16", 1, 2, ("torch",)),
        WeightFormat("float64", 1, 8, ("torch",)),
        WeightFormat("int8", 1, 1, ("native",)),
        WeightFormat("Q4_0", 32, 18),
        WeightFormat("Q4_1", 32, 20),
        WeightFormat("Q5_0", 32, 22),
        WeightFormat("Q5_1", 32, 24),
        WeightFormat("Q8_0", 32, 34),
        WeightFormat("Q2_K", 256, 84),
        WeightFormat("Q3_K", 256, 110),
        WeightFormat("Q4_K", 256, 144),
        WeightFormat("Q5_K", 256, 176),
        WeightFormat("Q6_K", 256, 210),
        WeightFormat("IQ4_NL", 32, 18),
        WeightFormat("IQ4_XS", 256, 136),
        WeightFormat("MXFP4", 32, 17),
    )
}
# Where the float16 scales and minima of a block lie.
_SCALES = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)},
}
_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": BFLOAT16,
    "float16": np.dtype("<f2"),
    "float64": np.dtype("<f8"),
}


class RawTensor(NamedTuple):
    """A tensor as its file stores it.

    Attributes:
        data: (*shape[:-1], bytes of a row) uint8, a map of the file where possible. A scalar's is (bytes,).
        format: its name in `FORMATS`; a name that is not there holds no weights.
        shape: of the numbers.
    """

    data: NDArray[np.uint8]
    format: str
    shape: tuple[int, ...]


def formats_of(runtime: str) -> tuple[str, ...]:
    """Names of the formats that a runtime multiplies with."""
    return tuple(name for name, weight_format in FORMATS.items() if runtime in weight_format.computes)


def row_bytes(name: str, columns: int) -> int:
    """Bytes of a row of `columns` numbers.

    Raises:
        ValueError: `columns` does not divide into the format's blocks.
    """
    weight_format = FORMATS[name]
    if columns % weight_format.block:
        raise ValueError(
            f"rows of {columns} numbers do not divide into {name} blocks of {weight_format.block}"
        )
    return columns // weight_format.block * weight_format.num_bytes


def stored_array(raw: RawTensor) -> NDArray[Any]:
    """Float32 or bfloat16 numbers as they are stored, without a copy; every other format as float32.

    Raises:
        ModelError: the format holds no weights, or cannot be dequantised here.
    """
    if raw.format in ("float32", "bfloat16"):
        return raw.data.view(_DTYPES[raw.format]).reshape(raw.shape)
    return to_float32(raw)


def to_float32(raw: RawTensor) -> NDArray[np.float32]:
    """The numbers in float32: exact for float32, bfloat16 and float16, otherwise rounded or dequantised.

    Raises:
        ModelError: the format holds no weights, or cannot be dequantised here.
    """
    if raw.format in _DTYPES:
        stored = raw.data.view(_DTYPES[raw.format]).reshape(raw.shape)
        return stored.astype(np.float32)
    if raw.format not in FORMATS or raw.format == "int8":
        raise ModelError(unsupported_format(raw.format))
    from gguf import GGMLQuantizationType, dequantize

    try:
        values: NDArray[np.float32] = dequantize(raw.data, GGMLQuantizationType[raw.format])
    except (NotImplementedError, KeyError, ValueError) as error:
        raise ModelError(f"format {raw.format} cannot be dequantised ({error})") from error
    return values.reshape(raw.shape)


def bad_scales(raw: RawTensor) -> int:
    """Scales of a tensor's blocks that are NaN or infinite; 0 for a format without such scales."""
    places = _SCALES.get(raw.format, ())
    blocks = raw.data.reshape(-1, FORMATS[raw.format].num_bytes)
    halves = [np.ascontiguousarray(blocks[:, place : place + 2]).view("<u2") for place in places]
    return sum(int(np.count_nonzero(half & 0x7C00 == 0x7C00)) for half in halves)


def unsupported_format(name: str) -> str:
    """What is wrong with weights of an unknown format."""
    return f"unsupported dtype {name}; expected BF16, F16, F32 or F64"
