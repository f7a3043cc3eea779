"""A target's fingerprint: which head belongs to it, whatever its folder is called.

A hash over the architecture's part of the config, the tokenizer's vocabulary and merges, and a fixed sample
of the weights. It does not depend on the machine, on how weights are split into files, or on who wrote the
config.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from eyas.models.weights import read_json, tensor_places

_CONFIG_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_SAMPLE = 64  # numbers of each tensor


def target_fingerprint(directory: Path) -> str:
    """16 hexadecimal digits that name the target in `directory`.

    Raises:
        ModelError: no config, or weights that are missing or broken.
    """
    digest = hashlib.sha256()
    config = read_json(directory / "config.json")
    digest.update(json.dumps([config.get(key) for key in _CONFIG_KEYS]).encode())
    digest.update(json.dumps(_vocabulary(directory), sort_keys=True).encode())
    for name, (path, entry) in sorted(tensor_places(directory).items()):
        digest.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
        digest.update(_sample(path, entry))
    return digest.hexdigest()[:16]


def _vocabulary(directory: Path) -> Any:
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    model = read_json(path).get("model", {})
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    return [model.get("vocab"), merges]


def _sample(path: Path, entry: dict[str, Any]) -> bytes:
    """Bytes of evenly spread elements."""
    start, stop = entry["data_offsets"]
    count = int(np.prod(entry["shape"], dtype=np.int64))
    if not count:
        return b""
    width = (stop - start) // count
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=entry["file_offset"], shape=(count, width))
    rows = np.linspace(0, count - 1, min(_SAMPLE, count)).astype(np.int64)
    return np.ascontiguousarray(data[rows]).tobytes()
