"""A model's tensors by what they are: one set of names for every family and every file format.

A layer's weights are called `layers.3.query.weight`, `layers.3.mlp_norm.weight` and so on, those of an expert
`layers.3.expert_gate.17.weight`, the others `embedding.weight`, `final_norm.weight` and `lm_head.weight`. A
`TensorNames` maps these to the names in files; what files hold in one tensor is a slice in the map.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import NamedTuple, Self

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
from eyas.models.spec import GatedMLP, LayerSpec, ModelSpec, MoE, StackSpec
from eyas.models.weights import BFLOAT16

Shape = tuple[int, ...]
_ROWS = 4096  # checked at a time for numbers that are not finite


def layer_shapes(layer: LayerSpec, hidden: int) -> dict[str, Shape]:
    """Every weight of a layer by its name within the layer, such as `query.weight`, and its shape."""
    attention = layer.attention
    query, key, inputs = attention.query_size, attention.key_size, layer.attention_inputs(hidden)
    shapes = _linears(
        {
            "query": (query, inputs, attention.bias),
            "key": (key, inputs, attention.bias),
            "value": (key, inputs, attention.bias),
            "output": (hidden, query, attention.output_bias),
        }
    )
    shapes |= _mlp_shapes(layer.mlp, hidden)
    shapes |= {f"{name}.weight": (hidden,) for name in layer.norm_names}
    if attention.query_key_norm != "none":
        is_wide = attention.query_key_norm == "width"
        shapes["query_norm.weight"] = (query if is_wide else attention.head_dim,)
        shapes["key_norm.weight"] = (key if is_wide else attention.head_dim,)
    return shapes


def _mlp_shapes(mlp: GatedMLP | MoE, hidden: int) -> dict[str, Shape]:
    if isinstance(mlp, GatedMLP):
        parts = {"gate": (mlp.size, hidden), "up": (mlp.size, hidden), "down": (hidden, mlp.size)}
        return _linears({part: (*shape, mlp.bias) for part, shape in parts.items()})
    assert not mlp.expert.bias, "no family has experts with biases"
    shapes = {f"expert_{name}": shape for name, shape in _mlp_shapes(mlp.expert, hidden).items()}
    return {"router.weight": (mlp.experts, hidden)} | {
        name.replace(".", f".{expert}."): shape
        for expert in range(mlp.experts)
        for name, shape in shapes.items()
    }


def _linears(sizes: Mapping[str, tuple[int, int, bool]]) -> dict[str, Shape]:
    """Weights and biases of linear layers, by (outputs, inputs, whether there is a bias)."""
    shapes: dict[str, Shape] = {}
    for name, (outputs, inputs, has_bias) in sizes.items():
        shapes[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            shapes[f"{name}.bias"] = (outputs,)
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


@dataclass(frozen=True, slots=True)
class Experts:
    """A tensor of all experts, one behind the other along an axis of its own.

    Attributes:
        tensor: its name in the layer, without `.weight`.
    """

    tensor: str


class Place(NamedTuple):
    """Where a file keeps a weight.

    Attributes:
        tensor: its name in the file.
        part: which of those that the tensor holds it is, from the top down.
        is_stacked: whether these lie along an axis of their own.
    """

    tensor: str
    part: int = 0
    is_stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """How files of one kind call the tensors of a family.

    Attributes:
        outer: the names of `embedding`, `final_norm` and `lm_head`, without `.weight`.
        layer: what precedes the names of a layer's tensors, with `{}` for its number.
        parts: of a layer, without `.weight` and `.bias`: `query` and so on to their names behind `layer`. In
            the name of an expert's part `{}` is its number.
        interleaved: parts whose rows hold the two numbers of each rotary pair next to each other (llama.cpp's
            order), instead of first halves before second halves.
        norm_offset: what the weights of norms have too much: 1 where files of Gemma add what its norms add.
        ignored: patterns of tensors that say nothing new.
    """

    outer: Mapping[str, str]
    layer: str
    parts: Mapping[str, str | Slice | Experts]
    interleaved: frozenset[str] = frozenset()
    norm_offset: float = 0.0
    ignored: tuple[str, ...] = ("*rotary_emb.inv_freq",)

    def with_parts(self, **parts: str | Slice | Experts) -> Self:
        """These names, but for some parts of a layer."""
        return replace(self, parts={**self.parts, **parts})

    def find(self, name: str) -> Place:
        """Where a file keeps the weight of a name of ours."""
        stem, _, kind = name.rpartition(".")
        if not stem.startswith("layers."):
            return Place(f"{self.outer[stem]}.{kind}")
        _, index, part, *expert = stem.split(".")
        where, prefix = self.parts[part], self.layer.format(index)
        if isinstance(where, Slice):
            return Place(f"{prefix}{where.tensor}.{kind}", where.parts.index(part))
        if isinstance(where, Experts):
            return Place(f"{prefix}{where.tensor}.{kind}", int(expert[0]), is_stacked=True)
        return Place(f"{prefix}{where.format(*expert)}.{kind}")

    def groups(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The tensors of a file, and our names of all that each holds, from the top down."""
        found: dict[str, dict[int, str]] = {}
        for name in names:
            place = self.find(name)
            found.setdefault(place.tensor, {})[place.part] = name
        return {tensor: [parts[part] for part in sorted(parts)] for tensor, parts in found.items()}

    def shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The tensors of a file and their shapes, from those by our names."""
        found: dict[str, Shape] = {}
        for tensor, parts in self.groups(shapes).items():
            first = shapes[parts[0]]
            if self.find(parts[0]).is_stacked:
                found[tensor] = (len(parts), *first)
            else:
                found[tensor] = (sum(shapes[part][0] for part in parts), *first[1:])
        return found

    def is_ignored(self, tensor: str) -> bool:
        """Whether a tensor of a file says nothing new."""
        return any(fnmatchcase(tensor, pattern) for pattern in self.ignored)


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
        self._starts = self._first_rows()
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
        unknown = [name for name in have if name not in expected and not names.is_ignored(name)]
        if unknown:
            raise self._foreign(f"has a weight that its config does not name: {min(unknown)}")

    def __iter__(self) -> Iterator[str]:
        """Our names."""
        return iter(self._shapes)

    @property
    def names(self) -> TensorNames:
        """How its files call them."""
        return self._names

    def shape(self, name: str) -> Shape:
        """A tensor's shape."""
        return self._shapes[name]

    def format(self, name: str) -> str:
        """A tensor's format."""
        return self.source.format(self._names.find(name).tensor)

    def raw(self, name: str) -> RawTensor:
        """A tensor as it is stored: rows of one that holds several, in rotate-half's order."""
        place, shape = self._names.find(name), self._shapes[name]
        raw = self.source.raw(place.tensor)
        start = self._starts[name]
        rows = raw.data.reshape(prod(raw.shape[:-1]) if len(raw.shape) > 1 else raw.shape[0], -1)
        rows = rows[start : start + shape[0]]  # bytes of each row or number
        pieces = name.split(".")  # "layers", "3", "query", "weight"
        if pieces[-2] in self._names.interleaved:
            attention = self.spec.layers[int(pieces[1])].attention
            rows = _first_halves_first(rows, shape[0] // attention.head_dim)
        raw = RawTensor(rows.reshape(*shape[:-1], -1), raw.format, shape)
        if self._names.norm_offset and pieces[-2].endswith("norm"):
            values = to_float32(raw) - np.float32(self._names.norm_offset)
            return RawTensor(values.view(np.uint8), "float32", shape)
        return raw

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

    def _first_rows(self) -> dict[str, int]:
        """Where each begins in the tensor of its file, in rows."""
        starts = {}
        for parts in self._names.groups(self._shapes).values():
            row = 0
            for part in parts:
                starts[part] = row
                row += self._shapes[part][0]
        return starts

    def _broken(self, name: str) -> ModelError:
        tensor = self._names.find(name).tensor
        return ModelError(
            f"{self.source.path}: {tensor} holds weights that are not finite numbers; fetch the model again."
        )

    def _foreign(self, fault: str) -> ModelError:
        return ModelError(f"{self.source.path} {fault}; its weights and its config are not of one model.")


def _first_halves_first(rows: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """Rows of each head from llama.cpp's order, pairs next to each other, to rotate-half's."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
