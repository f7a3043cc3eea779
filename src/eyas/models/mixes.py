"""Mixes of weight formats by name: which tensor is stored in which format.

The names and rules are those of llama.cpp's file types (`llama-quantize` without importance weights). Most
matrices have a mix's base format; those whose errors cost most have more bits. `q3_k`, `q4_k` and `q5_k` are
not file types: they are these formats for every matrix, which is smaller, faster and less exact.

Sources: llama.cpp's `llama_tensor_get_type_impl` and `tensor_type_fallback`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from eyas.models.formats import FORMATS
from eyas.models.spec import ModelSpec
from eyas.models.tensors import Shape, model_shapes

# (layer, spec) -> the format of a matrix in this layer, or None for the mix's base.
Rule = Callable[[int, ModelSpec], str | None]


@dataclass(frozen=True, slots=True)
class Mix:
    """Formats of a model's matrices.

    Attributes:
        base: of every matrix that nothing else is said of, the input embedding among them.
        head: of the LM head, and of an embedding that is tied to it.
        parts: rules for single matrices of a layer, and of its experts, by name: `value`, `down`, `output`.
    """

    base: str
    head: str = "Q6_K"
    parts: Mapping[str, Rule] = field(default_factory=dict)


def _always(weight_format: str) -> Rule:
    return lambda _layer, _spec: weight_format


def _first(count: int, weight_format: str, then: str | None = None) -> Rule:
    """The first layers."""
    return lambda layer, _spec: weight_format if layer < count else then


def _first_part(part: int, weight_format: str, then: str | None = None) -> Rule:
    """The first of `part` equal parts of the layers."""
    return lambda layer, spec: weight_format if layer < len(spec.layers) // part else then


def _more(weight_format: str) -> Rule:
    """The first and the last eighth of the layers, and every third one between."""

    def rule(layer: int, spec: ModelSpec) -> str | None:
        layers = len(spec.layers)
        eighth = layers // 8
        has_more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        return weight_format if has_more else None

    return rule


def _shared(weight_format: str, otherwise: str | None = None) -> Rule:
    """Layers whose key/value heads each serve four query heads or more: their values are small, and count."""

    def rule(layer: int, spec: ModelSpec) -> str | None:
        attention = spec.layers[layer].attention
        return weight_format if attention.heads // attention.kv_heads >= 4 else otherwise

    return rule


_IQ4 = {"value": _shared("Q5_K"), "down": _first_part(8, "Q5_K")}
MIXES = {
    "q8_0": Mix("Q8_0", "Q8_0"),
    "q6_k": Mix("Q6_K"),
    "q5_k_m": Mix("Q5_K", parts={"value": _more("Q6_K"), "down": _more("Q6_K")}),
    "q5_k_s": Mix("Q5_K"),
    "q5_k": Mix("Q5_K", "Q5_K"),
    "q5_1": Mix("Q5_1"),
    "q5_0": Mix("Q5_0"),
    "q4_k_m": Mix("Q4_K", parts={"value": _more("Q6_K"), "down": _more("Q6_K")}),
    "q4_k_s": Mix("Q4_K", parts={"value": _first(4, "Q5_K"), "down": _first_part(8, "Q5_K")}),
    "q4_k": Mix("Q4_K", "Q4_K"),
    "q4_1": Mix("Q4_1"),
    "q4_0": Mix("Q4_0"),
    "iq4_nl": Mix("IQ4_NL", parts=_IQ4),
    "iq4_xs": Mix("IQ4_XS", parts=_IQ4),
    "mxfp4": Mix("MXFP4", "Q8_0"),
    "q3_k_l": Mix("Q3_K", parts={part: _always("Q5_K") for part in ("value", "down", "output")}),
    "q3_k_m": Mix(
        "Q3_K",
        parts={
            "value": _first(2, "Q5_K", "Q4_K"),
            "down": _first_part(16, "Q5_K", "Q4_K"),
            "output": _always("Q4_K"),
        },
    ),
    "q3_k_s": Mix("Q3_K"),
    "q3_k": Mix("Q3_K", "Q3_K"),
    "q2_k": Mix(
        "Q2_K",
        parts={"value": _shared("Q4_K", "Q3_K"), "down": _always("Q3_K"), "output": _always("Q3_K")},
    ),
}

# Formats that a draft network may have: one for all of its matrices.
DRAFT_FORMATS = {mix.base.lower(): mix.base for mix in MIXES.values()}

# For rows that do not divide into blocks of 256 numbers.
_SMALL_BLOCKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}


def block_format(weight_format: str, columns: int) -> str | None:
    """The format that rows of `columns` numbers get where `weight_format` was asked for.

    That is the format itself where its blocks divide the rows, otherwise a format of blocks of 32 with about
    as many bits or more, and None where not even those divide them.
    """
    for candidate in (weight_format, _SMALL_BLOCKS.get(weight_format)):
        if candidate is not None and columns % FORMATS[candidate].block == 0:
            return candidate
    return None


def tensor_formats(mix: str, spec: ModelSpec) -> dict[str, str]:
    """The block format of each matrix in a mix, by our names.

    Norms, biases, routers of experts and matrices whose rows no block divides are left out: they keep the
    format that they have.

    Args:
        mix: a name in `MIXES`.
        spec: of the model.
    """
    found = {name: _format(MIXES[mix], name, shape, spec) for name, shape in model_shapes(spec).items()}
    return {name: weight_format for name, weight_format in found.items() if weight_format is not None}


def _format(mix: Mix, name: str, shape: Shape, spec: ModelSpec) -> str | None:
    if len(shape) < 2 or name.endswith("router.weight"):
        return None
    wanted: str | None = None
    if name == "lm_head.weight" or (name == "embedding.weight" and spec.head.tied):
        wanted = mix.head
    elif name.startswith("layers."):
        _, layer, part, *_ = name.split(".")
        rule = mix.parts.get(part.removeprefix("expert_"))
        wanted = None if rule is None else rule(int(layer), spec)
    return block_format(wanted or mix.base, shape[-1])
