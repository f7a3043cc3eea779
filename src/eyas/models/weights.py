"""Reading weights strictly: safetensors only, each file checked before anything is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import EyasError, ModelError

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def read_json(path: Path, error: type[EyasError] = ModelError) -> dict[str, Any]:
    """A JSON object from a file; `error` in one line if there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}).") from problem
    except ValueError as problem:
        raise error(f"{path} is not valid JSON ({problem}).") from problem
    if not isinstance(document, dict):
        raise error(f"{path} holds no JSON object.")
    return document


def read_header(path: Path, error: type[EyasError] = ModelError) -> dict[str, dict[str, Any]]:
    """Names, dtypes, shapes and places of a safetensors file's tensors, checked against the file's size.

    Raises:
        error: corrupt or truncated, with both sizes.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 8 + length <= size else None
    except (OSError, ValueError) as problem:
        raise error(f"{path} is not a readable safetensors file ({problem}); fetch it again.") from problem
    if not isinstance(header, dict):
        raise error(f"{path} is truncated: {size} bytes, shorter than its own header; fetch it again.")
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise error(f"{path} has {size} bytes, but its header describes {8 + length + end}; fetch it again.")
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        if stop - start != _BYTES.get(entry["dtype"], 0) * int(np.prod(entry["shape"], dtype=np.int64)):
            raise error(f"{path} is corrupt: {name} does not fill its place; fetch it again.")
        entry["file_offset"] = 8 + length + start
    return header


def read_tensor(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    """One tensor by its header entry; bfloat16 comes as float32, which holds it exactly."""
    count = int(np.prod(entry["shape"], dtype=np.int64))
    if entry["dtype"] == "BF16":
        bits = np.fromfile(path, dtype="<u2", count=count, offset=entry["file_offset"])
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    array = np.fromfile(path, dtype=_NUMPY[entry["dtype"]], count=count, offset=entry["file_offset"])
    return array.reshape(entry["shape"])


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays; uint16 ones are bfloat16 bits (NumPy has no such type, so no library call takes them).

    Layout (safetensors, format documentation): header length as uint64, JSON header, then the data.
    """
    codes = {np.dtype(code): name for name, code in _NUMPY.items()} | {np.dtype("<u2"): "BF16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, array in tensors.items():
        stop = start + array.nbytes
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model: one, or those that its index names.

    Raises:
        ModelError: there are none, or one of the index is missing.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ModelError(f"{directory} lacks {missing[0]}, which its index names; fetch it again.")
        return [directory / name for name in names]
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    raise ModelError(f"{directory} has no model.safetensors; eyas reads no pickled weights, so convert them.")


def tensor_places(directory: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every tensor of a model: name -> (file, header entry). All files are checked."""
    return {
        name: (path, entry) for path in weight_files(directory) for name, entry in read_header(path).items()
    }


def check_model_dir(directory: Path) -> None:
    """Refuse a directory that is no whole Hugging Face model, naming the first fault.

    Raises:
        ModelError: no or broken config.json; missing, truncated or corrupt weights; an embedding whose shape
            is not the config's.
    """
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory} has no config.json; name a Hugging Face model's directory.")
    config = read_json(directory / "config.json")
    places = tensor_places(directory)
    expected = [config.get("vocab_size"), config.get("hidden_size", config.get("n_embd"))]
    for name, (_, entry) in places.items():
        if name.endswith(("embed_tokens.weight", "wte.weight")) and None not in expected:
            if entry["shape"] != expected:
                raise ModelError(
                    f"{directory}: {name} has shape {entry['shape']}, but config.json says {expected}."
                )
            return
