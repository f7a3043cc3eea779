"""Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases of query, key and value."""

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, GGUF_METADATA, Config, decoder
from eyas.models.families.gguf import GGUFNames
from eyas.models.spec import ModelSpec


@register_family(
    "qwen2",
    gguf=GGUFNames(
        architecture="qwen2",
        tensors=GGUF,
        metadata=GGUF_METADATA,
        config={"architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu"},
    ),
)
def spec(config: Config) -> ModelSpec:
    """Windows from layer `max_window_layers` on, where `use_sliding_window` asks for them."""
    windows = config.windows(
        used=config.flag("use_sliding_window"), first=int(config.get("max_window_layers", config.num_layers))
    )
    return decoder(config, windows=windows, bias=True)
