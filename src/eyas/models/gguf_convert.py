"""A GGUF file as an ordinary Hugging Face directory.

The stored model is the dequantised file rounded to bfloat16: that *is* the target, whatever precision it is
run in. Weights come through `GGUFSource`, names and metadata keys from the family's file, and the tokenizer
is built from lists of tokens and merges (gguf_tokenizer.py).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.families import Family, describe, find_gguf_family
from eyas.models.families.common import Unsupported
from eyas.models.formats import to_float32
from eyas.models.gguf_tokenizer import build_tokenizer, tokenizer_settings
from eyas.models.progress import Progress, silent
from eyas.models.sources import GGUFSource
from eyas.models.spec import ModelSpec
from eyas.models.tensors import ModelTensors
from eyas.models.weights import BFLOAT16, stream_safetensors

_SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad"}


def convert_gguf(source: Path, target: Path, progress: Progress = silent) -> None:
    """Write config, weights, tokenizer and chat template of `source` into the folder `target`.

    Raises:
        ModelError: not a whole GGUF file, an unknown architecture, or a tokenizer that we cannot rebuild.
        OSError: `target` cannot be written.
    """
    file = GGUFSource(source)
    try:
        family = find_gguf_family(file.architecture)
        config, spec = read_gguf(file, family)
        tokenizer = build_tokenizer(file.fields)
        settings = tokenizer_settings(file.fields, spec.context_limit)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ModelError(f"{source} lacks the metadata {error}; fetch it again.") from error
    except (ModelError, Unsupported, ValueError) as error:
        raise ModelError(f"{source} cannot be converted: {error}.") from error
    assert family.gguf is not None, "found by its GGUF architecture"
    tensors = ModelTensors(file, spec, family.gguf.tensors)
    _write_json(target / "config.json", config)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(target / "generation_config.json", {key: config[key] for key in keys if key in config})
    # As text, not by the library's own writer, whose failures do not say that the disk is full.
    (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_json(target / "tokenizer_config.json", settings)
    _write_weights(tensors, family, target / "model.safetensors", progress)


def read_gguf(file: GGUFSource, family: Family) -> tuple[dict[str, Any], ModelSpec]:
    """The config.json that a file's metadata amount to, and the model that it describes.

    Raises:
        KeyError, TypeError, ValueError, ZeroDivisionError: metadata that are missing or impossible, by key.
        Unsupported: a rotary scaling, or something that the family's file does not know.
    """
    gguf = family.gguf
    assert gguf is not None, "a family with GGUF files"

    def metadata(key: str) -> Any:
        return file.fields[f"{file.architecture}.{key}"]

    config: dict[str, Any] = {"model_type": family.name, **gguf.config}
    optional = ("num_key_value_heads", "head_dim", "rope_theta")
    for entry, key in gguf.metadata.items():
        if entry not in optional or f"{file.architecture}.{key}" in file.fields:
            value = metadata(key)
            # GGUF stores float32: round to the short decimal that was meant.
            config[entry] = float(f"{value:.6g}") if isinstance(value, float) else int(value)
    config.setdefault("rope_theta", 10000.0)
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    _check_rope(file, config["head_dim"])
    embedding, head = (f"{gguf.tensors.outer[name]}.weight" for name in ("embedding", "lm_head"))
    if embedding not in file.names():
        raise KeyError(embedding)
    config["vocab_size"] = file.shape(embedding)[0]
    config["tie_word_embeddings"] = head not in file.names()
    config["torch_dtype"] = "bfloat16"
    for name, entry in _SPECIAL.items():
        if f"tokenizer.ggml.{name}_token_id" in file.fields:
            config[f"{entry}_token_id"] = int(file.fields[f"tokenizer.ggml.{name}_token_id"])
    return config, describe(family, config)


def _check_rope(file: GGUFSource, head_dim: int) -> None:
    """Refuse rotary embeddings that are scaled or partial: their metadata are not translated."""
    rotated = int(file.fields.get(f"{file.architecture}.rope.dimension_count", head_dim))
    if rotated != head_dim:
        raise Unsupported(f"it rotates {rotated} of {head_dim} dimensions, and all have to be rotated")
    scaling = file.fields.get(f"{file.architecture}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in file.names():
        raise Unsupported(f"its rotary scaling ({scaling!r}) is not supported; use the original model")


def _write_weights(tensors: ModelTensors, family: Family, target: Path, progress: Progress) -> None:
    names = {family.tensors.find(name)[0]: name for name in tensors}
    order = {name: index for index, name in enumerate(names)}

    def make(name: str) -> NDArray[Any]:
        progress("converting", order[name], len(order))
        try:
            values = to_float32(tensors.raw(names[name]))
        except ModelError as error:
            raise ModelError(f"{tensors.source.path}: {name} cannot be converted ({error}).") from error
        if not np.isfinite(values).all():
            raise ModelError(
                f"{tensors.source.path}: {name} holds numbers that are not finite; fetch the file again."
            )
        return values.astype(BFLOAT16)

    stream_safetensors(target, {name: (BFLOAT16, tensors.shape(own)) for name, own in names.items()}, make)
    progress("converting", len(order), len(order))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
