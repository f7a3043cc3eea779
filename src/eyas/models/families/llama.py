"""Llama 1 to 3 (arXiv 2302.13971, 2407.21783), and models of its kind such as SmolLM2."""

from dataclasses import replace
from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, Config, Unsupported, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, biases, usual_config
from eyas.models.spec import ModelSpec

# llama.cpp orders the query and key rows of Llama and of a few families of its kind in pairs.
GGUF_PAIRS = replace(GGUF, interleaved=frozenset({"query", "key"}))


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """Mistral's files call themselves "llama" too, and have nothing that Llama has not; so do Mixtral's."""
    if metadata.size("expert_count", 0):
        raise Unsupported("its layers are mixtures of experts, as Mixtral's are")
    return {
        **usual_config(metadata),
        **biases(metadata),
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
    }


@register_family("llama", gguf=GGUFNames(architecture="llama", tensors=GGUF_PAIRS, config=from_gguf))
def spec(config: Config) -> ModelSpec:
    """Biases by the config; no windows."""
    bias = config.flag("attention_bias")
    return decoder(config, windows=config.windows(used=False), bias=bias, output_bias=bias)
