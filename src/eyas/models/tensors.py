"""A model's tensors by what they are: one set of names for every family and every file format.

A layer's weights are called `layers.3.query.weight`, `layers.3.mlp_norm.weight` and so on, the others
`embedding.weight`, `final_norm.weight` and `lm_head.weight`. A `TensorNames` maps these to the names in
files; a fused tensor is a slice in the map.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.formats import (
    FORMATS,
    RawTensor,
    bad_scales,
    stored_array,
    to_float32,
    unsupported_format,
)
from eyas.models.sources import WeightSource
from eyas.models.spec import GatedMLP, LayerSpec, ModelSpec, StackSpec
from eyas.models.weights import BFLOAT16

Shape = tuple[int, ...]
_ROWS = 4096  # checked at a time for numbers that are not finite


def layer_shapes(layer: LayerSpec, hidden: int) -> dict[str, Shape]:
    """Every weight of a layer by its name within the layer, such as `query.weight`, and its shape.

    Raises:
        ModelError: a mixture of experts, which no runtime here computes yet.
    """
    attention, mlp = layer.attention, layer.mlp
    if not isinstance(mlp, GatedMLP):
        raise ModelError("mixtures of experts have no tensor names yet")
    query, key = attention.query_size, attention.key_size
    linears = {
        "query": (query, hidden, attention.bias),
        "key": (key, hidden, attention.bias),
        "value": (key, hidden, attention.bias),
        "output": (hidden, query, attention.output_bias),
        "gate": (mlp.size, hidden, mlp.bias),
        "up": (mlp.size, hidden, mlp.bias),
        "down": (hidden, mlp.size, mlp.bias),
    }
    shapes: dict[str, Shape] = {}
    for name, (outputs, inputs, has_bias) in linears.items():
        shapes[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            shapes[f"{name}.bias"] = (outputs,)
    shapes |= {f"{name}.weight": (hidden,) for name in layer.norms.names}
    if attention.query_key_norm != "none":
        is_wide = attention.query_key_norm == "width"
        shapes["query_norm.weight"] = (query if is_wide else attention.head_dim,)
        shapes["key_norm.weight"] = (key if is_wide else attention.head_dim,)
    return shapes


def stack_shapes(stack: StackSpec) -> dict[str, Shape]:
    """Every weight of a stack of layers: `layers.0.query.weight` .. `final_norm.weight`."""
    shapes = {
        f"layers.{index}.{name}": shape
        for index, layer in enumerate(stack.layers)
        for name, shape in layer_shapes(layer, stack.hidden_size).items()
    }
    if stack.final_norm is not None:
        shapes["final_norm.weight"] = (stack.hidden_size,)
    return shapes


def model_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Every weight of a model; a tied LM head has none of its own."""
    table = (spec.vocab_size, spec.hidden_size)
    shapes = {"embedding.weight": table, **stack_shapes(spec.stack)}
    return shapes if spec.head.tied else shapes | {"lm_head.weight": table}


@dataclass(frozen=True, slots=True)
class Slice:
    """One of several matrices that a file stores below each other in one tensor.

    Attributes:
        tensor: its name in the layer, without `.weight`.
        parts: all that it holds, from the top down.
    """

    tensor: str
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """How files of one kind call the tensors of a family.

    Attributes:
        outer: the names of `embedding`, `final_norm` and `lm_head`, without `.weight`.
        layer: what precedes the names of a layer's tensors, with `{}` for its number.
        parts: of a layer, without `.weight` and `.bias`: `query` and so on to their names behind `layer`.
        interleaved: parts whose rows hold the two numbers of each rotary pair next to each other (llama.cpp's
            order), instead of first halves before second halves.
        ignored: endings of tensors that say nothing new.
    """

    outer: Mapping[str, str]
    layer: str
    parts: Mapping[str, str | Slice]
    interleaved: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = field(default=("rotary_emb.inv_freq",))

    def find(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The file's name of a tensor, and our names of all that it holds, from the top down."""
        stem, _, kind = name.rpartition(".")
        if not stem.startswith("layers."):
            return f"{self.outer[stem]}.{kind}", (name,)
        _, index, part = stem.split(".")
        place, prefix = self.parts[part], self.layer.format(index)
        if isinstance(place, str):
            return f"{prefix}{place}.{kind}", (name,)
        return f"{prefix}{place.tensor}.{kind}", tuple(f"layers.{index}.{p}.{kind}" for p in place.parts)

    def shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The same tensors by their names in a file; parts of a fused one make up its rows."""
        found: dict[str, Shape] = {}
        for name in shapes:
            tensor, parts = self.find(name)
            found[tensor] = (sum(shapes[part][0] for part in parts), *shapes[name][1:])
        return found


class ModelTensors:
    """The tensors of one model, by our names, checked against its spec before anything is read.

    Args:
        source: of its files.
        spec: what its config says.
        names: how the files call them.

    Raises:
        ModelError: a tensor is missing, has another shape than the config says or holds no weights, or one is
            there that the config does not name.
    """

    def __init__(self, source: WeightSource, spec: ModelSpec, names: TensorNames) -> None:
        self.source = source
        self.spec = spec
        self._names = names
        self._shapes = model_shapes(spec)
        expected = names.shapes(self._shapes)
        have = set(source.names())
        if spec.head.tied:
            have.discard(f"{names.outer['lm_head']}.weight")
        for name, shape in expected.items():
            if name not in have:
                raise self._foreign(f"lacks {name}")
            if source.shape(name) != shape:
                raise self._foreign(f"has {name} of shape {source.shape(name)} where its config says {shape}")
            if source.format(name) not in FORMATS:
                raise ModelError(f"{source.path}: {name} has {unsupported_format(source.format(name))}.")
        unknown = [name for name in have if name not in expected and not name.endswith(names.ignored)]
        if unknown:
            raise self._foreign(f"has a weight that its config does not name: {min(unknown)}")

    def __iter__(self) -> Iterator[str]:
        """Our names."""
        return iter(self._shapes)

    def shape(self, name: str) -> Shape:
        """A tensor's shape."""
        return self._shapes[name]

    def raw(self, name: str) -> RawTensor:
        """A tensor as it is stored: rows of a fused one, in rotate-half's order."""
        tensor, parts = self._names.find(name)
        raw, shape = self.source.raw(tensor), self._shapes[name]
        start = sum(self._shapes[part][0] for part in parts[: parts.index(name)])
        rows = raw.data.reshape(raw.shape[0], -1)[start : start + shape[0]]  # bytes of each row or number
        pieces = name.split(".")  # "layers", "3", "query", "weight"
        if pieces[-2] in self._names.interleaved:
            attention = self.spec.layers[int(pieces[1])].attention
            rows = _first_halves_first(rows, shape[0] // attention.head_dim)
        return RawTensor(rows.reshape(*shape[:-1], -1), raw.format, shape)

    def stored(self, name: str) -> NDArray[np.generic]:
        """A tensor in float32 or bfloat16, without a copy where it is stored so."""
        return stored_array(self.raw(name))

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor in float32, every number finite; for the small ones."""
        floats = np.ascontiguousarray(to_float32(self.raw(name)))
        if not np.isfinite(floats).all():
            raise self._broken(name)
        return floats

    def check_finite(self, name: str) -> None:
        """Refuse a matrix that holds NaN or an infinity; of blocks the scales tell."""
        raw = self.raw(name)
        if FORMATS[raw.format].block > 1:
            if bad_scales(raw):
                raise self._broken(name)
            return
        rows = stored_array(raw)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            if part.dtype == BFLOAT16:
                is_fine = (part.view(np.uint16) & 0x7F80 != 0x7F80).all()
            else:
                is_fine = np.isfinite(part).all()
            if not is_fine:
                raise self._broken(name)

    def _broken(self, name: str) -> ModelError:
        tensor, _ = self._names.find(name)
        return ModelError(
            f"{self.source.path}: {tensor} holds weights that are not finite numbers; fetch the model again."
        )

    def _foreign(self, fault: str) -> ModelError:
        return ModelError(f"{self.source.path} {fault}; its weights and its config are not of one model.")


def _first_halves_first(rows: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """Rows of each head from llama.cpp's order, pairs next to each other, to rotate-half's."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
