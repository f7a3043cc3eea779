"""A target's fingerprint, by which heads are found whatever its folder is called.

A hash over the architecture's part of the config, the tokenizer's vocabulary and merges, and a fixed sample
of the weights. It does not depend on the machine, on how weights are split into files, or on who wrote the
config. All quantisations of one model share a second one, its base fingerprint.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.models.digests import remembered
from eyas.models.families import read_family
from eyas.models.formats import FORMATS, RawTensor, to_float32
from eyas.models.sources import GGUFSource, is_gguf, open_gguf
from eyas.models.stock import open_stock_tensors
from eyas.models.weights import BFLOAT16, read_json, read_tensor, tensor_places, text_config

_SAMPLE = 64  # pieces of each tensor
_ROW = 16  # bytes of a piece
_NORM = "norm.weight"


def target_fingerprint(model: Path) -> str:
    """16 hexadecimal digits that name the target in a directory or GGUF file.

    A GGUF file has the fingerprint of the bfloat16 directory that `convert_gguf` makes of it.

    Raises:
        ModelError: no config, or weights that are missing or broken.
    """
    if is_gguf(model):
        return _gguf_fingerprint(model)
    digest = _begun(read_json(model / "config.json"), _vocabulary(model))
    for name, (path, entry) in sorted(tensor_places(model).items()):
        digest.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
        digest.update(_sample(path, entry))
    return str(digest.hexdigest()[:16])


def base_fingerprint(model: Path) -> str | None:
    """16 hexadecimal digits that all quantisations of a model share; None where nothing tells models apart.

    A hash over the weights of the norms, in bfloat16: each trained model has its own, and quantisers leave
    them as they are.

    Raises:
        ModelError: weights that are missing or broken.
    """
    if not is_gguf(model):
        return _digest_of_norms(_norms_of_directory(model)) or None
    source = open_gguf(model)
    return remembered("norms", source.files(), lambda: _digest_of_norms(_norms_of_gguf(model))) or None


def _digest_of_norms(norms: Iterator[tuple[str, NDArray[np.float32]]]) -> str:
    """An empty text if all weights are equal: such a model was never trained."""
    digest, seen = hashlib.sha256(), set[float]()
    for name, weights in norms:
        digest.update(name.encode() + weights.astype(BFLOAT16).tobytes())
        seen |= {float(weights.min()), float(weights.max())}
    return digest.hexdigest()[:16] if len(seen) > 1 else ""


def _norms_of_directory(model: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, (path, entry) in sorted(tensor_places(model).items()):
        if name.endswith(_NORM):
            yield name, read_tensor(path, entry).astype(np.float32)


def _norms_of_gguf(file: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    tensors = open_stock_tensors(file)
    for name in sorted(name for name in tensors if name.endswith(_NORM)):
        yield name, tensors.values(name)


def _begun(config: dict[str, Any], vocabulary: Any) -> Any:
    """A hash of all but the weights."""
    digest = hashlib.sha256()
    digest.update(json.dumps(architecture(config), sort_keys=True).encode())
    digest.update(json.dumps(vocabulary, sort_keys=True).encode())
    return digest


def _gguf_fingerprint(file: Path) -> str:
    source = open_gguf(file)
    _, config = read_family(file)

    def compute() -> str:
        digest = _begun(config, _gguf_vocabulary(source))
        tensors = open_stock_tensors(file)
        for name in sorted(tensors):
            digest.update(f"{name} BF16 {list(tensors.shape(name))}".encode())
            digest.update(_bfloat16_sample(tensors.raw(name)))
        return str(digest.hexdigest()[:16])

    meaning = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    return remembered(f"fingerprint {meaning}", source.files(), compute)


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a config that decide the outputs, in one spelling (transformers has had several).

    Sizes that follow from shapes are left out, so an entry that a writer omits does no harm.
    """
    config = text_config(config)
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta") or rotary.get("rope_theta") or 10000.0
    scaling = {key: value for key, value in rotary.items() if key not in ("rope_theta", "rope_type", "type")}
    heads = config.get("num_attention_heads") or config.get("n_head")
    return {
        "model_type": config.get("model_type"),
        "num_hidden_layers": config.get("num_hidden_layers") or config.get("n_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "activation": config.get("hidden_act") or config.get("activation_function"),
        "norm_eps": f"{config.get('rms_norm_eps') or config.get('layer_norm_epsilon') or 0:.6g}",
        "rope_theta": f"{theta:.6g}",
        "rope_type": rotary.get("rope_type") or rotary.get("type") or "default",
        "rope_scaling": scaling,
    }


def _vocabulary(directory: Path) -> Any:
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    model = read_json(path).get("model", {})
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    return [model.get("vocab"), merges]


def _gguf_vocabulary(source: GGUFSource) -> Any:
    """Ids by token, and the merges or, where there are none, the scores."""
    tokens = source.fields.get("tokenizer.ggml.tokens", [])
    rules = source.fields.get("tokenizer.ggml.merges") or source.fields.get("tokenizer.ggml.scores")
    return [{token: index for index, token in enumerate(tokens)}, rules]


def _sample(path: Path, entry: dict[str, Any]) -> bytes:
    """Evenly spread pieces of a tensor's bytes."""
    start, stop = entry["data_offsets"]
    places, width = _places(stop - start)
    pieces = []
    with path.open("rb", buffering=0) as file:
        for place in places:
            file.seek(entry["file_offset"] + place)
            pieces.append(file.read(width))
    return b"".join(pieces)


def _places(size: int) -> tuple[list[int], int]:
    """Where the pieces of a tensor of `size` bytes begin, and how long they are."""
    if size <= _SAMPLE * _ROW:
        return [0], size
    return [(size - _ROW) * index // (_SAMPLE - 1) for index in range(_SAMPLE)], _ROW


def _bfloat16_sample(parts: Sequence[RawTensor]) -> bytes:
    """What `_sample` gives for a tensor stored in bfloat16; `parts` make it up, from the top down."""
    places, width = _places(2 * sum(math.prod(part.shape) for part in parts))
    wanted = np.array(places)[:, None] + np.arange(width)  # bytes
    indices, order = np.unique(wanted // 2, return_inverse=True)
    stored = _numbers_at(parts, indices).astype(BFLOAT16).view(np.uint8).reshape(-1, 2)
    return stored[order.reshape(wanted.shape), wanted % 2].tobytes()


def _numbers_at(parts: Sequence[RawTensor], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Numbers by their ascending places in the tensor that `parts` make up; only their blocks are read."""
    found, start = [], 0
    for part in parts:
        stop, weight_format = start + math.prod(part.shape), FORMATS[part.format]
        inside = indices[(start <= indices) & (indices < stop)] - start
        start = stop
        if not len(inside):
            continue
        blocks, order = np.unique(inside // weight_format.block, return_inverse=True)
        data = part.data.reshape(-1, weight_format.num_bytes)[blocks]
        values = to_float32(RawTensor(data, part.format, (len(blocks), weight_format.block)))
        found.append(values[order, inside % weight_format.block])
    return np.concatenate(found)
