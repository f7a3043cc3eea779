"""Writes a GGUF file of version 3: metadata, then tensors in formats that need no quantising.

`eyas.models.gguf_file` describes the layout and reads it.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.models.gguf_file import ARRAY, GGML_FORMATS, MAGIC, NUMBERS, STRING, VERSIONS
from eyas.models.weights import BFLOAT16

ALIGNMENT = 32
_TYPES = {np.dtype(code): number for number, code in NUMBERS.items()}
_FORMATS = {name: number for number, name in GGML_FORMATS.items()}
_STORED = {np.dtype("<f4"): "float32", BFLOAT16: "bfloat16", np.dtype("<i8"): "I64"}


def write_gguf(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a file.

    Args:
        path: of the file.
        fields: metadata by key: text, truth values, numbers of a NumPy type, or lists of one of these. Plain
            whole numbers are stored as 32-bit ones, without a sign outside of lists, and others as float32.
        tensors: float32, bfloat16 or int64 arrays by name, rows first.

    Raises:
        OSError: it cannot be written.
    """
    header = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(fields))]
    header += [_text(key) + _value(value) for key, value in fields.items()]
    start = 0
    for name, array in tensors.items():
        shape = array.shape[::-1]
        header.append(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        header.append(struct.pack("<IQ", _FORMATS[_STORED[array.dtype]], start))
        start += array.nbytes + -array.nbytes % ALIGNMENT
    with path.open("wb") as file:
        for data in (
            b"".join(header),
            *(np.ascontiguousarray(array).tobytes() for array in tensors.values()),
        ):
            file.write(data + b"\0" * (-len(data) % ALIGNMENT))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """A value behind its type."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, list):
        return struct.pack("<I", ARRAY) + _items(value)
    number = _number(value, np.dtype("<u4"))
    return struct.pack("<I", _TYPES[number.dtype]) + number.tobytes()


def _items(items: Sequence[Any]) -> bytes:
    """The type of the items, their number and the items."""
    if items and isinstance(items[0], str):
        return struct.pack("<IQ", STRING, len(items)) + b"".join(map(_text, items))
    numbers = [_number(item, np.dtype("<i4")) for item in items]
    kind = _TYPES[numbers[0].dtype] if numbers else _TYPES[np.dtype("<i4")]
    return struct.pack("<IQ", kind, len(items)) + b"".join(number.tobytes() for number in numbers)


def _number(value: Any, whole: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(value, np.generic):
        return np.asarray(value)
    if isinstance(value, bool):
        return np.asarray(value)
    return np.asarray(value, dtype=whole if isinstance(value, int) else "<f4")
