"""SmolLM3 (huggingface.co/blog/smollm3): Llama with every fourth layer without positions (NoPE)."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import Config, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, biases, usual_config
from eyas.models.families.llama import GGUF_PAIRS
from eyas.models.spec import ModelSpec

_PERIOD = 4  # of the layers without positions, unless a config says otherwise; GGUF files say nothing


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """Every file has the usual layers without positions."""
    return {
        **usual_config(metadata),
        **biases(metadata),
        "architectures": ["SmolLM3ForCausalLM"],
        "hidden_act": "silu",
        "no_rope_layer_interval": _PERIOD,
    }


@register_family("smollm3", gguf=GGUFNames(architecture="smollm3", tensors=GGUF_PAIRS, config=from_gguf))
def spec(config: Config) -> ModelSpec:
    """`no_rope_layers` has a 1 for every layer that rotates; the others may have windows."""
    layers, period = range(config.num_layers), config.size("no_rope_layer_interval", _PERIOD)
    rotates = config.get("no_rope_layers") or [(layer + 1) % period != 0 for layer in layers]
    if not isinstance(rotates, list) or len(rotates) < len(layers):
        raise ValueError(f"no_rope_layers: it needs {len(layers)} numbers")
    rope, bias = config.rope(), config.flag("attention_bias")
    return decoder(
        config,
        windows=config.windows(
            used=config.flag("use_sliding_window"), slides=lambda layer: not rotates[layer]
        ),
        ropes=[rope if rotates[layer] else None for layer in layers],
        bias=bias,
        output_bias=bias,
    )
