"""Qwen 3, dense (arXiv 2505.09388): norms of each head's queries and keys instead of Qwen 2's biases."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, Config, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, usual_config
from eyas.models.families.qwen2 import qwen_windows
from eyas.models.spec import ModelSpec


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """No file has windows or biases."""
    return {**usual_config(metadata), "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu"}


@register_family("qwen3", gguf=GGUFNames(architecture="qwen3", tensors=GGUF, config=from_gguf))
def spec(config: Config) -> ModelSpec:
    """Windows as in Qwen 2."""
    bias = config.flag("attention_bias")
    return decoder(config, windows=qwen_windows(config), bias=bias, output_bias=bias, query_key_norm="head")
