"""Gemma 2 (arXiv 2408.00118): norms on both sides of each block, windows in every other layer, soft-caps."""

from dataclasses import replace
from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, HUGGING_FACE, Config, Unsupported, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, layer_types, usual_config
from eyas.models.spec import LMHead, ModelSpec, Norms

GEMMA = HUGGING_FACE.with_parts(
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
# llama.cpp's converter adds the 1 to the norms' weights that the model adds when it runs.
GGUF_GEMMA = replace(
    GGUF.with_parts(attention_post_norm="post_attention_norm", mlp_post_norm="post_ffw_norm"),
    norm_offset=1.0,
)
_LAYERS_OF_27B = 46


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """Files lack the scale of the scores; as in llama.cpp, the number of layers tells the one model apart."""
    config = usual_config(metadata)
    is_27b = config["num_hidden_layers"] == _LAYERS_OF_27B
    return {
        **config,
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": layer_types(metadata, period=2),
        "sliding_window": metadata.size("attention.sliding_window", 4096),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": query_scalar(config, is_27b),
    }


def query_scalar(config: dict[str, Any], is_27b: bool) -> int:
    """Of the scores of Gemma 2 and 3: the head size, but the hidden size over the heads in the 27B models."""
    heads = config["num_attention_heads"]
    return int(config["hidden_size"] // heads if is_27b else config["head_dim"])


@register_family(
    "gemma2", tensors=GEMMA, gguf=GGUFNames(architecture="gemma2", tensors=GGUF_GEMMA, config=from_gguf)
)
def spec(config: Config) -> ModelSpec:
    """The first layer has a window, the second sees everything, and so on."""
    return gemma(
        config,
        windows=config.windows(slides=lambda layer: layer % 2 == 0),
        softcap=float(config.get("attn_logit_softcapping") or 0.0),
    )


def gemma(config: Config, **options: Any) -> ModelSpec:
    """What Gemma 2 and 3 have in common.

    Args:
        config: of the text model.
        options: what `decoder` takes besides.
    """
    if config.flag("use_bidirectional_attention"):
        raise Unsupported("its tokens see those behind them")
    bias = config.flag("attention_bias")
    return decoder(
        config,
        mlps=(config.gated_mlp("hidden_activation"),) * config.num_layers,
        norms=Norms(where="both", eps=config.norm_eps, offset=1.0),
        embedding_scale=config.size("hidden_size") ** 0.5,
        head=LMHead(
            tied=config.flag("tie_word_embeddings", True),
            softcap=float(config.get("final_logit_softcapping") or 0.0),
        ),
        scale=config.size("query_pre_attn_scalar") ** -0.5,
        bias=bias,
        output_bias=bias,
        **options,
    )
