"""Arrays of draft networks on disk, by name: safetensors, or a pickle that holds nothing but tensors.

Matrices may be stored in int8, which halves the file:

    NAME [n, k] int8    with NAME.scale [n] float32: rows as integers in -127..127 times their scale; or
                        [n, p], a scale for each of p equal pieces of a row (`eyas.models.int8`)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyas.errors import CheckpointError
from eyas.models.int8 import from_int8, pieces_apart, to_int8
from eyas.models.weights import BFLOAT16, read_header, read_tensor, write_safetensors

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
StoredPrecision = Literal["bfloat16", "int8"]

SCALE = ".scale"
EXACT = (np.dtype(np.int64), np.dtype(np.bool_))  # what is no weight


def read_arrays(directory: Path, names: Sequence[str]) -> tuple[Arrays, Path]:
    """Arrays of the first file among `names` that is there: int8 rows times their scales.

    Whole numbers (int64) and truth values stay what they are; everything else is float32.

    Raises:
        CheckpointError: there is none; truncated or corrupt; a pickle that holds more than tensors.
    """
    for path in (directory / name for name in names):
        if path.is_file():
            arrays = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
            return _unpacked(arrays, path), path
    raise CheckpointError(f"{directory} has neither {' nor '.join(names)}.")


def write_arrays(path: Path, arrays: Arrays, precision: StoredPrecision = "bfloat16") -> None:
    """Write a safetensors file.

    Args:
        path: of the file.
        arrays: float32 arrays, and whole numbers (int64) or truth values, which stay what they are.
        precision: of matrices; "int8" halves the file. Norms and biases are always bfloat16.
    """
    tensors = Arrays()
    for name, array in arrays.items():
        if array.dtype in EXACT:
            tensors[name] = array
        elif precision == "int8" and array.ndim == 2:
            pieces = pieces_apart(array, len(array))  # inputs that were joined are as wide as the output
            tensors[name], tensors[name + SCALE] = to_int8(array, pieces)
        else:
            tensors[name] = array.astype(BFLOAT16)
    write_safetensors(path, tensors)


def check_names(arrays: Mapping[str, NDArray[Any]], shapes: Shapes, source: Path) -> None:
    """Refuse arrays that are not exactly those of `shapes`, or not finite.

    Raises:
        CheckpointError: names the first that is unknown, missing, of another shape or not finite.
    """
    unknown, missing = sorted(arrays.keys() - shapes.keys()), sorted(shapes.keys() - arrays.keys())
    if unknown:
        hint = f" (and {missing[0]} is missing)" if missing else ""
        raise CheckpointError(f"{source} has the unknown tensor {unknown[0]}{hint}.")
    if missing:
        raise CheckpointError(f"{source} lacks {missing[0]}, which its config.json asks for.")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(arrays[name].shape)}, but its config.json gives "
                f"{list(shape)}."
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{source}: {name} has values that are not finite.")


def _read_safetensors(path: Path) -> Arrays:
    header = read_header(path, CheckpointError)
    return {name: read_tensor(path, entry) for name, entry in header.items()}


def _read_pickle(path: Path) -> Arrays:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a torch file; reading it needs torch: pip install 'eyas[torch]'."
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {
            name: (tensor if tensor.dtype in (torch.int64, torch.bool) else tensor.float()).numpy()
            for name, tensor in tensors.items()
        }
    except Exception as error:  # unpickling raises nearly anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} holds more than tensors, or is broken ({reason[:120]}).") from error


def _unpacked(arrays: Arrays, source: Path) -> Arrays:
    """int8 rows times their scales; everything else but `EXACT` numbers as float32."""
    found = Arrays()
    for name, array in arrays.items():
        scale = arrays.get(name + SCALE)
        if array.dtype == np.int8:
            try:
                found[name] = from_int8(array, np.zeros(0) if scale is None else scale)
            except ValueError as error:
                raise CheckpointError(
                    f"{source}: {name} is int8, but {name}{SCALE} does not have a number for each row."
                ) from error
        elif not (name.endswith(SCALE) and arrays.get(name.removesuffix(SCALE), array).dtype == np.int8):
            found[name] = array if array.dtype in EXACT else array.astype(np.float32)
    return found
