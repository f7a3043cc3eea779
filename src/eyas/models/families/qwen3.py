"""Qwen 3, dense (arXiv 2505.09388): norms of each head's queries and keys instead of Qwen 2's biases."""

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, GGUF_METADATA, Config, decoder
from eyas.models.families.gguf import GGUFNames
from eyas.models.spec import ModelSpec


@register_family(
    "qwen3",
    gguf=GGUFNames(
        architecture="qwen3",
        tensors=GGUF,
        metadata=GGUF_METADATA,
        config={"architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu"},
    ),
)
def spec(config: Config) -> ModelSpec:
    """Windows as in Qwen 2."""
    bias = config.flag("attention_bias")
    windows = config.windows(
        used=config.flag("use_sliding_window"), first=int(config.get("max_window_layers", config.num_layers))
    )
    return decoder(config, windows=windows, bias=bias, output_bias=bias, query_key_norm="head")
