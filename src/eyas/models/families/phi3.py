"""Phi-3 and Phi-4 mini (arXiv 2404.14219, 2503.01743): Llama whose files fuse matrices, with LongRoPE."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, HUGGING_FACE, Config, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, usual_config
from eyas.models.spec import ModelSpec
from eyas.models.tensors import Slice, TensorNames


def _fused(names: TensorNames, qkv: str, gate_up: str) -> TensorNames:
    heads, gates = ("query", "key", "value"), ("gate", "up")
    slices = {part: Slice(qkv, heads) for part in heads} | {part: Slice(gate_up, gates) for part in gates}
    return names.with_parts(**slices)


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """The original context counts where it is not that of the rotary embedding's factors, too."""
    config = usual_config(metadata, is_partial=True)
    context = config["max_position_embeddings"]
    return {
        **config,
        "architectures": ["Phi3ForCausalLM"],
        "hidden_act": "silu",
        "original_max_position_embeddings": metadata.size("rope.scaling.original_context_length", context),
        "sliding_window": metadata.size("attention.sliding_window", 0) or None,
    }


@register_family(
    "phi3",
    tensors=_fused(HUGGING_FACE, "self_attn.qkv_proj", "mlp.gate_up_proj"),
    gguf=GGUFNames(architecture="phi3", tensors=_fused(GGUF, "attn_qkv", "ffn_up"), config=from_gguf),
)
def spec(config: Config) -> ModelSpec:
    """A window in every layer, where the config has one."""
    rope = config.rope_parameters
    if rope.get("rope_type", rope.get("type")) in ("su", "yarn"):  # LongRoPE under its first names
        config = config.replaced(rope_parameters={**rope, "rope_type": "longrope"})
    return decoder(config, windows=config.windows())
