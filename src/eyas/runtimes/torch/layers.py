"""Decoder layers for draft networks: one definition for training and for decoding.

Training and decoding differ in who keeps keys and values and in what each token sees. So attention itself is
a callback, `attend(layer, q, k, v)`: in training it masks, in decoding it also appends to a cache.

Shapes: B batch, T tokens, H hidden size, A attention heads, G key/value heads, E head size.
Source of the layer: Llama (arXiv 2302.13971), with grouped queries (arXiv 2305.13245). `eyas.models.spec`
says what else a layer may be asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyas.engine.interfaces import Weights
from eyas.errors import ModelError
from eyas.models.spec import Activation, GatedMLP, LayerSpec, Norms, Rope, StackSpec

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda rows: functional.gelu(rows, approximate="tanh"),
}


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of tokens' positions, (.., T, dim); they rotate queries and keys."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, rope: Rope) -> "Rotary":
        """Tables for integer positions (.., T), computed in float32 (half precision ends at 2048)."""
        if rope.is_plain:  # in float32 throughout, as heads were trained
            exponents = torch.arange(0, rope.dim, 2, device=positions.device, dtype=torch.float32) / rope.dim
            frequencies = rope.theta**-exponents
        else:
            frequencies = torch.tensor(rope.inverse_frequencies, device=positions.device, dtype=torch.float32)
        angles = positions[..., None].to(torch.float32) * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        if rope.factor == 1.0:
            return cls(angles.cos(), angles.sin())
        return cls(angles.cos() * rope.factor, angles.sin() * rope.factor)

    def rotate(self, rows: Tensor) -> Tensor:
        """Rotate the first `dim` numbers of (.., A, T, E), halves against each other ("rotate half")."""
        dim = self.cos.shape[-1]
        rotated, rest = (rows, None) if dim == rows.shape[-1] else (rows[..., :dim], rows[..., dim:])
        first, second = rotated.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        rotated = rotated * self.cos.to(rows.dtype) + turned * self.sin.to(rows.dtype)
        return rotated if rest is None else torch.cat((rotated, rest), dim=-1)


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + weight); the mean square in float32."""

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 1.0 - offset))
        self.eps = eps
        self.offset = offset

    def forward(self, rows: Tensor) -> Tensor:
        """(.., H) to (.., H), in the precision of `rows`."""
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.offset:  # Gemma multiplies before it rounds
            return (wide * (self.offset + self.weight.to(wide.dtype))).to(rows.dtype)
        return wide.to(rows.dtype) * self.weight.to(rows.dtype)


class SelfAttention(nn.Module):
    """Projections around a callback that attends."""

    def __init__(self, layer: LayerSpec, hidden_size: int) -> None:
        super().__init__()
        attention, norms = layer.attention, layer.norms
        queries, keys = attention.query_size, attention.key_size
        self.spec = attention
        inputs = layer.attention_inputs(hidden_size)
        self.q_proj = nn.Linear(inputs, queries, bias=attention.bias)
        self.k_proj = nn.Linear(inputs, keys, bias=attention.bias)
        self.v_proj = nn.Linear(inputs, keys, bias=attention.bias)
        self.o_proj = nn.Linear(queries, hidden_size, bias=attention.output_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if attention.query_key_norm != "none":
            is_wide = attention.query_key_norm == "width"
            widths = (queries, keys) if is_wide else (attention.head_dim, attention.head_dim)
            self.q_norm, self.k_norm = (RMSNorm(width, norms.eps, norms.offset) for width in widths)

    def forward(self, rows: Tensor, rotary: Rotary | None, attend: Callable[..., Tensor]) -> Tensor:
        """(B, T, inputs) to (B, T, H); `attend` gets (B, A, T, E) and twice (B, G, T, E)."""
        query = self._heads(self.q_proj(rows), self.q_norm)
        key = self._heads(self.k_proj(rows), self.k_norm)
        value = self._heads(self.v_proj(rows), None)
        if rotary is not None:
            query, key = rotary.rotate(query), rotary.rotate(key)
        if self.spec.scale is not None:  # attention itself scales by E^(-1/2)
            query = query * (self.spec.scale * self.spec.head_dim**0.5)
        attended = attend(query, key, value)
        return self.o_proj(attended.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]

    def _heads(self, rows: Tensor, norm: RMSNorm | None) -> Tensor:
        """(B, T, A E) to (B, A, T, E), normed over each head or the whole width."""
        if norm is not None and self.spec.query_key_norm == "width":
            rows = norm(rows)
        heads: Tensor = rows.unflatten(-1, (-1, self.spec.head_dim)).transpose(1, 2)  # type: ignore[no-untyped-call]
        if norm is not None and self.spec.query_key_norm == "head":
            heads = norm(heads)
        return heads


class MLP(nn.Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, spec: GatedMLP, hidden_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, spec.size, bias=spec.bias)
        self.up_proj = nn.Linear(hidden_size, spec.size, bias=spec.bias)
        self.down_proj = nn.Linear(spec.size, hidden_size, bias=spec.bias)
        self._activation = _ACTIVATIONS[spec.activation]

    def forward(self, rows: Tensor) -> Tensor:
        """(.., H) to (.., H)."""
        return self.down_proj(self._activation(self.gate_proj(rows)) * self.up_proj(rows))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Attention, then the MLP, each added to the residual stream. Modules have their checkpoints' names."""

    def __init__(self, spec: LayerSpec, hidden_size: int) -> None:
        super().__init__()
        _refuse_unknown(spec)
        assert isinstance(spec.mlp, GatedMLP), "refused otherwise"
        has = {name: _norm(spec.norms, hidden_size) for name in spec.norm_names}
        self.spec = spec
        self.input_layernorm = has.get("attention_norm")
        self.hidden_norm = has.get("hidden_norm")
        self.self_attn = SelfAttention(spec, hidden_size)
        self.attention_output_layernorm = has.get("attention_post_norm")
        self.post_attention_layernorm = has.get("mlp_norm")
        self.mlp = MLP(spec.mlp, hidden_size)
        self.mlp_output_layernorm = has.get("mlp_post_norm")

    def forward(
        self,
        rows: Tensor,
        rotary: Rotary | None,
        attend: Callable[..., Tensor],
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """(B, T, H) to (B, T, H); `embeddings` (B, T, H) are for a layer that reads them."""
        if embeddings is None:
            inputs = _normed(self.input_layernorm, rows)
        else:
            normed = _normed(self.hidden_norm, rows)
            inputs = torch.cat((_normed(self.input_layernorm, embeddings), normed), dim=-1)
            rows = normed if self.spec.residual_is_normed else rows
        attended = self.self_attn(inputs, rotary, attend)
        rows = self._add(rows, _normed(self.attention_output_layernorm, attended))
        outputs = self.mlp(_normed(self.post_attention_layernorm, rows))
        return self._add(rows, _normed(self.mlp_output_layernorm, outputs))

    def _add(self, rows: Tensor, outputs: Tensor) -> Tensor:
        factor = self.spec.residual_multiplier
        return rows + (outputs if factor == 1.0 else outputs * factor)


class DecoderStack(nn.Module):
    """The layers of a draft network. Parameter names are those of its checkpoint."""

    def __init__(self, spec: StackSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList(DecoderLayer(layer, spec.hidden_size) for layer in spec.layers)
        final = spec.final_norm
        self.norm = None if final is None else RMSNorm(spec.hidden_size, final.eps, final.offset)

    def forward(
        self, rows: Tensor, positions: Tensor, attend: Attend, embeddings: Tensor | None = None
    ) -> Tensor:
        """(B, T, H) embeddings or features at integer positions (T,) to (B, T, H).

        `embeddings` (B, T, H) stand beside them for a first layer that reads both.
        """
        tables: dict[Rope | None, Rotary | None] = {None: None}
        for index, layer in enumerate(self.layers):
            rope = self.spec.layers[index].attention.rope
            if rope not in tables:
                assert rope is not None, "None has an entry"
                tables[rope] = Rotary.at(positions, rope)

            def attend_here(query: Tensor, key: Tensor, value: Tensor, index: int = index) -> Tensor:
                return attend(index, query, key, value)

            beside = embeddings if self.spec.layers[index].reads_embedding else None
            rows = layer(rows, tables[rope], attend_here, beside)
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


def _norm(norms: Norms, hidden_size: int) -> RMSNorm:
    return RMSNorm(hidden_size, norms.eps, norms.offset)


def _normed(norm: RMSNorm | None, rows: Tensor) -> Tensor:
    return rows if norm is None else norm(rows)


def _refuse_unknown(spec: LayerSpec) -> None:
    """Raise ModelError for operations that draft layers on torch lack."""
    attention = spec.attention
    lacks = {
        "a mixture of experts": not isinstance(spec.mlp, GatedMLP),
        "a sliding window": attention.window > 0,
        "soft-capped attention scores": attention.softcap > 0,
    }
    for operation, is_asked in lacks.items():
        if is_asked:
            raise ModelError(f"draft layers on torch do not compute {operation}; use --runtime native.")
