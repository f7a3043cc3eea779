"""Gemma 3 (arXiv 2503.19786), text: Gemma 2 with norms of queries and keys instead of soft-capped scores.

Five layers of six have a window, and a rotary embedding of their own.
"""

from dataclasses import replace
from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import Config
from eyas.models.families.gemma2 import GEMMA, GGUF_GEMMA, gemma, query_scalar
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, layer_types, usual_config
from eyas.models.spec import ModelSpec

# The text model within one that also sees pictures.
WITHIN = replace(
    GEMMA,
    outer={name: f"language_model.{place}" for name, place in GEMMA.outer.items()},
    layer=f"language_model.{GEMMA.layer}",
    ignored=(*GEMMA.ignored, "vision_tower.*", "multi_modal_projector.*"),
)
# What transformers assumes where a config is silent, as those of the larger models are.
_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "hidden_activation": "gelu_pytorch_tanh",
}
_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_LAYERS_OF_27B = 62


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """A model without windows has no entry of their size."""
    config, window = usual_config(metadata), metadata.size("attention.sliding_window", 0)
    is_27b = config["num_hidden_layers"] == _LAYERS_OF_27B
    return {
        **config,
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": layer_types(metadata, period=6 if window else 1),
        "sliding_window": window or None,
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", _LOCAL_THETA),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 0.0) or None,
        "query_pre_attn_scalar": query_scalar(config, is_27b),
    }


@register_family(
    "gemma3_text",
    tensors=GEMMA,
    gguf=GGUFNames(architecture="gemma3", tensors=GGUF_GEMMA, config=from_gguf),
)
def text_spec(config: Config) -> ModelSpec:
    """Every sixth layer sees everything."""
    config = config.with_defaults(_DEFAULTS)
    period = int(config.get("sliding_window_pattern") or 6)
    ropes = {kind: config.rope(parameters) for kind, parameters in _rope_parameters(config).items()}

    def slides(layer: int) -> bool:
        return (layer + 1) % period != 0

    return gemma(
        config,
        windows=config.windows(slides=slides),
        ropes=[ropes[kind] for kind in config.layer_types(slides)],
        query_key_norm="head",
    )


@register_family("gemma3", tensors=WITHIN)
def spec(config: Config) -> ModelSpec:
    """The text model of one that also sees pictures."""
    return text_spec(config.part("text_config"))


def _rope_parameters(config: Config) -> dict[str, dict[str, Any]]:
    """By the layers' kinds, in either spelling."""
    rope = config.get("rope_parameters") or {
        "full_attention": {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})},
        "sliding_attention": {"rope_theta": config.get("rope_local_base_freq")},
    }
    thetas = {"full_attention": _THETA, "sliding_attention": _LOCAL_THETA}
    own = {kind: rope.get(kind) or {} for kind in thetas}
    return {kind: {**own[kind], "rope_theta": own[kind].get("rope_theta") or thetas[kind]} for kind in own}
