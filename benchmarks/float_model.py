"""A model's dequantised weights multiplied in float32: what quantised products are compared with.

Layers are dequantised one at a time, so a model of any size fits into memory. Several ways to round the inputs of the
linear layers go through each layer together.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from eyas.models.families import open_tensors, read_spec
from eyas.models.formats import RawTensor, to_float32
from eyas.models.spec import LayerSpec, Norm, Rope
from eyas.models.tensors import ModelTensors, layer_shapes

Ids = NDArray[np.int64]
# Inputs (T, k) of a linear layer and the format of its weights -> the inputs that it multiplies.
Rounding = Callable[[torch.Tensor, str], torch.Tensor]
_ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def exact(inputs: torch.Tensor, _weight_format: str) -> torch.Tensor:
    """The inputs as they are."""
    return inputs


def scale_per(size: int) -> Rounding:
    """Integers in -127..127 with a scale for every `size` inputs."""

    def rounding(inputs: torch.Tensor, _weight_format: str) -> torch.Tensor:
        return _in_int8(inputs, size)

    return rounding


def llama_cpp_scales(inputs: torch.Tensor, weight_format: str) -> torch.Tensor:
    """llama.cpp's: a scale for 256 inputs of K-quants and IQ4_XS, else one in half precision for 32."""
    is_super = weight_format.endswith("_K") or weight_format == "IQ4_XS"
    return _in_int8(inputs, 256) if is_super else _in_int8(inputs, 32, halves=True)


def _in_int8(inputs: torch.Tensor, size: int, *, halves: bool = False) -> torch.Tensor:
    count, width = inputs.shape
    parts = functional.pad(inputs, (0, -width % size)).reshape(count, -1, size)
    scale = parts.abs().amax(dim=2, keepdim=True) / 127
    whole = torch.round(parts / torch.where(scale == 0, 1.0, scale))
    stored = scale.half().float() if halves else scale
    return (whole * stored).reshape(count, -1)[:, :width]


class FloatModel:
    """The model of a GGUF file, or of a Hugging Face directory.

    Raises:
        ModelError: a file that is not whole, or a family that is unknown.
    """

    def __init__(self, model: Path) -> None:
        self.spec = read_spec(model)
        self._tensors = open_tensors(model, self.spec)

    def features(self, segments: Sequence[Ids], roundings: Mapping[str, Rounding]) -> dict[str, list[torch.Tensor]]:
        """(T, H) inputs of the LM head for each segment, by the name of a rounding."""
        embedded = [self._embed(ids) for ids in segments]
        states = {name: embedded for name in roundings}
        for index, layer in enumerate(self.spec.layers):
            block = _Layer(self._tensors, index, layer)
            for name, rounding in roundings.items():
                states[name] = [block(state, rounding) for state in states[name]]
        final = self.spec.stack.final_norm
        assert final is not None, "a target"
        weight = torch.from_numpy(self._tensors.floats("final_norm.weight"))
        return {name: [_norm(state, weight, final) for state in found] for name, found in states.items()}

    def logits(self, features: torch.Tensor, rounding: Rounding) -> NDArray[np.float32]:
        """(T, V) of features (T, H)."""
        head, (weight, weight_format) = self.spec.head, self._head
        logits = functional.linear(rounding(features, weight_format), weight) * head.scale
        if head.softcap:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        found: NDArray[np.float32] = logits.numpy()
        return found

    @cached_property
    def _head(self) -> tuple[torch.Tensor, str]:
        raw = self._tensors.raw("embedding.weight" if self.spec.head.tied else "lm_head.weight")
        return torch.from_numpy(to_float32(raw)), raw.format

    def _embed(self, ids: Ids) -> torch.Tensor:
        raw = self._tensors.raw("embedding.weight")
        rows = to_float32(RawTensor(raw.data[ids], raw.format, (len(ids), raw.shape[1])))
        return torch.from_numpy(rows) * self.spec.embedding.scale


class _Layer:
    """One decoder layer with its weights in float32."""

    def __init__(self, tensors: ModelTensors, index: int, spec: LayerSpec) -> None:
        self._spec = spec
        self._formats: dict[str, str] = {}
        self._weights: dict[str, torch.Tensor] = {}
        for name in layer_shapes(spec, tensors.spec.hidden_size):
            raw = tensors.raw(f"layers.{index}.{name}")
            self._weights[name] = torch.from_numpy(np.array(to_float32(raw)))
            self._formats[name] = raw.format

    def __call__(self, state: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        factor = self._spec.residual_multiplier
        for block, name in ((self._attention, "attention"), (self._mlp, "mlp")):
            output = block(self._maybe_norm(f"{name}_norm", state), rounding)
            state = state + factor * self._maybe_norm(f"{name}_post_norm", output)
        return state

    def _attention(self, inputs: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        spec = self._spec.attention
        count = len(inputs)
        query, key, value = (self._linear(part, inputs, rounding) for part in ("query", "key", "value"))
        if spec.query_key_norm == "width":
            query, key = self._maybe_norm("query_norm", query), self._maybe_norm("key_norm", key)
        query, key, value = (rows.reshape(count, -1, spec.head_dim).transpose(0, 1) for rows in (query, key, value))
        if spec.query_key_norm == "head":
            query, key = self._maybe_norm("query_norm", query), self._maybe_norm("key_norm", key)
        if spec.rope is not None:
            query, key = _rotated(query, spec.rope), _rotated(key, spec.rope)
        shared = spec.heads // spec.kv_heads
        key, value = key.repeat_interleave(shared, dim=0), value.repeat_interleave(shared, dim=0)
        scores = query @ key.transpose(1, 2) * (spec.head_dim**-0.5 if spec.scale is None else spec.scale)
        if spec.softcap:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        distance = torch.arange(count)[:, None] - torch.arange(count)[None, :]
        hidden = (distance < 0) | (distance >= (spec.window or count))
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ value
        return self._linear("output", mixed.transpose(0, 1).reshape(count, -1), rounding)

    def _mlp(self, inputs: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        activation = _ACTIVATIONS[self._spec.mlp.activation]  # type: ignore[union-attr]
        gate, up = (self._linear(part, inputs, rounding) for part in ("gate", "up"))
        return self._linear("down", activation(gate) * up, rounding)

    def _linear(self, part: str, inputs: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        rounded = rounding(inputs, self._formats[f"{part}.weight"])
        return functional.linear(rounded, self._weights[f"{part}.weight"], self._weights.get(f"{part}.bias"))

    def _maybe_norm(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        weight = self._weights.get(f"{name}.weight")
        return rows if weight is None else _norm(rows, weight, self._spec.norms)


def _norm(rows: torch.Tensor, weight: torch.Tensor, norm: Norm) -> torch.Tensor:
    return rows * torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + norm.eps) * (weight + norm.offset)


def _rotated(heads: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Heads (A, T, E), of which token t is at position t."""
    frequencies = torch.tensor(rope.inverse_frequencies, dtype=torch.float64)
    angles = torch.arange(heads.shape[1], dtype=torch.float64)[:, None] * frequencies
    cosine, sine = (rope.factor * angles.cos()).float(), (rope.factor * angles.sin()).float()
    first, second, rest = heads.split((rope.dim // 2, rope.dim // 2, heads.shape[2] - rope.dim), dim=2)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), dim=2)
