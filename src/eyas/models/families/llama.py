"""Llama 1 to 3 (arXiv 2302.13971, 2407.21783), and models of its kind such as SmolLM2."""

from dataclasses import replace

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, GGUF_METADATA, Config, decoder
from eyas.models.families.gguf import GGUFNames
from eyas.models.spec import GatedMLP, ModelSpec


@register_family(
    "llama",
    gguf=GGUFNames(
        architecture="llama",
        tensors=replace(GGUF, interleaved=frozenset({"query", "key"})),
        metadata=GGUF_METADATA,
        config={
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        },
    ),
)
def spec(config: Config) -> ModelSpec:
    """Biases by the config; no windows."""
    bias = config.flag("attention_bias")
    mlp = GatedMLP(
        size=config.size("intermediate_size"),
        activation=config.activation(),
        bias=config.flag("mlp_bias"),
    )
    return decoder(config, windows=config.windows(used=False, first=0), mlp=mlp, bias=bias, output_bias=bias)
