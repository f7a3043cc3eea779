"""What a decoder-only transformer computes, as data: one description for every consumer.

A family's file (`eyas.models.families`) turns a config into a `ModelSpec`. Tensor shapes, weight packing, the
native and the torch layers, draft networks and the tests' tiny models all read the same description. Each
operation is absent unless a field asks for it, so a runtime can say by name what it does not compute.

Every class is frozen and hashable, and `repr` is stable across processes.

Shapes in this package: V vocabulary, H hidden size, A attention heads, G key/value heads, E head size, I MLP
size. A linear layer's weight is (outputs, inputs), as PyTorch and safetensors store it.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Self

import numpy as np

Activation = Literal["silu", "gelu", "gelu_tanh"]
NormPlace = Literal["pre", "post", "both"]
QueryKeyNorm = Literal["none", "head", "width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * (offset + weight); the weight is as wide as x."""

    eps: float = 1e-6
    offset: float = 0.0  # 1 in Gemma, whose weights are stored around 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms(Norm):
    """The norms around a layer's two blocks, attention and MLP.

    Attributes:
        where: "pre" norms a block's input (Llama), "post" its output before the residual sum (OLMo 2), "both"
            each of them (Gemma 2).
        attention_input: False leaves out the norm before attention: the first layer of an EAGLE head.
    """

    where: NormPlace = "pre"
    attention_input: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layer's (H,) norm weights, in the order of their use."""
        names = []
        if self.where in ("pre", "both") and self.attention_input:
            names.append("attention_norm")
        if self.where in ("post", "both"):
            names.append("attention_post_norm")
        if self.where in ("pre", "both"):
            names.append("mlp_norm")
        if self.where in ("post", "both"):
            names.append("mlp_post_norm")
        return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary position embedding (arXiv 2104.09864), first half of the rotated numbers against the second.

    Attributes:
        dim: rotated numbers of each head; fewer than E leaves the rest of the head as it is.
        theta: the base of the unscaled frequencies, theta^(-2i / dim).
        inverse_frequencies: (dim / 2,) in radians per position, scaling included.
        factor: of the cosines and sines (YaRN).
    """

    dim: int
    theta: float
    inverse_frequencies: tuple[float, ...]
    factor: float = 1.0

    @classmethod
    def plain(cls, theta: float, dim: int) -> Self:
        """The unscaled embedding."""
        return cls(dim=dim, theta=theta, inverse_frequencies=_frequencies(theta, dim))

    @property
    def is_plain(self) -> bool:
        """Whether nothing scales it."""
        return self.factor == 1.0 and self.inverse_frequencies == _frequencies(self.theta, self.dim)


@cache
def _frequencies(theta: float, dim: int) -> tuple[float, ...]:
    exponents = np.arange(0, dim, 2, dtype=np.float64) / dim
    return tuple(float(frequency) for frequency in 1.0 / theta**exponents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Causal attention with grouped queries (arXiv 2305.13245).

    Weights: query (A E, H), key and value (G E, H), output (H, A E), and their biases. The inputs may be 2H
    (`LayerSpec.reads_embedding`).

    Attributes:
        heads: A, a multiple of `kv_heads`.
        kv_heads: G.
        head_dim: E.
        rope: None leaves positions out of this layer.
        window: positions that a token sees, itself included; 0 is all of them.
        scale: of the scores; None is E^(-1/2).
        softcap: scores become softcap * tanh(scores / softcap); 0 is off.
        query_key_norm: RMSNorm of queries and keys before the rotation, over each "head" (weights (E,),
            Qwen 3) or over the whole "width" of all heads (weights (A E,) and (G E,), OLMo 2); eps and offset
            are those of the layer's norms.
        bias: of query, key and value.
        output_bias: of the output.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    window: int = 0
    scale: float | None = None
    softcap: float = 0.0
    query_key_norm: QueryKeyNorm = "none"
    bias: bool = False
    output_bias: bool = False

    @property
    def query_size(self) -> int:
        """A E, numbers of a token's queries."""
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        """G E, numbers of a token's keys, or of its values."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)). Weights: gate and up (I, H), down (H, I), and their biases."""

    size: int  # I
    activation: Activation = "silu"
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """The `top_k` best of `experts` gated MLPs, weighted by a router (E_x, H) (arXiv 2101.03961)."""

    experts: int
    top_k: int
    expert: GatedMLP
    normalised: bool = True  # the weights of the chosen experts sum to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One decoder layer: attention, then the MLP, each added to the residual stream.

    Attributes:
        residual_multiplier: of what each block adds (Granite).
        reads_embedding: attention reads [attention_norm(e); hidden_norm(x)], which is 2H wide: the token's
            embedding e, then the residual stream x (EAGLE-3, arXiv 2503.01840). A stack's first layer only.
        residual_is_normed: with `reads_embedding`, x goes on as hidden_norm(x).
    """

    attention: Attention
    mlp: GatedMLP | MoE
    norms: Norms
    residual_multiplier: float = 1.0
    reads_embedding: bool = False
    residual_is_normed: bool = False

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Names of its (H,) norm weights."""
        return (*self.norms.names, "hidden_norm") if self.reads_embedding else self.norms.names

    def attention_inputs(self, hidden_size: int) -> int:
        """Numbers of a token that query, key and value are products of."""
        return 2 * hidden_size if self.reads_embedding else hidden_size


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """Decoder layers: a target's, or those of a draft network.

    Attributes:
        hidden_size: H.
        layers: from the input up.
        final_norm: of the last layer's output. An EAGLE head has none: its output lives in the target's
            feature space.
    """

    hidden_size: int
    layers: tuple[LayerSpec, ...]
    final_norm: Norm | None

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def mlp_size(self) -> int:
        """I of the first layer, or of one of its experts."""
        mlp = self.layers[0].mlp
        return mlp.size if isinstance(mlp, GatedMLP) else mlp.expert.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The input embedding, (V, H)."""

    vocab_size: int
    scale: float = 1.0  # of its rows (Gemma: sqrt(H))


@dataclass(frozen=True, slots=True, kw_only=True)
class LMHead:
    """Logits of a feature: softcap * tanh(scale * W x / softcap), with W (V, H)."""

    tied: bool = False  # W is the embedding's table
    scale: float = 1.0
    softcap: float = 0.0  # 0 is off


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A whole target.

    Attributes:
        family: its name in configs (`model_type`).
        context_limit: positions that it can serve.
        context_reason: what sets this limit, for messages.
    """

    family: str
    context_limit: int
    embedding: Embedding
    stack: StackSpec
    head: LMHead
    context_reason: str = field(default="its max_position_embeddings", repr=False)

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.stack.hidden_size

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.embedding.vocab_size

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """From the input up."""
        return self.stack.layers


def llama_stack(
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    rms_norm_eps: float = 1e-6,
    rope_theta: float = 10000.0,
    rope: Rope | None = None,
    qkv_bias: bool = False,
    first_input_norm: bool = True,
    final_norm: bool = True,
) -> StackSpec:
    """Equal layers of Llama's kind (arXiv 2302.13971), as draft networks use them.

    Args:
        hidden_size: H.
        intermediate_size: I.
        num_layers: of equal layers.
        num_heads: A.
        num_kv_heads: G.
        head_dim: E.
        rms_norm_eps: of every norm.
        rope_theta: base of the rotary embedding, which is not scaled.
        rope: another one in its place.
        qkv_bias: biases of query, key and value.
        first_input_norm: False for an EAGLE head, whose first layer norms no input.
        final_norm: False for an EAGLE head.
    """
    attention = Attention(
        heads=num_heads,
        kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope=rope or Rope.plain(rope_theta, head_dim),
        bias=qkv_bias,
    )
    layers = tuple(
        LayerSpec(
            attention=attention,
            mlp=GatedMLP(size=intermediate_size),
            norms=Norms(eps=rms_norm_eps, attention_input=first_input_norm or index > 0),
        )
        for index in range(num_layers)
    )
    return StackSpec(
        hidden_size=hidden_size,
        layers=layers,
        final_norm=Norm(eps=rms_norm_eps) if final_norm else None,
    )
