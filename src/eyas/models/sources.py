"""Where weights come from: the tensors of a model's files by name, as they are stored.

A source converts nothing. A consumer that needs numbers asks `eyas.models.formats` for them.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eyas.errors import ModelError
from eyas.models.formats import FORMATS, RawTensor, row_bytes, unsupported_format
from eyas.models.weights import tensor_places

# What safetensors and GGUF call the floating-point formats; blocks of GGUF keep their names.
_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


class WeightSource(Protocol):
    """The tensors of one model."""

    @property
    def path(self) -> Path:
        """The file or folder, for messages."""
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
    """A GGUF file: its tensors in their own blocks, and its metadata.

    Attributes:
        fields: metadata by key, as Python values.

    Raises:
        ModelError: not a whole GGUF file.
    """

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader

        self.path = file
        try:
            reader = GGUFReader(file)
            self.fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        except Exception as error:  # the reader checks little: a broken file fails in many ways
            raise ModelError(f"{file} is not a whole GGUF file ({error}); fetch it again.") from error
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    @property
    def architecture(self) -> str:
        """What the file calls the family."""
        return str(self.fields.get("general.architecture"))

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first (GGUF writes it the other way round)."""
        return tuple(map(int, reversed(self._tensors[name].shape)))

    def format(self, name: str) -> str:
        """A tensor's format."""
        stored: str = self._tensors[name].tensor_type.name
        return _NAMES.get(stored, stored)

    def raw(self, name: str) -> RawTensor:
        """The tensor's blocks, a map of the file."""
        shape, stored = self.shape(name), self.format(name)
        if stored not in FORMATS:
            raise ModelError(f"{self.path}: {name} has {unsupported_format(stored)}.")
        data = np.asarray(self._tensors[name].data).reshape(-1).view(np.uint8)
        return RawTensor(data.reshape(*shape[:-1], row_bytes(stored, shape[-1])), stored, shape)
