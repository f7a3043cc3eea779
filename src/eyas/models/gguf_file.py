"""Reads the header of a GGUF file strictly: metadata, and where each tensor lies.

Little-endian files of versions 2 and 3 (ggml's docs/gguf.md): "GGUF", version, number of tensors, number of
metadata; the metadata as key, type, value; for each tensor its name, shape (fastest dimension first), type
and offset; then, aligned, the data. Everything is checked against the file's size before anything is
allocated, so a broken or hostile header costs neither memory nor time.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.formats import FORMATS, row_bytes

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_ITEMS = 1 << 24  # of all arrays together; a vocabulary of 262,144 tokens takes about a million
MAX_NAME = 256  # bytes of a key or a tensor's name; ggml's tensors have 63 at most
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20

STRING, ARRAY = 8, 9
NUMBERS = {  # GGUF's types of numbers
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"},
    **{10: "<u8", 11: "<i8", 12: "<f8"},
}
# ggml's numbers of formats (ggml.h), floats by our names.
GGML_FORMATS = {
    **{0: "float32", 1: "float16", 28: "float64", 30: "bfloat16"},
    **{2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S"},
    **{23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 29: "IQ1_M"},
    **{34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0"},
}
_WORD, _LONG = struct.Struct("<I"), struct.Struct("<Q")


INTEGERS = {"I8": 1, "I16": 2, "I32": 4, "I64": 8}  # bytes of a number; they hold no weights


class TensorPlace(NamedTuple):
    """Where a tensor lies.

    Attributes:
        format: a name in `eyas.models.formats.FORMATS`, or ggml's name of another format.
        shape: rows first.
        start: byte of the file at which it begins.
        num_bytes: 0 for a format of weights that eyas does not know.
    """

    format: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class _Array(NamedTuple):
    """An array of the metadata that has been checked and not been decoded."""

    key: str
    kind: int
    length: int
    start: int


class _Broken(Exception):
    """What is wrong with a file, to be said behind its path."""


class GGUFFile:
    """One GGUF file, its header checked, its data mapped.

    Attributes:
        path: of the file.
        fields: metadata by key, as Python values; arrays are decoded whenever they are asked for.
        tensors: where they lie, by name.

    Raises:
        ModelError: not a whole GGUF file; what is wrong with it, in one line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                _check_beginning(file.read(24))
                self._map = mmap(file.fileno(), status.st_size, access=ACCESS_READ)
            self._state = _state(status)
            fields, self.tensors = _Header(self._map, status.st_size).read()
            self.fields: Mapping[str, Any] = Fields(self, fields)
        except _Broken as fault:
            raise ModelError(f"{path} {fault}.") from None
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror or error}).") from error

    def data(self, place: TensorPlace) -> NDArray[np.uint8]:
        """The bytes of a tensor, a read-only map of the file.

        Raises:
            ModelError: the file has changed since it was opened.
        """
        self.check_unchanged()
        return np.frombuffer(self._map, np.uint8, place.num_bytes, place.start)

    def check_unchanged(self) -> None:
        """Raise ModelError if the file has been written to, replaced or removed since it was opened."""
        try:
            is_same = _state(self.path.stat()) == self._state
        except OSError:
            is_same = False
        if not is_same:
            raise ModelError(f"{self.path} has changed while it was in use; load the model again.")

    def decode(self, array: _Array) -> list[Any]:
        """The items of an array of the metadata."""
        self.check_unchanged()
        if array.kind == STRING:
            try:
                return _texts(self._map, array)
            except UnicodeDecodeError:
                raise ModelError(
                    f"{self.path} holds text in {array.key} that is not UTF-8; fetch it again."
                ) from None
        found = np.frombuffer(self._map, NUMBERS[array.kind], array.length, array.start)
        items: list[Any] = found.tolist()
        return items


class Fields(Mapping[str, Any]):
    """Metadata by key."""

    def __init__(self, file: GGUFFile, values: Mapping[str, Any]) -> None:
        self._file = file
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return self._file.decode(value) if isinstance(value, _Array) else value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(slots=True)
class _Header:
    """A place in a header, which moves forward and never beyond the end."""

    data: mmap
    size: int
    at: int = len(MAGIC) + 4
    num_items: int = 0  # of all arrays so far
    alignment: int = 32

    def read(self) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
        """The metadata, and where the tensors lie: they neither overlap nor reach beyond the file."""
        num_tensors = self._count("tensors", MAX_TENSORS, least=32)
        num_keys = self._count("keys", MAX_KEYS, least=13)
        fields: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._name("key")
            if key in fields:
                raise _Broken(f"has two values of {key}; fetch it again")
            fields[key] = self._value(key)
        self._align(fields)
        tensors: dict[str, TensorPlace] = {}
        for _ in range(num_tensors):
            name = self._name("tensor")
            if name in tensors:
                raise _Broken(f"has two tensors called {name}; fetch it again")
            tensors[name] = self._place(name)
        start = -(-self.at // self.alignment) * self.alignment
        placed = {name: place._replace(start=start + place.start) for name, place in tensors.items()}
        self._check_places(placed)
        return fields, placed

    def _align(self, fields: Mapping[str, Any]) -> None:
        """Take the alignment from the metadata, where they state one."""
        alignment = fields.get("general.alignment", self.alignment)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _Broken(f"has general.alignment {alignment!r}, which is no power of two; fetch it again")
        self.alignment = alignment

    def _place(self, name: str) -> TensorPlace:
        """Of one tensor, its start counted from the data's."""
        rank = self._word()
        if not 1 <= rank <= MAX_DIMENSIONS:
            raise _Broken(f"has a tensor {name} of {rank} dimensions, and {MAX_DIMENSIONS} are the most")
        shape = tuple(self._long() for _ in range(rank))[::-1]
        number, start = self._word(), self._long()
        stored = GGML_FORMATS.get(number)
        if stored is None:
            raise _Broken(f"has a tensor {name} of type {number}, which eyas does not know")
        if 0 in shape:
            raise _Broken(f"has a tensor {name} without numbers: its shape is {shape}; fetch it again")
        if start % self.alignment:
            raise _Broken(f"has a tensor {name} at {start}, which is not aligned; fetch it again")
        if stored not in FORMATS:
            return TensorPlace(stored, shape, start, math.prod(shape) * INTEGERS.get(stored, 0))
        try:
            num_bytes = math.prod(shape[:-1]) * row_bytes(stored, shape[-1])
        except ValueError as error:
            raise _Broken(f"has a tensor {name} that cannot be: {error}; fetch it again") from error
        return TensorPlace(stored, shape, start, num_bytes)

    def _check_places(self, tensors: Mapping[str, TensorPlace]) -> None:
        end, before = 0, ""
        for name, place in sorted(tensors.items(), key=lambda item: item[1].start):
            if place.start < end:
                raise _Broken(f"has tensors that overlap: {before} and {name}; fetch it again")
            end, before = place.start + max(place.num_bytes, 1), name
            if end > self.size:
                raise _Broken(
                    f"is truncated: it has {self.size} bytes, and {name} ends at {end}; fetch it again"
                )

    def _value(self, key: str) -> Any:
        kind = self._word()
        if kind == STRING:
            try:
                return self._text().decode()
            except UnicodeDecodeError:
                raise _Broken(f"holds text in {key} that is not UTF-8; fetch it again") from None
        if kind == ARRAY:
            return self._array(key)
        if kind not in NUMBERS:
            raise _Broken(f"has a value of type {kind} for {key}, which is no type of GGUF; fetch it again")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.data, dtype, 1, self._take(dtype.itemsize))[0].item()

    def _array(self, key: str) -> _Array:
        kind = self._word()
        if kind != STRING and kind not in NUMBERS:
            raise _Broken(f"has an array of type {kind} for {key}, which eyas does not read")
        size = 8 if kind == STRING else np.dtype(NUMBERS[kind]).itemsize
        count = self._count(f"items in {key}", MAX_ITEMS - self.num_items, least=size)
        self.num_items += count
        array = _Array(key, kind, count, self.at)
        if kind != STRING:
            self._take(count * size)
            return array
        data, at, length_at = self.data, self.at, _LONG.unpack_from
        try:
            for _ in range(count):
                at += 8 + length_at(data, at)[0]
        except (struct.error, OverflowError):
            raise self._truncated() from None
        if at > self.size:
            raise self._truncated()
        self.at = at
        return array

    def _count(self, what: str, most: int, least: int) -> int:
        """A number of things that take at least `least` bytes each."""
        count = self._long()
        if count > most:
            raise _Broken(f"says that it has {count} {what}, and {most} are the most; fetch it again")
        if count * least > self.size - self.at:
            raise self._truncated()
        return count

    def _name(self, what: str) -> str:
        name = self._text(MAX_NAME).decode(errors="replace")
        if "\ufffd" in name or not name.isprintable():  # it will stand in messages
            raise _Broken(f"has a {what} whose name is no text; fetch it again")
        return name

    def _text(self, most: int | None = None) -> bytes:
        length = self._long()
        if most is not None and length > most:
            raise _Broken(f"has a name of {length} bytes, and {most} are the most; fetch it again")
        start = self._take(length)
        return self.data[start : self.at]

    def _word(self) -> int:
        value: int = _WORD.unpack_from(self.data, self._take(4))[0]
        return value

    def _long(self) -> int:
        value: int = _LONG.unpack_from(self.data, self._take(8))[0]
        return value

    def _take(self, count: int) -> int:
        """Move behind the next `count` bytes; returns where they begin."""
        start = self.at
        if count > self.size - start:
            raise self._truncated()
        self.at = start + count
        return start

    def _truncated(self) -> _Broken:
        return _Broken(f"is truncated: {self.size} bytes do not hold its header; fetch it again")


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another, and from itself after a change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_beginning(beginning: bytes) -> None:
    """Raise _Broken unless a file begins as those that this module reads."""
    if beginning[:4] != MAGIC:
        raise _Broken(f"is no GGUF file: it begins with {beginning[:4]!r}, not with {MAGIC!r}")
    if len(beginning) < 24:
        raise _Broken(f"is truncated: {len(beginning)} bytes do not hold its header; fetch it again")
    (version,) = _WORD.unpack_from(beginning, 4)
    if version and not version & 0xFFFF:
        raise _Broken("is big-endian, and eyas reads little-endian GGUF files; convert it")
    if version not in VERSIONS:
        raise _Broken(f"has GGUF version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} are read")


def _texts(data: mmap, array: _Array) -> list[str]:
    texts, at, length_at = [], array.start, _LONG.unpack_from
    for _ in range(array.length):
        start = at + 8
        at = start + length_at(data, at)[0]
        texts.append(data[start:at].decode())
    return texts
