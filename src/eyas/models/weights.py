"""Reading weights strictly: safetensors only, each file checked before anything is loaded."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from eyas.errors import EyasError, ModelError

_NUMPY = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"},
}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CODES: dict[np.dtype[Any], str] = {np.dtype(code): name for name, code in _NUMPY.items()} | {
    BFLOAT16: "BF16"
}
_BYTES = {name: np.dtype(code).itemsize for name, code in _NUMPY.items()} | {"BF16": 2}
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


def read_json(path: Path, error: type[EyasError] = ModelError) -> dict[str, Any]:
    """A JSON object from a file; `error` in one line if there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}).") from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is not valid JSON ({problem}); fetch it again.") from problem
    if not isinstance(document, dict):
        raise error(f"{path} does not hold a JSON object; fetch it again.")
    return document


def read_header(path: Path, error: type[EyasError] = ModelError) -> dict[str, dict[str, Any]]:
    """Names, dtypes, shapes and offsets of a safetensors file's tensors, checked against the file's size.

    Raises:
        error: corrupt or truncated, with both sizes.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 8 + length <= size else None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path} is not a readable safetensors file ({problem}); fetch it again.") from problem
    if header is None:
        raise error(f"{path} is truncated: {size} bytes, shorter than its own header; fetch it again.")
    try:
        return _checked(header, 8 + length, size)
    except (AttributeError, LookupError, TypeError) as problem:
        raise error(f"{path} is not a safetensors file: its header lacks {problem}.") from problem
    except ValueError as problem:
        raise error(f"{path} {problem}; fetch it again.") from problem


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself besides its tensors, as `write_safetensors` was told.

    Raises:
        OSError, ValueError: the file has no readable header.
    """
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {str(name): str(text) for name, text in header.get("__metadata__", {}).items()}


def _checked(header: Any, data_start: int, size: int) -> dict[str, dict[str, Any]]:
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if data_start + end != size:
        raise ValueError(f"has {size} bytes, but its header describes {data_start + end}")
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (start, stop, *entry["shape"])):
            raise ValueError(f"is corrupt: {name} has no valid shape or offsets")
        full = _BYTES.get(entry["dtype"], 0) * math.prod(entry["shape"])  # 0: a dtype that we never read
        if start > stop or (full and stop - start != full):
            raise ValueError(f"is corrupt: {name} does not fill its offsets")
        entry["file_offset"] = data_start + start
    checked: dict[str, dict[str, Any]] = header
    return checked


def read_tensor(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    """One tensor by its header entry; bfloat16 becomes float32, which holds it exactly.

    Raises:
        ModelError: an unsupported dtype.
    """
    if entry["dtype"] not in _BYTES:
        raise ModelError(f"{path} has unsupported dtype {entry['dtype']}; expected BF16, F16, F32 or F64.")
    count = math.prod(entry["shape"])
    if entry["dtype"] == "BF16":
        stored = np.fromfile(path, dtype=BFLOAT16, count=count, offset=entry["file_offset"])
        return stored.astype(np.float32).reshape(entry["shape"])
    array = np.fromfile(path, dtype=_NUMPY[entry["dtype"]], count=count, offset=entry["file_offset"])
    return array.reshape(entry["shape"])


def array_at(content: NDArray[np.uint8], entry: Mapping[str, Any]) -> NDArray[Any]:
    """A view of one tensor in the bytes of its whole file, by its header entry."""
    dtype = BFLOAT16 if entry["dtype"] == "BF16" else np.dtype(_NUMPY[entry["dtype"]])
    count = math.prod(entry["shape"])
    return np.frombuffer(content, dtype, count, entry["file_offset"]).reshape(entry["shape"])


def dtype_code(dtype: np.dtype[Any]) -> str:
    """What safetensors calls a dtype."""
    return _CODES[dtype]


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays as one safetensors file, with further texts in its header."""
    shapes = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    stream_safetensors(path, shapes, tensors.__getitem__, metadata)


def stream_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    make: Callable[[str], NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays one after the other, so that one of them is in memory at a time.

    Layout (safetensors, format documentation): header length as uint64, JSON header, then the data. The
    library's own writer needs all arrays in memory at once.

    Args:
        path: the file.
        shapes: name -> (dtype, shape), in the file's order.
        make: gives the array of a name; it is called once for each, in order.
        metadata: texts for the header.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    start = 0
    for name, (dtype, shape) in shapes.items():
        stop = start + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": dtype_code(dtype), "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)  # data aligned to a cache line, for readers that map the file
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (dtype, shape) in shapes.items():
            array = make(name)
            assert (array.dtype, array.shape) == (dtype, shape), f"{name} is not as announced"
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model: one, or those that its index names.

    Raises:
        ModelError: there are none, or one of the index is missing.
    """
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    names = sorted(set(_weight_map(directory).values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelError(f"{directory} lacks {missing[0]}, which its index names; fetch it again.")
    if names:
        return [directory / name for name in names]
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in directory.glob(kind))
    found = f" but {pickles[0]}, and eyas does not read pickled weights" if pickles else ""
    raise ModelError(f"{directory} has no model.safetensors{found}; save the model as safetensors there.")


def tensor_places(directory: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every tensor of a model: name -> (file, header entry). All files are checked.

    Raises:
        ModelError: missing, truncated or corrupt files, or a tensor that the index names and no file has.
    """
    files = weight_files(directory)
    places = {name: (path, entry) for path in files for name, entry in read_header(path).items()}
    if files != [directory / "model.safetensors"]:
        for name, file in _weight_map(directory).items():
            if name not in places:
                raise ModelError(f"{directory / file} lacks {name}, which the index names; fetch it again.")
    return places


def check_model_dir(directory: Path) -> None:
    """Refuse a directory that is not a complete Hugging Face model, naming the first fault.

    Raises:
        ModelError: no or broken config.json; missing, truncated or corrupt weights; an embedding whose shape
            is not the config's.
    """
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory} has no config.json; name a Hugging Face model's directory.")
    config = text_config(read_json(directory / "config.json"))
    expected = [config.get("vocab_size"), config.get("hidden_size", config.get("n_embd"))]
    for name, (path, entry) in tensor_places(directory).items():
        if name.endswith(_EMBEDDINGS) and None not in expected:
            if entry["shape"] != expected:
                raise ModelError(
                    f"{path}: {name} has shape {entry['shape']}, but config.json says {expected}; they are "
                    "not of one model, so fetch both again."
                )
            return


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config: multimodal ones nest it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def _weight_map(directory: Path) -> dict[str, str]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return {}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{index} has no usable weight_map; fetch it again.")
    return weight_map
