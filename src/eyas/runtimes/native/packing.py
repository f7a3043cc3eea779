"""A target's packed matrices as one file that is mapped: made once, shared by processes, ready at once.

The file is a safetensors file of bytes and scales. Its name says which weights, which layout and which
precision it holds; a new layout is a new name.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.errors import FetchError, ModelError
from eyas.models import Progress, cache_dir, locked, read_header
from eyas.models.weights import dtype_code, stream_safetensors
from eyas.runtimes.native.families import Family
from eyas.runtimes.native.layers import MATRICES, Get, layer_matrix, pack_matrix
from eyas.runtimes.native.weights import ModelWeights, Raw

LAYOUT = "1"
SMALL = 32 << 20  # weights below which packing costs less than a file
HEAD = "lm_head"
EMBEDDING = "model.embed_tokens.weight"


class PackedWeights:
    """The matrices of a target by name: `layers.3.qkv`, `lm_head`.

    Args:
        weights: the model's tensors.
        family: its config.
        kind: float32, bfloat16 or int8.
        fingerprint: of the model.
        progress: called while packing.

    Raises:
        ModelError: weights that are not finite.
        FetchError: the cache cannot be written.
    """

    def __init__(
        self, weights: ModelWeights, family: Family, kind: str, fingerprint: str, progress: Progress
    ) -> None:
        self._weights = weights
        self._family = family
        self._kind = kind
        self._shapes = dict(_shapes(family))
        self._arrays: dict[str, NDArray[Any]] = {}
        size = sum(rows * columns for rows, columns in self._shapes.values())
        if size < SMALL:
            for name in self._shapes:
                self._arrays[name], self._arrays[f"{name}.scale"] = self._pack(name)
            return
        path = packed_path(weights, fingerprint, kind)
        if not self._is_whole(path):
            with locked(path):
                if not self._is_whole(path):  # nobody else has made it meanwhile
                    self._write(path, progress)
        self._map(path)

    def matrix(self, name: str, bias: NDArray[np.float32] | None = None) -> _native.Matrix:
        """A matrix over the mapped bytes."""
        scale = self._arrays[f"{name}.scale"] if self._kind == "int8" else None
        return _native.Matrix(self._kind, *self._shapes[name], self._arrays[name], scale, bias)

    def rows(self, name: str) -> Raw:
        """(n, k) weights of a matrix before packing."""
        return self._read(name, self._weights.raw)

    def _read(self, name: str, get: Get) -> Raw:
        if name == HEAD:
            return get(EMBEDDING if self._family.tied else "lm_head.weight")
        prefix, matrix = name.rsplit(".", 1)
        return layer_matrix(get, f"model.{prefix}.", matrix)

    @property
    def num_bytes(self) -> int:
        """Of all packed matrices."""
        return sum(array.nbytes for array in self._arrays.values())

    def _pack(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if name == HEAD and not self._family.tied:
            self._weights.check_finite(EMBEDDING)  # it is never packed
        try:
            return pack_matrix(self.rows(name), self._kind, f"{self._weights.model_dir}: {name}")
        except ModelError:
            self._read(name, self._checked)  # names the tensor
            raise

    def _checked(self, name: str) -> Raw:
        self._weights.check_finite(name)
        return self._weights.raw(name)

    def _layout(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """What the file holds."""
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for name, (rows, columns) in self._shapes.items():
            data, scale = _native.packed_sizes(self._kind, rows, columns)
            shapes[name] = (np.dtype("u1"), (data,))
            if scale:
                shapes[f"{name}.scale"] = (np.dtype("<f4"), (scale,))
        return shapes

    def _is_whole(self, path: Path) -> bool:
        """Whether the file is there as it was written; a broken one is made anew."""
        try:
            header = read_header(path)
        except ModelError:
            return False
        return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()} == {
            name: (dtype_code(dtype), shape) for name, (dtype, shape) in self._layout().items()
        }

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

    def _map(self, path: Path) -> None:
        whole = np.frombuffer(_mapped(path), dtype=np.uint8)
        for name, entry in read_header(path).items():
            start = entry["file_offset"]
            stop = start + entry["data_offsets"][1] - entry["data_offsets"][0]
            piece = whole[start:stop]
            self._arrays[name] = piece.view(np.float32) if name.endswith(".scale") else piece


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


def packed_path(weights: ModelWeights, fingerprint: str, kind: str) -> Path:
    """Where the packed matrices of these files, in this layout and precision, are kept."""
    digest = hashlib.sha256()
    for file in sorted({path for path, _ in weights.places.values()}):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    name = f"{fingerprint}-{digest.hexdigest()[:8]}-{kind}-{LAYOUT}.safetensors"
    return cache_dir() / "packed" / name


def _shapes(family: Family) -> Iterator[tuple[str, tuple[int, int]]]:
    hidden, dim = family.hidden_size, family.head_dim
    inner = -(-family.intermediate_size // 16) * 32
    sizes = {
        "qkv": ((family.num_heads + 2 * family.num_kv_heads) * dim, hidden),
        "output": (hidden, family.num_heads * dim),
        "gate_up": (inner, hidden),
        "down": (hidden, family.intermediate_size),
    }
    for layer in range(family.num_layers):
        for matrix in MATRICES:
            yield f"layers.{layer}.{matrix}", sizes[matrix]
    yield HEAD, (family.vocab_size, hidden)
