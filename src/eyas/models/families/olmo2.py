"""OLMo 2 (arXiv 2501.00656): norms of each block's output, and of queries and keys over all heads."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, HUGGING_FACE, Config, Unsupported, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, usual_config
from eyas.models.spec import ModelSpec, Norms


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """OLMo 3's files have the same name, and windows."""
    if metadata.size("attention.sliding_window", 0):
        raise Unsupported("it has a sliding window, as OLMo 3 has")
    return {**usual_config(metadata), "architectures": ["Olmo2ForCausalLM"], "hidden_act": "silu"}


@register_family(
    "olmo2",
    tensors=HUGGING_FACE.with_parts(
        attention_post_norm="post_attention_layernorm", mlp_post_norm="post_feedforward_layernorm"
    ),
    gguf=GGUFNames(
        architecture="olmo2",
        tensors=GGUF.with_parts(attention_post_norm="post_attention_norm", mlp_post_norm="post_ffw_norm"),
        config=from_gguf,
    ),
)
def spec(config: Config) -> ModelSpec:
    """Llama, but for its norms."""
    bias = config.flag("attention_bias")
    return decoder(
        config,
        norms=Norms(where="post", eps=config.norm_eps),
        query_key_norm="width",
        bias=bias,
        output_bias=bias,
    )
