"""Tiny models of every family, as folders, and as the GGUF files that llama.cpp's converter makes of these.

The writer and the names of tensors are gguf's own, so that nothing here repeats what the families' files say.
"""

import json
import math
import re

import gguf
import numpy as np
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
}
_IN_PAIRS = ("llama", "mistral", "smollm3", "granite")  # families whose query and key rows are reordered


def write_gguf(directory, path, *, kind=None, extra=None):
    """Write the float32 model in a folder as a GGUF file.

    `kind` quantises its matrices; `extra(writer)` adds metadata or tensors.
    """
    config = json.loads((directory / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _add_sizes(writer, config)
    _add_rope(writer, config)
    _OWN.get(config["model_type"], lambda *_: None)(writer, config)
    _add_tokenizer(writer, config)
    if extra:
        extra(writer)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, array in _stacked(_arrays(directory)).items():
        array = _converted(name, array, config)
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if kind is None or array.ndim == 1:
            writer.add_tensor(place, array)
        else:
            writer.add_tensor(place, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _arrays(directory):
    return {
        name: array for file in directory.glob("*.safetensors") for name, array in load_file(file).items()
    }


def _stacked(arrays):
    """All experts' matrices of one kind as one tensor."""
    found, experts = {}, {}
    for name, array in arrays.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if match:
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = array
        else:
            found[name] = array
    return found | {name: np.stack([parts[i] for i in sorted(parts)]) for name, parts in experts.items()}


def _converted(name, array, config):
    family, heads = config["model_type"], config["num_attention_heads"]
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    projection = name.split(".")[-2]
    if family in _IN_PAIRS and projection in ("q_proj", "k_proj"):
        heads = heads if projection == "q_proj" else config["num_key_value_heads"]
        halves = array.reshape(heads, 2, -1, *array.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
    return array


def _add_sizes(writer, config):
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def _rope(config):
    rope = config["rope_parameters"]
    return rope.get("full_attention", rope)


def _add_rope(writer, config):
    rope = _rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for entry in ("attn_factor", "beta_fast", "beta_slow"):
            value = rope.get(entry.replace("attn", "attention"))
            if value is not None:
                getattr(writer, f"add_rope_scaling_yarn_{entry}")(value)
    elif kind == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, _head_dim(config)))


def _head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _llama3_factors(rope, dim):
    """What each frequency is divided by."""
    original, factors = rope["original_max_position_embeddings"], []
    for i in range(0, dim, 2):
        waves = original / (2 * math.pi * rope["rope_theta"] ** (i / dim))  # in the original context
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        smooth = min(max((waves - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def _llama(writer, config):
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(_head_dim(config))


def _gemma2(writer, config):
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def _gemma3(writer, config):
    writer.add_sliding_window(config["sliding_window"])
    writer.add_rope_freq_base_swa(config["rope_parameters"]["sliding_attention"]["rope_theta"])
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _phi3(writer, config):
    rope, limit = config["rope_parameters"], config["max_position_embeddings"]
    original = config["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * _head_dim(config)))
    writer.add_sliding_window(config["sliding_window"] or 0)
    if rope["rope_type"] == "longrope":
        scale = limit / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
        for length in ("short", "long"):
            factors = np.array(rope[f"{length}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)


def _granite(writer, config):
    _llama(writer, config)
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


def _qwen3_moe(writer, config):
    writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


_OWN = {
    "llama": _llama,
    "mistral": _llama,
    "smollm3": _llama,
    "granite": _granite,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "qwen3_moe": _qwen3_moe,
}


def _add_tokenizer(writer, config):
    """Any: two letters and what they merge to, then names of numbers."""
    tokens = ["a", "b", "ab", *(f"<{number}>" for number in range(3, config["vocab_size"]))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])


def transformers():
    """Imported where it is used: most tests need none of it."""
    import transformers

    return transformers


SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.05, 1.1, 1.3, 2.0, 2.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
    "partial_rotary_factor": 0.75,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
CONFIGS = {
    "llama": lambda: transformers().LlamaConfig(**SIZES),
    "llama-biases": lambda: transformers().LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-head-dim": lambda: transformers().LlamaConfig(**SIZES, head_dim=24, tie_word_embeddings=True),
    "llama3": lambda: transformers().LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-linear": lambda: transformers().LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "mistral": lambda: transformers().MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers().Qwen2Config(**SIZES),
    "qwen2-yarn": lambda: transformers().Qwen2Config(**SIZES, rope_parameters=YARN),
    "qwen2-yarn-options": lambda: transformers().Qwen2Config(
        **SIZES, rope_parameters={**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25}
    ),
    "qwen3": lambda: transformers().Qwen3Config(**SIZES, head_dim=24),
    "qwen3_moe": lambda: transformers().Qwen3MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True
    ),
    "gemma2": lambda: transformers().Gemma2Config(
        **SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=7
    ),
    "gemma3": lambda: transformers().Gemma3TextConfig(
        **SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=7
    ),
    "gemma3-scaled": lambda: transformers().Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 7},
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=7,
        rope_parameters=GEMMA3_ROPE,
    ),
    "phi3": lambda: transformers().Phi3Config(
        **SIZES, sliding_window=9, original_max_position_embeddings=128
    ),
    "phi3-longrope": lambda: transformers().Phi3Config(
        **SIZES, rope_parameters=LONGROPE, original_max_position_embeddings=32, tie_word_embeddings=True
    ),
    "smollm3": lambda: transformers().SmolLM3Config(**{**SIZES, "num_hidden_layers": 5}),
    "granite": lambda: transformers().GraniteConfig(
        **SIZES,
        attention_multiplier=0.015625,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=8.0,
    ),
    "olmo2": lambda: transformers().Olmo2Config(**SIZES),
}


def save(config, directory):
    """A random model in a folder, its weights large enough that every operation matters."""
    import torch

    torch.manual_seed(3)
    model = transformers().AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.25)
    model.save_pretrained(directory)
    return directory
