"""Decoder layers of the Llama family, for draft networks: one definition for training and for decoding.

What differs between the two is who keeps keys and values and what each row sees. So attention itself is a
callback, `attend(layer, q, k, v)`: in training it masks, in decoding it also appends to a cache.

Shapes: B batch, T rows, H hidden size, A attention heads, G key/value heads, E head size.
Source of the layer: Llama (arXiv 2302.13971), with grouped queries (arXiv 2305.13245).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyas.config import StackConfig
from eyas.engine.interfaces import Weights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of rows' positions, (.., T, E); they turn queries and keys."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, theta: float) -> "Rotary":
        """Tables for integer positions (.., T), computed in float32 (half precision ends at 2048)."""
        exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
        angles = positions[..., None].to(torch.float32) * theta**-exponents
        angles = torch.cat((angles, angles), dim=-1)
        return cls(angles.cos(), angles.sin())

    def turn(self, rows: Tensor) -> Tensor:
        """Rotate (.., A, T, E), halves against each other (Llama's "rotate half")."""
        first, second = rows.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return rows * self.cos.to(rows.dtype) + turned * self.sin.to(rows.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the mean square in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, rows: Tensor) -> Tensor:
        """(.., H) to (.., H), in the precision of `rows`."""
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(rows.dtype) * self.weight.to(rows.dtype)


class Attention(nn.Module):
    """Projections around a callback that attends."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, rows: Tensor, rotary: Rotary, attend: Callable[..., Tensor]) -> Tensor:
        """(B, T, H) to (B, T, H); `attend` gets (B, A, T, E) and twice (B, G, T, E)."""
        query, key, value = (
            projection(rows).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(rotary.turn(query), rotary.turn(key), value)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(.., H) to (.., H)."""
        return self.down_proj(functional.silu(self.gate_proj(rows)) * self.up_proj(rows))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: StackConfig, *, input_norm: bool) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(size, eps) if input_norm else None
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.mlp = GatedMLP(config)

    def forward(self, rows: Tensor, rotary: Rotary, attend: Callable[..., Tensor]) -> Tensor:
        """(B, T, H) to (B, T, H)."""
        normed = rows if self.input_layernorm is None else self.input_layernorm(rows)
        rows = rows + self.self_attn(normed, rotary, attend)
        return rows + self.mlp(self.post_attention_layernorm(rows))  # type: ignore[no-any-return]


class DecoderStack(nn.Module):
    """The layers of a draft network. Parameter names are those of its checkpoint."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            DecoderLayer(config, input_norm=config.first_input_norm or index > 0)
            for index in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if config.final_norm else None

    def forward(self, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T, H) rows at integer positions (T,) to (B, T, H)."""
        rotary = Rotary.at(positions, self.config.head_dim, self.config.rope_theta)
        for index, layer in enumerate(self.layers):

            def attend_here(query: Tensor, key: Tensor, value: Tensor, index: int = index) -> Tensor:
                return attend(index, query, key, value)

            rows = layer(rows, rotary, attend_here)
        return rows if self.norm is None else self.norm(rows)

    def load_weights(self, weights: Weights) -> None:
        """Take arrays by their checkpoint names; names that are not the stack's are left alone."""
        own = {name: torch.from_numpy(weights[name].copy()) for name in self.state_dict()}
        self.load_state_dict(own)


def grouped_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """Softmax attention of (B, A, T, E) queries over (B, G, S, E) keys and values, A a multiple of G."""
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=query.shape[1] != keys.shape[1]
    )
