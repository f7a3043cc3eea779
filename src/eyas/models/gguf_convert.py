"""A GGUF file of the Llama family as an ordinary Hugging Face directory.

The stored model is the dequantised file rounded to bfloat16: that *is* the target, whatever precision it is
run in. Two things differ between the formats: llama.cpp permutes the rows of q and k so that rotary pairs lie
side by side, which is undone here, and the tokenizer comes as lists of tokens and merges, from which the
byte-level BPE is built anew.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.progress import Progress, silent
from eyas.models.weights import write_safetensors

# tokenizer.ggml.pre -> splits digits one by one before the byte-level pre-tokenizer.
PRE_TOKENIZERS = {"smollm": True}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type

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
        ModelError: not a GGUF file, another architecture, or a tokenizer that we cannot rebuild.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(source)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise ModelError(f"{source} is not a readable GGUF file ({error}).") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise ModelError(f"{source} has architecture {architecture!r}; only 'llama' can be converted.")
    config = _config(fields, [tensor.name for tensor in reader.tensors])
    _write_json(target / "config.json", config)
    _write_json(
        target / "generation_config.json",
        {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config},
    )
    _write_tokenizer(fields, target, source)
    _write_weights(reader, config, target / "model.safetensors", progress)


def _config(fields: dict[str, Any], names: list[str]) -> dict[str, Any]:
    heads = int(fields["llama.attention.head_count"])
    hidden = int(fields["llama.embedding_length"])
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": int(fields["llama.feed_forward_length"]),
        "num_hidden_layers": int(fields["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get("llama.attention.head_count_kv", heads)),
        "head_dim": int(fields.get("llama.attention.key_length", hidden // heads)),
        "hidden_act": "silu",
        "max_position_embeddings": int(fields["llama.context_length"]),
        # GGUF stores float32: round to the short decimal that was meant.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0)),
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        if f"tokenizer.ggml.{name}_token_id" in fields:
            config[f"{key}_token_id"] = int(fields[f"tokenizer.ggml.{name}_token_id"])
    return config


def _write_tokenizer(fields: dict[str, Any], target: Path, source: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise ModelError(
            f"{source} has a tokenizer of model {kind!r} and pre-tokenizer {pre!r}; byte-level BPE ('gpt2') "
            f"with one of these pre-tokenizers can be rebuilt: {known}."
        )
    tokens = list(fields["tokenizer.ggml.tokens"])
    types = list(fields["tokenizer.ggml.token_type"])
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    added = [t for t, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in added])
    tokenizer.save(str(target / "tokenizer.json"))

    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        if f"tokenizer.ggml.{name}_token_id" in fields:
            settings[f"{key}_token"] = tokens[int(fields[f"tokenizer.ggml.{name}_token_id"])]
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    settings["model_max_length"] = int(fields["llama.context_length"])
    _write_json(target / "tokenizer_config.json", settings)


def _write_weights(reader: Any, config: dict[str, Any], target: Path, progress: Progress) -> None:
    from gguf import dequantize

    tensors: dict[str, NDArray[np.uint16]] = {}
    for index, tensor in enumerate(reader.tensors):
        progress("converting", index, len(reader.tensors))
        name = _hf_name(tensor.name)
        if name is None:
            continue
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        if name.endswith("q_proj.weight"):
            values = _unpermute(values, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            values = _unpermute(values, config["num_key_value_heads"])
        tensors[name] = to_bfloat16(values)
    progress("converting", len(reader.tensors), len(reader.tensors))
    write_safetensors(target, tensors)


def _hf_name(name: str) -> str | None:
    """The Hugging Face name of a GGUF tensor; None for tables that are computed anew."""
    if name.startswith("rope_freqs"):
        return None
    parts = name.split(".")
    prefix = ""
    if parts[0] == "blk":
        prefix, parts = f"model.layers.{parts[1]}.", parts[2:]
    if parts[0] not in _TENSORS or parts[1:] != ["weight"]:
        raise ModelError(f"the GGUF file holds a tensor {name!r} that no Llama has.")
    return f"{prefix}{_TENSORS[parts[0]]}.weight"


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
