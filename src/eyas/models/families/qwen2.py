"""Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases of query, key and value."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, Config, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, usual_config
from eyas.models.spec import ModelSpec


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """No file has windows."""
    return {**usual_config(metadata), "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu"}


def qwen_windows(config: Config) -> tuple[int, ...]:
    """From layer `max_window_layers` on, where `use_sliding_window` asks for them."""
    first = int(config.get("max_window_layers", config.num_layers))
    return config.windows(used=config.flag("use_sliding_window"), slides=lambda layer: layer >= first)


@register_family("qwen2", gguf=GGUFNames(architecture="qwen2", tensors=GGUF, config=from_gguf))
def spec(config: Config) -> ModelSpec:
    """Biases whatever the config says."""
    return decoder(config, windows=qwen_windows(config), bias=True)
