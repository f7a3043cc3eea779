"""Where weights come from: the tensors of a model's files by name, as they are stored.

A model is a Hugging Face directory or a GGUF file (of several parts, the first). A source converts nothing. A
consumer that needs numbers asks `eyas.models.formats` for them.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.formats import FORMATS, RawTensor, row_bytes, unsupported_format
from eyas.models.gguf_file import GGUFFile
from eyas.models.weights import tensor_places

SPLIT_NAME = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MAX_PARTS = 1000
_PART, _PARTS = "split.no", "split.count"
# What safetensors calls the floating-point formats.
_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


class WeightSource(Protocol):
    """The tensors of one model."""

    @property
    def path(self) -> Path:
        """The file or folder, for messages."""
        ...

    def files(self) -> list[Path]:
        """The files that hold them."""
        ...

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first."""
        ...

    def format(self, name: str) -> str:
        """A tensor's format: a name in `eyas.models.formats.FORMATS`, or what its file calls another one."""
        ...

    def raw(self, name: str) -> RawTensor:
        """A tensor as it is stored.

        Raises:
            ModelError: its format holds no weights.
        """
        ...


class SafetensorsSource:
    """The safetensors files of a Hugging Face directory, all headers checked.

    Raises:
        ModelError: files that are missing, truncated or corrupt.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self._places = tensor_places(directory)

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._places.keys()

    def files(self) -> list[Path]:
        """The files that hold them."""
        return sorted({file for file, _ in self._places.values()})

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._places[name][1]["shape"])

    def format(self, name: str) -> str:
        """A tensor's format."""
        code: str = self._places[name][1]["dtype"]
        return _NAMES.get(code, code)

    def raw(self, name: str) -> RawTensor:
        """A read-only map of the tensor's bytes, which lives as long as it is used."""
        file, entry = self._places[name]
        shape, stored = self.shape(name), self.format(name)
        if stored not in FORMATS:
            raise ModelError(f"{file}: {name} has {unsupported_format(stored)}.")
        wanted = (*shape[:-1], row_bytes(stored, shape[-1] if shape else 1))
        if 0 in wanted:  # an empty map is an error
            return RawTensor(np.zeros(wanted, dtype=np.uint8), stored, shape)
        data = np.memmap(file, dtype=np.uint8, mode="r", offset=entry["file_offset"], shape=wanted)
        return RawTensor(data, stored, shape)


class GGUFSource:
    """A GGUF file, or the first of several that make up a model: tensors in their own blocks, and metadata.

    Attributes:
        path: of the file, or of the first part.
        fields: metadata by key, as Python values.

    Raises:
        ModelError: not a whole GGUF file, or a part that is missing or of another set.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        first = GGUFFile(file)
        self.fields = first.fields
        self._parts = [first, *map(GGUFFile, other_parts(first))]
        self._homes = {name: part for part in self._parts for name in part.tensors}
        self._check_parts()

    @property
    def architecture(self) -> str:
        """What the file calls the family."""
        return str(self.fields.get("general.architecture"))

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._homes.keys()

    def files(self) -> list[Path]:
        """The files that hold them."""
        return [part.path for part in self._parts]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first (GGUF writes it the other way round)."""
        return self._homes[name].tensors[name].shape

    def format(self, name: str) -> str:
        """A tensor's format."""
        return self._homes[name].tensors[name].format

    def raw(self, name: str) -> RawTensor:
        """The tensor's blocks, a read-only map of the file."""
        part = self._homes[name]
        place = part.tensors[name]
        if place.format not in FORMATS:
            raise ModelError(f"{part.path}: {name} has {unsupported_format(place.format)}.")
        data, shape = part.data(place), place.shape
        return RawTensor(data.reshape(*shape[:-1], -1), place.format, shape)

    def integers(self, name: str) -> NDArray[np.int64]:
        """The numbers of a tensor of 64-bit integers.

        Raises:
            ModelError: it holds others.
        """
        part = self._homes[name]
        place = part.tensors[name]
        if place.format != "I64":
            raise ModelError(f"{part.path}: {name} has format {place.format} where I64 is expected.")
        return part.data(place).view("<i8").reshape(place.shape)

    def _check_parts(self) -> None:
        """Refuse parts of different sets, and sets that lack tensors."""
        for index, part in enumerate(self._parts[1:], start=1):
            if (part.fields.get(_PART), part.fields.get(_PARTS)) != (index, len(self._parts)):
                raise ModelError(
                    f"{part.path} is not part {index + 1} of {len(self._parts)} of {self.path.name}; fetch "
                    "all parts again."
                )
        found = sum(len(part.tensors) for part in self._parts)
        wanted = self.fields.get("split.tensors.count", found) if len(self._parts) > 1 else found
        if not found == len(self._homes) == wanted:
            raise ModelError(
                f"{self.path} and its other parts hold {found} tensors, {len(self._homes)} by name, but say "
                f"that they hold {wanted}; fetch all parts again."
            )


def other_parts(first: GGUFFile) -> list[Path]:
    """The further files of a model whose first file this is (llama.cpp's `NAME-00001-of-00003.gguf`).

    Raises:
        ModelError: it is another part than the first, or is not called like a part.
    """
    count, number = first.fields.get(_PARTS, 1), first.fields.get(_PART, 0)
    if count == 1:
        return []
    match = SPLIT_NAME.fullmatch(first.path.name)
    if type(count) is not int or not 1 < count <= MAX_PARTS or not match or int(match["count"]) != count:
        raise ModelError(
            f"{first.path} is one of {count} parts, but is not called like it; name it and the others "
            "NAME-00001-of-00003.gguf and so on."
        )
    if number != 0 or int(match["number"]) != 1:
        raise ModelError(f"{first.path} is not the first of its {count} parts; name {part_name(match, 1)}.")
    return [first.path.with_name(part_name(match, index)) for index in range(2, count + 1)]


def part_name(match: re.Match[str], number: int) -> str:
    """The file name of another part, `match` being of `SPLIT_NAME`."""
    return f"{match['name']}-{number:05}-of-{match['count']}.gguf"


def is_gguf(model: Path) -> bool:
    """Whether a model is a GGUF file, not a directory."""
    return model.suffix.lower() == ".gguf" or model.is_file()


def open_gguf(file: Path) -> GGUFSource:
    """The source of a GGUF file; the same one at each call while the file stays as it is.

    Raises:
        ModelError: see `GGUFSource`.
    """
    file = file.absolute()
    try:
        status = file.stat()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error}).") from error
    return _opened(file, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)
def _opened(file: Path, _state: tuple[int, ...]) -> GGUFSource:
    return GGUFSource(file)


def open_source(model: Path) -> SafetensorsSource | GGUFSource:
    """The source of a model's tensors.

    Raises:
        ModelError: see `SafetensorsSource` and `GGUFSource`.
    """
    return open_gguf(model) if is_gguf(model) else SafetensorsSource(model)
