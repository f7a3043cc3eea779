"""A target's fingerprint, by which heads are found whatever its folder is called.

A hash over the architecture's part of the config, the tokenizer's vocabulary and merges, and a fixed sample
of the weights. It does not depend on the machine, on how weights are split into files, or on who wrote the
config.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from eyas.models.weights import read_json, tensor_places, text_config

_SAMPLE = 64  # pieces of each tensor
_ROW = 16  # bytes of a piece


def target_fingerprint(directory: Path) -> str:
    """16 hexadecimal digits that name the target in `directory`.

    Raises:
        ModelError: no config, or weights that are missing or broken.
    """
    digest = hashlib.sha256()
    config = architecture(read_json(directory / "config.json"))
    digest.update(json.dumps(config, sort_keys=True).encode())
    digest.update(json.dumps(_vocabulary(directory), sort_keys=True).encode())
    for name, (path, entry) in sorted(tensor_places(directory).items()):
        digest.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
        digest.update(_sample(path, entry))
    return digest.hexdigest()[:16]


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


def _sample(path: Path, entry: dict[str, Any]) -> bytes:
    """Evenly spread pieces of a tensor's bytes."""
    start, stop = entry["data_offsets"]
    size = stop - start
    if size <= _SAMPLE * _ROW:
        places, width = [0], size
    else:
        places = [(size - _ROW) * index // (_SAMPLE - 1) for index in range(_SAMPLE)]
        width = _ROW
    pieces = []
    with path.open("rb", buffering=0) as file:
        for place in places:
            file.seek(entry["file_offset"] + place)
            pieces.append(file.read(width))
    return b"".join(pieces)
