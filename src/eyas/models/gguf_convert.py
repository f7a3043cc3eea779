"""A GGUF file of the Llama family as an ordinary Hugging Face directory.

The stored model is the dequantised file rounded to bfloat16: that *is* the target, whatever precision it is
run in. Two things differ between the formats: llama.cpp permutes the rows of q and k so that rotary pairs lie
side by side, which is undone here, and the tokenizer comes as lists of tokens and merges (gguf_tokenizer.py).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.gguf_tokenizer import build_tokenizer, tokenizer_settings
from eyas.models.progress import Progress, silent
from eyas.models.weights import stream_safetensors

_BFLOAT16 = np.dtype("<u2")  # as bits

_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(source: Path, target: Path, progress: Progress = silent) -> None:
    """Write config, weights, tokenizer and chat template of `source` into the folder `target`.

    Raises:
        ModelError: not a whole GGUF file, another architecture, or a tokenizer that we cannot rebuild.
        OSError: `target` cannot be written.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(source)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the reader checks little: a broken file fails in many ways
        raise ModelError(f"{source} is no whole GGUF file ({error}); fetch it again.") from error
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise ModelError(f"{source} has architecture {architecture!r}; only 'llama' can be converted.")
    try:
        config = _config(fields, {tensor.name: tensor for tensor in reader.tensors})
        tokenizer = build_tokenizer(fields)
        settings = tokenizer_settings(fields)
        weights = _weights(reader.tensors)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ModelError(f"{source} lacks the metadata {error}; fetch it again.") from error
    except ValueError as error:
        raise ModelError(f"{source} cannot be converted: {error}.") from error
    _write_json(target / "config.json", config)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(target / "generation_config.json", {key: config[key] for key in keys if key in config})
    # As text, not by the library's own writer, whose failures do not say that the disk is full.
    (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_json(target / "tokenizer_config.json", settings)
    _write_weights(source, weights, config, target / "model.safetensors", progress)


def _config(fields: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    heads = int(fields["llama.attention.head_count"])
    hidden = int(fields["llama.embedding_length"])
    size = int(fields.get("llama.attention.key_length", hidden // heads))
    rotated = int(fields.get("llama.rope.dimension_count", size))
    if rotated != size:
        raise ValueError(f"it rotates {rotated} of {size} dimensions, and Llama rotates all")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in tensors:
        raise ValueError(f"its rotary scaling ({scaling!r}) is not supported; use the original model")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": int(fields["llama.feed_forward_length"]),
        "num_hidden_layers": int(fields["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get("llama.attention.head_count_kv", heads)),
        "head_dim": size,
        "hidden_act": "silu",
        "max_position_embeddings": int(fields["llama.context_length"]),
        # GGUF stores float32: round to the short decimal that was meant.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0)),
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        if f"tokenizer.ggml.{name}_token_id" in fields:
            config[f"{key}_token_id"] = int(fields[f"tokenizer.ggml.{name}_token_id"])
    return config


def _weights(tensors: Iterable[Any]) -> dict[str, Any]:
    """Hugging Face name -> tensor of the reader."""
    weights = {}
    for tensor in tensors:
        parts = tensor.name.split(".")
        prefix = ""
        if parts[0] == "blk" and len(parts) > 2:
            prefix, parts = f"model.layers.{parts[1]}.", parts[2:]
        if parts[0] not in _TENSORS or parts[1:] != ["weight"]:
            raise ValueError(f"it holds a tensor {tensor.name!r}, which plain Llama models do not have")
        weights[f"{prefix}{_TENSORS[parts[0]]}.weight"] = tensor
    return weights


def _write_weights(
    source: Path, weights: dict[str, Any], config: dict[str, Any], target: Path, progress: Progress
) -> None:
    from gguf import dequantize

    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in weights.items()}
    order = {name: index for index, name in enumerate(weights)}

    def make(name: str) -> NDArray[np.uint16]:
        progress("converting", order[name], len(order))
        tensor, kind = weights[name], name.split(".")[-2]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).reshape(shapes[name])
            if kind in heads:
                values = _unpermute(values, heads[kind])
        except (NotImplementedError, KeyError, ValueError) as error:
            raise ModelError(f"{source}: {tensor.name} cannot be converted ({error}).") from error
        if not np.isfinite(values).all():
            raise ModelError(f"{source}: {tensor.name} holds numbers that are not finite; fetch it again.")
        return to_bfloat16(values)

    stream_safetensors(target, {name: (_BFLOAT16, shape) for name, shape in shapes.items()}, make)
    progress("converting", len(order), len(order))


def _unpermute(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """From llama.cpp's order (pairs side by side) to rotate-half's (first halves, then second halves)."""
    size = rows.shape[0] // heads // 2
    return rows.reshape(heads, size, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; values must be finite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
