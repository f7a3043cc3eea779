"""A target's packed matrices as one file that is mapped: made once, shared by processes, ready at once.

The file is a safetensors file of bytes and scales. Its name says what it holds: a hash of the model's weight
files and description, the weight format, and a hash of the layout in memory. Equal models have one file
wherever they lie; another layout has another name.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.errors import FetchError, ModelError
from eyas.models import Progress, locked, read_header
from eyas.models.digests import content_digest
from eyas.models.packed import packed_dir, remove_stale, touch
from eyas.models.spec import ModelSpec
from eyas.models.tensors import ModelTensors
from eyas.models.weights import dtype_code, stream_safetensors
from eyas.runtimes.native.matrices import (
    MATRICES,
    Stored,
    layer_matrix,
    layout_key,
    matrix_shapes,
    pack_matrix,
)

SMALL = 32 << 20  # weights below which packing costs less than a file
HEAD = "lm_head"
EMBEDDING = "embedding.weight"


class PackedWeights:
    """The matrices of a target by name: `layers.3.qkv`, `lm_head`.

    Args:
        tensors: of the model.
        weight_format: float32, bfloat16 or int8.
        progress: called while packing.

    Raises:
        ModelError: weights that are not finite.
        FetchError: the cache cannot be written.
    """

    def __init__(self, tensors: ModelTensors, weight_format: str, progress: Progress) -> None:
        self._tensors = tensors
        self._format = weight_format
        self._shapes = dict(_shapes(tensors.spec))
        self._arrays: dict[str, NDArray[Any]] = {}
        size = sum(rows * columns for rows, columns in self._shapes.values())
        if size < SMALL:
            for name in self._shapes:
                self._arrays[name], self._arrays[f"{name}.scale"] = self._pack(name)
            return
        path = packed_path(tensors, weight_format)
        touch(path)
        if not self._map(path):
            with locked(path):
                if not self._map(path):  # no other process has made it meanwhile
                    self._write(path, progress)
                    is_mapped = self._map(path)
                    assert is_mapped, "written just now"
            remove_stale(keep=path, layout=layout_key(weight_format))

    def matrix(self, name: str, bias: NDArray[np.float32] | None = None) -> _native.Matrix:
        """A matrix over the mapped bytes."""
        scale = self._arrays.get(f"{name}.scale")
        has_scale = scale is not None and len(scale)
        return _native.Matrix(
            self._format, *self._shapes[name], self._arrays[name], scale if has_scale else None, bias
        )

    def rows(self, name: str) -> Stored:
        """(n, k) weights of a matrix before packing."""
        if name == HEAD:
            return self._tensors.stored(self._head_name)
        layer, matrix = name.rsplit(".", 1)
        return layer_matrix(lambda part: self._tensors.stored(f"{layer}.{part}"), matrix)

    @property
    def _head_name(self) -> str:
        return EMBEDDING if self._tensors.spec.head.tied else "lm_head.weight"

    @property
    def num_bytes(self) -> int:
        """Of all packed matrices."""
        return sum(array.nbytes for array in self._arrays.values())

    def _pack(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if name == HEAD and not self._tensors.spec.head.tied:
            self._tensors.check_finite(EMBEDDING)  # it is never packed
        try:
            return pack_matrix(self.rows(name), self._format, f"{self._tensors.source.path}: {name}")
        except ModelError:
            self._name_broken_tensor(name)
            raise

    def _name_broken_tensor(self, name: str) -> None:
        """Raise ModelError for the tensor of a matrix that is not finite."""
        if name == HEAD:
            self._tensors.check_finite(self._head_name)
            return
        layer, matrix = name.rsplit(".", 1)

        def checked(part: str) -> Stored:
            self._tensors.check_finite(f"{layer}.{part}")
            return self._tensors.stored(f"{layer}.{part}")

        layer_matrix(checked, matrix)

    def _layout(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """What the file holds."""
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for name, (rows, columns) in self._shapes.items():
            data, scale = _native.packed_sizes(self._format, rows, columns)
            shapes[name] = (np.dtype("u1"), (data,))
            if scale:
                shapes[f"{name}.scale"] = (np.dtype("<f4"), (scale,))
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
        scales: dict[str, NDArray[np.float32]] = {}

        def make(name: str) -> NDArray[Any]:
            if name in scales:
                return scales.pop(name)
            progress("packing weights", list(shapes).index(name), len(shapes))
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


def packed_path(tensors: ModelTensors, weight_format: str) -> Path:
    """Where the packed matrices of these weights, in this format and layout, are kept."""
    content = content_digest(tensors.source.files()) + repr(tensors.spec)
    digest = sha256(content.encode()).hexdigest()[:16]
    return packed_dir() / f"{digest}-{weight_format}-{layout_key(weight_format)}.safetensors"


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


def _shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, int]]]:
    for index, layer in enumerate(spec.layers):
        shapes = matrix_shapes(layer, spec.hidden_size)
        for matrix in MATRICES:
            yield f"layers.{index}.{matrix}", shapes[matrix]
    yield HEAD, (spec.vocab_size, spec.hidden_size)
