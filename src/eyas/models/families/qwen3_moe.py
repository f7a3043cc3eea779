"""Qwen 3 with mixtures of experts (arXiv 2505.09388): a token takes the few best of many small MLPs."""

from typing import Any

from eyas.models.families import register_family
from eyas.models.families.common import GGUF, HUGGING_FACE, Config, decoder
from eyas.models.families.gguf import GGUFMetadata, GGUFNames, usual_config
from eyas.models.families.qwen2 import qwen_windows
from eyas.models.spec import GatedMLP, ModelSpec, MoE
from eyas.models.tensors import Experts


def from_gguf(metadata: GGUFMetadata) -> dict[str, Any]:
    """In files all layers are mixtures, and the chosen experts' weights sum to 1."""
    config, chosen = usual_config(metadata), metadata.size("expert_used_count")
    usual_size = config["intermediate_size"] // max(chosen, 1)  # 0 experts are refused later
    return {
        **config,
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_act": "silu",
        "num_experts": metadata.size("expert_count"),
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": metadata.size("expert_feed_forward_length", usual_size),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
    }


@register_family(
    "qwen3_moe",
    tensors=HUGGING_FACE.with_parts(
        router="mlp.gate",
        expert_gate="mlp.experts.{}.gate_proj",
        expert_up="mlp.experts.{}.up_proj",
        expert_down="mlp.experts.{}.down_proj",
    ),
    gguf=GGUFNames(
        architecture="qwen3moe",
        tensors=GGUF.with_parts(
            router="ffn_gate_inp",
            expert_gate=Experts("ffn_gate_exps"),
            expert_up=Experts("ffn_up_exps"),
            expert_down=Experts("ffn_down_exps"),
        ),
        config=from_gguf,
    ),
)
def spec(config: Config) -> ModelSpec:
    """Every `decoder_sparse_step`-th layer is a mixture, unless `mlp_only_layers` has its number."""
    entry = "num_local_experts" if "num_local_experts" in config else "num_experts"  # both are written
    experts = config.size(entry)
    mixture = MoE(
        experts=experts,
        top_k=config.size("num_experts_per_tok", most=experts),
        expert=GatedMLP(size=config.size("moe_intermediate_size"), activation=config.activation()),
        normalised=config.flag("norm_topk_prob"),
    )
    step, dense = config.size("decoder_sparse_step", 1), set(config.get("mlp_only_layers") or ())
    bias = config.flag("attention_bias")
    return decoder(
        config,
        windows=qwen_windows(config),
        mlps=[
            config.gated_mlp() if layer in dense or (layer + 1) % step else mixture
            for layer in range(config.num_layers)
        ],
        bias=bias,
        output_bias=bias,
        query_key_norm="head",
    )
