"""What families have in common: strict reading of a config, rotary scalings, and names of tensors."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eyas.models.spec import (
    Activation,
    Attention,
    Embedding,
    GatedMLP,
    LayerSpec,
    LMHead,
    ModelSpec,
    MoE,
    Norm,
    Norms,
    Rope,
    StackSpec,
)
from eyas.models.tensors import TensorNames

MAX_SIZE = 2**31 - 1  # of anything that is counted
MAX_LAYERS = 10_000
_LAYER_TYPES = ("full_attention", "sliding_attention")
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
Floats = NDArray[np.float64]
Slides = Callable[[int], bool]

# Names of Llama's tensors in Hugging Face's files.
HUGGING_FACE = TensorNames(
    outer={"embedding": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"},
    layer="model.layers.{}.",
    parts={
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "query_norm": "self_attn.q_norm",
        "key_norm": "self_attn.k_norm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
)
# Names of a draft network's layers, which are Llama's without the model around them.
DRAFT = TensorNames(
    outer={"final_norm": "norm"},
    layer="layers.{}.",
    parts={
        **HUGGING_FACE.parts,
        "hidden_norm": "hidden_norm",
        "attention_post_norm": "attention_output_layernorm",
        "mlp_post_norm": "mlp_output_layernorm",
    },
)
# Names of GGUF; files of some architectures also hold query and key rows in llama.cpp's order.
GGUF = TensorNames(
    outer={"embedding": "token_embd", "final_norm": "output_norm", "lm_head": "output"},
    layer="blk.{}.",
    parts={
        "query": "attn_q",
        "key": "attn_k",
        "value": "attn_v",
        "output": "attn_output",
        "query_norm": "attn_q_norm",
        "key_norm": "attn_k_norm",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
        "attention_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
    },
    ignored=("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"),  # in the config
)


class Unsupported(Exception):
    """A config asks for something that its family's file does not describe."""


class Config:
    """A config.json, read strictly: an entry that is missing or impossible is an error that names it.

    Errors are KeyError, TypeError, ValueError or ArithmeticError; `read_spec` makes one line of them.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def __contains__(self, name: str) -> bool:
        return name in self._document

    def get(self, name: str, default: Any = None) -> Any:
        """An entry as it is."""
        return self._document.get(name, default)

    def part(self, name: str) -> Self:
        """The config of one part of a model, such as the text model in one that also sees pictures."""
        return type(self)({**self._document[name], "model_type": self.family})

    def with_defaults(self, defaults: Mapping[str, Any]) -> Self:
        """This config, and the entries that it lacks."""
        return type(self)({**defaults, **self._document})

    def replaced(self, **entries: Any) -> Self:
        """This config with other values of some entries."""
        return type(self)({**self._document, **entries})

    def factor(self, name: str) -> float:
        """A positive number, by default 1."""
        value = self._document.get(name, 1.0)
        if not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise ValueError(f"{name}, which is {value!r}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Yes or no."""
        return bool(self._document.get(name, default))

    def size(self, name: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A number of something, in 1..most; `default` where there is none."""
        value = self._document[name] if default is None else self._document.get(name) or default
        try:
            size = int(value)
        except (TypeError, ValueError, OverflowError):
            size = 0
        if not 1 <= size <= most:
            raise ValueError(f"{name}, which is {value!r}")
        return size

    @property
    def family(self) -> str:
        """Its `model_type`."""
        return str(self._document["model_type"])

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self.size("num_hidden_layers", most=MAX_LAYERS)

    @property
    def context_limit(self) -> int:
        """Positions that the model can serve.

        A LongRoPE with factors of its own for long contexts serves the original context only: beyond, every
        position would change.
        """
        limit, rope = self.size("max_position_embeddings"), self.rope_parameters
        if _rope_kind(rope) == "longrope" and rope.get("long_factor") != rope.get("short_factor"):
            return min(limit, int(rope["original_max_position_embeddings"]))
        return limit

    @property
    def context_reason(self) -> str:
        """What sets this limit."""
        if self.context_limit < self.size("max_position_embeddings"):
            return "its longrope rotary scaling changes every position beyond that length"
        return "its max_position_embeddings"

    @property
    def head_dim(self) -> int:
        """E, by default the hidden size over the heads."""
        return self.size("head_dim", self.size("hidden_size") // self.size("num_attention_heads"))

    @property
    def norm_eps(self) -> float:
        """Of the norms; finite and not negative."""
        eps = float(self._document["rms_norm_eps"])
        if not 0 <= eps < math.inf:
            raise ValueError(f"rms_norm_eps, which is {eps}")
        return eps

    def activation(self, entry: str = "hidden_act") -> Activation:
        """Of the MLP, by the name of its entry.

        Raises:
            Unsupported: an unknown one.
        """
        name = self._document.get(entry, "silu")
        if name not in _ACTIVATIONS:
            raise Unsupported(f"its activation is {name!r}; known are {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]

    def gated_mlp(self, activation: str = "hidden_act") -> GatedMLP:
        """The MLP of a layer; `activation` names the entry of its function."""
        return GatedMLP(
            size=self.size("intermediate_size"),
            activation=self.activation(activation),
            bias=self.flag("mlp_bias"),
        )

    def layer_types(self, slides: Slides | None = None) -> tuple[str, ...]:
        """For each layer "full_attention" or "sliding_attention".

        Args:
            slides: whether a layer has a window, by its number, unless `layer_types` says so; None is all.
        """
        layers, types = self.num_layers, self._document.get("layer_types")
        if types is None:
            return tuple(_LAYER_TYPES[slides is None or slides(layer)] for layer in range(layers))
        if (
            not isinstance(types, list)
            or len(types) != layers
            or any(kind not in _LAYER_TYPES for kind in types)
        ):
            raise ValueError(f"layer_types: it needs {layers} of {' or '.join(_LAYER_TYPES)}")
        return tuple(types)

    def windows(self, *, used: bool = True, slides: Slides | None = None) -> tuple[int, ...]:
        """For each layer the positions that a token sees, 0 for all.

        Args:
            used: whether `sliding_window` is in use at all.
            slides: see `layer_types`.
        """
        window = int(self._document.get("sliding_window") or 0)
        if window < 0:
            raise ValueError(f"sliding_window, which is {window}")
        if not used or window >= self.context_limit:  # every token sees all
            window = 0
        return tuple(window if kind == "sliding_attention" else 0 for kind in self.layer_types(slides))

    def rope(self, parameters: Mapping[str, Any] | None = None) -> Rope:
        """The rotary embedding, scaling included.

        Args:
            parameters: as `rope_parameters` holds them; None takes the config's.

        Raises:
            Unsupported: a scaling that is unknown or depends on the running length, or layers that differ.
        """
        with np.errstate(all="ignore"):
            dim, theta, frequencies, factor = self._scaled_rope(
                self.rope_parameters if parameters is None else parameters
            )
        if not (np.isfinite(frequencies).all() and (frequencies > 0).all() and 0 < factor < math.inf):
            raise ValueError("rotary embedding: its numbers give no frequencies")
        return Rope(
            dim=dim, theta=theta, inverse_frequencies=tuple(map(float, frequencies)), factor=float(factor)
        )

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """Of all layers, in the newer spelling: one dictionary, with the base and the original context."""
        rope = dict(self._document.get("rope_parameters") or self._document.get("rope_scaling") or {})
        for entry in ("rope_theta", "partial_rotary_factor"):
            rope[entry] = rope.get(entry) or self._document.get(entry)
        if "original_max_position_embeddings" in self._document:  # Phi 3: it comes first
            rope["original_max_position_embeddings"] = self._document["original_max_position_embeddings"]
        return rope

    def _scaled_rope(self, rope: Mapping[str, Any]) -> tuple[int, float, Floats, float]:
        if any(isinstance(value, dict) for value in rope.values()):
            raise Unsupported("its layers differ in their rotary embedding")
        theta = float(rope.get("rope_theta") or 10000.0)
        kind = _rope_kind(rope)
        part = float(rope.get("partial_rotary_factor") or 1.0)
        dim = int(self.head_dim * part)
        if part != 1.0 and not (0 < part < 1 and dim > 0 and dim % 2 == 0):
            raise ValueError(f"partial_rotary_factor, which is {part}")
        plain = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
        if kind == "default":
            return dim, theta, plain, 1.0
        if kind not in _SCALINGS:
            raise Unsupported(f"its rotary scaling is {kind!r}, which is unknown or depends on the length")
        limit = self.size("max_position_embeddings")
        frequencies, factor = _SCALINGS[kind](plain, rope, theta, limit)
        return dim, theta, frequencies, factor


def _rope_kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _linear(plain: Floats, rope: Mapping[str, Any], _theta: float, _limit: int) -> tuple[Floats, float]:
    """Positions divided by a factor (arXiv 2306.15595)."""
    return plain / float(rope["factor"]), 1.0


def _llama3(plain: Floats, rope: Mapping[str, Any], _theta: float, _limit: int) -> tuple[Floats, float]:
    """Llama 3.1: low frequencies divided by the factor, a smooth passage between (its published code)."""
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(rope["original_max_position_embeddings"])
    wavelength = 2 * math.pi / plain
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * plain / factor + smooth * plain, 1.0


def _yarn(plain: Floats, rope: Mapping[str, Any], theta: float, limit: int) -> tuple[Floats, float]:
    """YaRN (arXiv 2309.00071), Sec. 3.2 and 3.4; field names and defaults as in Hugging Face configs."""
    dim = 2 * len(plain)
    original = float(rope.get("original_max_position_embeddings") or limit)
    factor = float(rope.get("factor") or limit / original)
    fast, slow = float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1)

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
    attention = rope.get("attention_factor")
    if attention is None:
        scale, every = rope.get("mscale"), rope.get("mscale_all_dim")
        attention = (
            _mscale(factor, float(scale)) / _mscale(factor, float(every))
            if scale and every
            else _mscale(factor, 1.0)
        )
    return plain / factor * ramp + plain * (1 - ramp), float(attention)


def _longrope(plain: Floats, rope: Mapping[str, Any], _theta: float, limit: int) -> tuple[Floats, float]:
    """LongRoPE (arXiv 2402.13753) within the original context: each frequency over a factor of its own."""
    factors = np.asarray(rope["short_factor"], dtype=np.float64)
    if factors.shape != plain.shape:
        raise ValueError(f"short_factor: it needs {len(plain)} numbers and has {factors.size}")
    attention = rope.get("attention_factor")
    if attention is None:
        original = float(rope["original_max_position_embeddings"])
        factor = float(rope.get("factor") or limit / original)
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return plain / factors, float(attention)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


_SCALINGS: dict[str, Callable[[Floats, Mapping[str, Any], float, int], tuple[Floats, float]]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def decoder(
    config: Config,
    *,
    windows: Sequence[int] | None = None,
    ropes: Sequence[Rope | None] | None = None,
    mlps: Sequence[GatedMLP | MoE] | None = None,
    norms: Norms | None = None,
    residual_multiplier: float = 1.0,
    embedding_scale: float = 1.0,
    head: LMHead | None = None,
    **attention: Any,
) -> ModelSpec:
    """The usual decoder: layers that differ in windows, rotary embeddings and MLPs at most.

    Args:
        config: sizes, norm epsilon, activation and rotary embedding are read from it.
        windows: for each layer; None sees everything.
        ropes: for each layer; None is the config's in all of them.
        mlps: for each layer; None has the config's size and activation, and biases where `mlp_bias` asks for
            them.
        norms: None is before each block, with the config's epsilon. The final norm has its offset.
        residual_multiplier: see `LayerSpec`.
        embedding_scale: see `Embedding`.
        head: None is plain, and tied where `tie_word_embeddings` says so.
        attention: further fields of `Attention`: biases, scale, query_key_norm and so on.
    """
    heads, num_layers = config.size("num_attention_heads"), config.num_layers
    norms = norms or Norms(eps=config.norm_eps)
    layers = tuple(
        LayerSpec(
            attention=Attention(
                heads=heads,
                kv_heads=config.size("num_key_value_heads", heads),
                head_dim=config.head_dim,
                rope=rope,
                window=window,
                **attention,
            ),
            mlp=mlp,
            norms=norms,
            residual_multiplier=residual_multiplier,
        )
        for window, rope, mlp in zip(
            windows or (0,) * num_layers,
            ropes or (config.rope(),) * num_layers,
            mlps or (config.gated_mlp(),) * num_layers,
            strict=True,
        )
    )
    return ModelSpec(
        family=config.family,
        context_limit=config.context_limit,
        embedding=Embedding(vocab_size=config.size("vocab_size"), scale=embedding_scale),
        stack=StackSpec(
            hidden_size=config.size("hidden_size"),
            layers=layers,
            final_norm=Norm(eps=norms.eps, offset=norms.offset),
        ),
        head=head or LMHead(tied=config.flag("tie_word_embeddings")),
        context_reason=config.context_reason,
    )
