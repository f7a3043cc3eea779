"""Granite 3 (github.com/ibm-granite/granite-3.0-language-models): Llama with four multipliers."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import Config, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, biases, usual_config
from eyas.models.families.llama import GGUF_PAIRS
from eyas.models.spec import LMHead, ModelSpec


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """Multipliers are called scales there, and the logits are divided by theirs as in the config."""
    config = usual_config(metadata)
    return {
        **config,
        **biases(metadata),
        "architectures": ["GraniteForCausalLM"],
        "hidden_act": "silu",
        "attention_multiplier": metadata.number("attention.scale", config["head_dim"] ** -0.5),
        "embedding_multiplier": metadata.number("embedding_scale", 1.0),
        "residual_multiplier": metadata.number("residual_scale", 1.0),
        "logits_scaling": metadata.number("logit_scale"),
    }


@register_family("granite", gguf=GGUFNames(architecture="granite", tensors=GGUF_PAIRS, config=from_gguf))
def spec(config: Config) -> ModelSpec:
    """A multiplier is 1 where the config lacks it, that of the scores too."""
    bias = config.flag("attention_bias")
    return decoder(
        config,
        residual_multiplier=config.factor("residual_multiplier"),
        embedding_scale=config.factor("embedding_multiplier"),
        head=LMHead(tied=config.flag("tie_word_embeddings"), scale=1 / config.factor("logits_scaling")),
        scale=config.factor("attention_multiplier"),
        bias=bias,
        output_bias=bias,
    )
