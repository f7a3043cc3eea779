"""A target's packed matrices as one file that is mapped: made once, shared by processes, ready at once.

The file is a safetensors file of bytes and scales. Its name says what it holds: a hash of the model's weight
files and description, the weight format ("own" where each matrix keeps the format that its file has) or the
mix, and a hash of the layout in memory. Equal models have one file wherever they lie; another layout has
another name. A mix's file holds the input embedding too, so that a model is quantised once.
"""

import mmap
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.errors import FetchError, ModelError
from eyas.models import Progress, locked, read_header
from eyas.models.digests import content_digest
from eyas.models.formats import RawTensor, formats_of, row_bytes
from eyas.models.packed import packed_dir, remove_stale, touch
from eyas.models.quantised import QuantisedTensors, quantiser_key
from eyas.models.tensors import ModelTensors
from eyas.models.weights import dtype_code, stream_safetensors
from eyas.runtimes.native.matrices import (
    Stored,
    layer_matrix,
    layout_key,
    matrix_names,
    matrix_shape,
    pack_matrix,
    rows_of,
    weight_names,
)

SMALL = 32 << 20  # weights below which packing costs less than a file
HEAD = "lm_head"
EMBEDDING = "embedding.weight"
OWN = "own"  # stands for the formats of the model's file


class Packing(NamedTuple):
    """How a matrix is packed."""

    weight_format: str
    rows: int
    columns: int


class PackedWeights:
    """The matrices of a target by name: `layers.3.qkv`, `lm_head`.

    Where the weights of a matrix differ in format, there are several instead: `layers.3.query` and so on.

    Args:
        tensors: of the model.
        weight_format: float32, bfloat16 or int8; OWN, or a mix's name for tensors in that mix, keeps the
            format of each weight.
        progress: called while packing.

    Raises:
        ModelError: weights that are not finite.
        FetchError: the cache cannot be written.
    """

    def __init__(self, tensors: ModelTensors, weight_format: str, progress: Progress) -> None:
        self._tensors = tensors
        self._format = weight_format
        self._has_one_format = weight_format in formats_of("native")
        self._packings = dict(self._plan())
        self._arrays: dict[str, NDArray[Any]] = {}
        size = sum(packing.rows * packing.columns for packing in self._packings.values())
        if size < SMALL:
            for name in self._packings:
                self._arrays[name], self._arrays[f"{name}.scale"] = self._pack(name)
            if self._keeps_embedding:
                self._arrays[EMBEDDING] = tensors.raw(EMBEDDING).data
            return
        layout = self._layout_key()
        path = packed_path(tensors, weight_format, layout)
        touch(path)
        if not self._map(path):
            with locked(path):
                if not self._map(path):  # no other process has made it meanwhile
                    self._write(path, progress)
                    is_mapped = self._map(path)
                    assert is_mapped, "written just now"
            remove_stale(keep=path, layout=layout)

    def matrix(self, name: str, bias: NDArray[np.float32] | None = None) -> _native.Matrix:
        """A matrix over the mapped bytes."""
        scale = self._arrays.get(f"{name}.scale")
        has_scale = scale is not None and len(scale)
        return _native.Matrix(*self._packings[name], self._arrays[name], scale if has_scale else None, bias)

    def embedding(self) -> RawTensor:
        """The input embedding's table: as the model's file has it, or in a mix."""
        if not self._keeps_embedding:
            return self._tensors.raw(EMBEDDING)
        shape = self._tensors.shape(EMBEDDING)
        return RawTensor(
            self._arrays[EMBEDDING].reshape(shape[0], -1), self._tensors.format(EMBEDDING), shape
        )

    @property
    def _keeps_embedding(self) -> bool:
        tensors = self._tensors
        return isinstance(tensors, QuantisedTensors) and tensors.format(EMBEDDING) in tensors.block_formats

    def parts(self, layer: int, matrix: str) -> tuple[str, ...]:
        """What a matrix consists of: itself, or the names of its weights where formats differ."""
        return (matrix,) if f"layers.{layer}.{matrix}" in self._packings else weight_names(matrix)

    def weight_format(self, name: str) -> str:
        """The format of a matrix."""
        return self._packings[name].weight_format

    @property
    def main_format(self) -> str:
        """The format that most weights have."""
        sizes: Counter[str] = Counter()
        for packing in self._packings.values():
            sizes[packing.weight_format] += packing.rows * packing.columns
        return sizes.most_common(1)[0][0]

    def _plan(self) -> Iterator[tuple[str, Packing]]:
        spec = self._tensors.spec
        hidden = spec.hidden_size
        for index, layer in enumerate(spec.layers):
            for matrix in matrix_names(layer):
                parts = weight_names(matrix)
                formats = [self._format_of(f"layers.{index}.{part}.weight") for part in parts]
                if len(set(formats)) == 1:
                    parts, formats = (matrix,), formats[:1]
                for part, weight_format in zip(parts, formats, strict=True):
                    shape = matrix_shape(layer, hidden, part)
                    yield f"layers.{index}.{part}", Packing(weight_format, *shape)
        yield HEAD, Packing(self._format_of(self._head_name), spec.vocab_size, spec.hidden_size)

    def _format_of(self, tensor: str) -> str:
        if tensor.endswith("router.weight"):
            return "float32"  # few numbers that decide much
        if self._has_one_format:
            return self._format
        stored = self._tensors.format(tensor)
        return stored if stored in _native.weight_formats() else "float32"

    def _layout_key(self) -> str:
        """Changes whenever the formats of the matrices or their layouts do."""
        if self._has_one_format:
            return layout_key(self._format)
        keys = [layout_key(name) for name in sorted({p.weight_format for p in self._packings.values()})]
        if isinstance(self._tensors, QuantisedTensors):
            keys += [quantiser_key(name) for name in sorted(self._tensors.block_formats)]
        return sha256("".join(keys).encode()).hexdigest()[:8]

    def rows(self, name: str) -> Stored:
        """Weights of a matrix before packing: (n, k) numbers, or (n, bytes of a row)."""
        weight_format = self._packings[name].weight_format
        if name == HEAD:
            return rows_of(self._tensors.raw(self._head_name), weight_format)
        layer, matrix = _layer_and_matrix(name)

        def get(part: str) -> Stored:
            return rows_of(self._tensors.raw(f"{layer}.{part}"), weight_format)

        return layer_matrix(get, matrix)

    def head_table(self) -> Stored:
        """The LM head's rows as `rows` has them, or the numbers of the model's files where it is in a mix."""
        if isinstance(self._tensors, QuantisedTensors):
            return self._tensors.original.stored(self._head_name)
        return self.rows(HEAD)

    @property
    def _head_name(self) -> str:
        return EMBEDDING if self._tensors.spec.head.tied else "lm_head.weight"

    @property
    def num_bytes(self) -> int:
        """Of all packed matrices."""
        return sum(array.nbytes for array in self._arrays.values())

    def _pack(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if name == HEAD and not self._tensors.spec.head.tied and not self._keeps_embedding:
            self._tensors.check_finite(EMBEDDING)  # it is never packed
        try:
            packing = self._packings[name]
            return pack_matrix(self.rows(name), packing.weight_format, f"{self._tensors.source.path}: {name}")
        except ModelError:
            self._name_broken_tensor(name)
            raise

    def _name_broken_tensor(self, name: str) -> None:
        """Raise ModelError for the tensor of a matrix that is not finite."""
        if name == HEAD:
            self._tensors.check_finite(self._head_name)
            return
        layer, matrix = _layer_and_matrix(name)
        for part in weight_names(matrix):
            self._tensors.check_finite(f"{layer}.{part}.weight")

    def _layout(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """What the file holds."""
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for name, packing in self._packings.items():
            data, scale = _native.packed_sizes(*packing)
            shapes[name] = (np.dtype("u1"), (data,))
            if scale:
                shapes[f"{name}.scale"] = (np.dtype("<f4"), (scale,))
        if self._keeps_embedding:
            rows, columns = self._tensors.shape(EMBEDDING)
            size = rows * row_bytes(self._tensors.format(EMBEDDING), columns)
            shapes[EMBEDDING] = (np.dtype("u1"), (size,))
        return shapes

    def _map(self, path: Path) -> bool:
        """Map the file if it is there as it was written; False for one to write again."""
        try:
            header, mapped = read_header(path), _mapped(path)
        except (ModelError, OSError, ValueError):  # none, a broken or an empty one
            return False
        found = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        if found != {name: (dtype_code(dtype), shape) for name, (dtype, shape) in self._layout().items()}:
            return False
        whole = np.frombuffer(mapped, dtype=np.uint8)
        for name, entry in header.items():
            start = entry["file_offset"]
            stop = start + entry["data_offsets"][1] - entry["data_offsets"][0]
            piece = whole[start:stop]
            self._arrays[name] = piece.view(np.float32) if name.endswith(".scale") else piece
        return True

    def _write(self, path: Path, progress: Progress) -> None:
        shapes = self._layout()
        order = {name: index for index, name in enumerate(shapes)}
        scales: dict[str, NDArray[np.float32]] = {}

        def make(name: str) -> NDArray[Any]:
            if name in scales:
                return scales.pop(name)
            progress("packing weights", order[name], len(order))
            if name == EMBEDDING:
                return self._tensors.raw(name).data.reshape(-1)
            data, scales[f"{name}.scale"] = self._pack(name)
            return data

        temporary = path.with_suffix(".tmp")
        try:
            stream_safetensors(temporary, shapes, make)
            _leave_memory(temporary)
            temporary.replace(path)
        except OSError as error:
            raise FetchError(
                f"{path} cannot be written ({error.strerror or error}); make room there, or move the cache "
                "with EYAS_CACHE."
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()


def _layer_and_matrix(name: str) -> tuple[str, str]:
    """`layers.3` and `expert_down.17` of `layers.3.expert_down.17`."""
    layers, index, matrix = name.split(".", 2)
    return f"{layers}.{index}", matrix


def packed_path(tensors: ModelTensors, weight_format: str, layout: str) -> Path:
    """Where the packed matrices of these weights, in this format and layout, are kept."""
    content = content_digest(tensors.source.files()) + repr(tensors.spec)
    digest = sha256(content.encode()).hexdigest()[:16]
    return packed_dir() / f"{digest}-{weight_format}-{layout}.safetensors"


def _mapped(path: Path) -> mmap.mmap:
    """The file's bytes, in large pages where the system has them for files: a pass reads every page once."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


def _leave_memory(path: Path) -> None:
    """Forget the pages that writing the file has left in memory: small ones, which would stay."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
