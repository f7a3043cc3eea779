"""Tiny random models of every family to serve; a new family joins by a line in FAMILIES."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

SIZES = {
    "vocab_size": 89,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen2-windows": lambda: transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **GROUPED, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=6
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=6, layer_types=MIXED_LAYERS
    ),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=7),
    "phi": lambda: transformers.PhiConfig(**SIZES),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    "gpt2": lambda: transformers.GPT2Config(**SIZES),
    "granite": lambda: transformers.GraniteConfig(**GROUPED, logits_scaling=3.0),
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED),
    "smollm3": lambda: transformers.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 1]),
    "phi3": lambda: transformers.Phi3Config(
        **GROUPED, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    ),
    "opt": lambda: transformers.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
}


def save_model(config: transformers.PreTrainedConfig, directory: Path) -> Path:
    """A random model in `directory`, with weights large enough that attention matters."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.25)
    model.save_pretrained(directory)
    return directory


class Stock:
    """The oracle: a stock model that forwards one whole sequence, without a cache."""

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float64, experts_implementation="eager"
        ).eval()
        # Families without SDPA compute their softmax in float32 whatever the dtype.
        self.atol = 1e-9 if self.model.config._attn_implementation == "sdpa" else 1e-5

    @torch.inference_mode()
    def __call__(self, token_ids) -> tuple[np.ndarray, np.ndarray]:
        """(T, V) logits and (T, H) features."""
        ids = torch.tensor(np.asarray(token_ids))[None]
        output = self.model(ids, use_cache=False, output_hidden_states=True)
        return output.logits[0].numpy(), output.hidden_states[-1][0].numpy()

    @torch.inference_mode()
    def hidden_states(self, token_ids) -> np.ndarray:
        """(layers + 1, T, H): the embedding, then what each layer gives; the last one normed."""
        ids = torch.tensor(np.asarray(token_ids))[None]
        states = self.model(ids, use_cache=False, output_hidden_states=True).hidden_states
        return torch.stack(states)[:, 0].numpy()
