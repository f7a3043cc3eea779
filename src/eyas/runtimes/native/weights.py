"""A model's tensors by name, checked against its config before anything is packed. Nothing is copied."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models import read_tensor, tensor_places
from eyas.runtimes.native.families import Family

# float32, or uint16 that holds bfloat16 bits; maps of the model's files where their type allows it.
Raw = NDArray[Any]
_ROWS = 4096  # that are checked at a time
_FLOATS = ("BF16", "F16", "F32", "F64")
_IGNORED = ("rotary_emb.inv_freq",)  # old checkpoints store what the config says


class ModelWeights:
    """The tensors of one model directory.

    Raises:
        ModelError: a tensor is missing, has another shape than the config says, or nobody knows its name.
    """

    def __init__(self, model_dir: Path, family: Family) -> None:
        self.model_dir = model_dir
        self.places = tensor_places(model_dir)
        expected = expected_shapes(family)
        if family.tied:
            self.places.pop("lm_head.weight", None)
        for name, shape in expected.items():
            if name not in self.places:
                raise self._foreign(f"lacks {name}")
            found = tuple(self.places[name][1]["shape"])
            if found != shape:
                raise self._foreign(f"has {name} of shape {found} where its config says {shape}")
            kind = self.places[name][1]["dtype"]
            if kind not in _FLOATS:
                raise ModelError(
                    f"{model_dir}: {name} holds {kind}, which are no weights; save the model in bfloat16."
                )
        unknown = [name for name in self.places if name not in expected and not name.endswith(_IGNORED)]
        if unknown:
            raise self._foreign(f"has a weight that its config does not name: {min(unknown)}")

    def raw(self, name: str) -> Raw:
        """A tensor as it lies on disk; float16 and float64 become float32."""
        path, entry = self.places[name]
        if entry["dtype"] in ("BF16", "F32"):
            kind = np.dtype("<u2") if entry["dtype"] == "BF16" else np.dtype("<f4")
            shape = tuple(entry["shape"])
            return np.memmap(path, dtype=kind, mode="r", offset=entry["file_offset"], shape=shape)
        return read_tensor(path, entry).astype(np.float32)

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor in float32, all of it finite; for the small ones."""
        path, entry = self.places[name]
        floats: NDArray[np.float32] = np.ascontiguousarray(read_tensor(path, entry), dtype=np.float32)
        if not np.isfinite(floats).all():
            raise self._broken(name)
        return floats

    def check_finite(self, name: str) -> None:
        """Refuse a matrix that holds NaN or an infinity."""
        rows = self.raw(name)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            fine = part & 0x7F80 != 0x7F80 if part.dtype == np.uint16 else np.isfinite(part)
            if not fine.all():
                raise self._broken(name)

    def _broken(self, name: str) -> ModelError:
        return ModelError(
            f"{self.model_dir}: {name} holds weights that are not finite numbers; fetch the model again."
        )

    def _foreign(self, fault: str) -> ModelError:
        return ModelError(f"{self.model_dir} {fault}; its weights and its config.json are not of one model.")


def expected_shapes(family: Family) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of this config has."""
    hidden, inner, dim = family.hidden_size, family.intermediate_size, family.head_dim
    query, key = family.num_heads * dim, family.num_kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (family.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not family.tied:
        shapes["lm_head.weight"] = (family.vocab_size, hidden)
    for layer in range(family.num_layers):
        prefix = f"model.layers.{layer}."
        matrices = {
            "self_attn.q_proj": (query, hidden, family.qkv_bias),
            "self_attn.k_proj": (key, hidden, family.qkv_bias),
            "self_attn.v_proj": (key, hidden, family.qkv_bias),
            "self_attn.o_proj": (hidden, query, family.output_bias),
            "mlp.gate_proj": (inner, hidden, family.mlp_bias),
            "mlp.up_proj": (inner, hidden, family.mlp_bias),
            "mlp.down_proj": (hidden, inner, family.mlp_bias),
        }
        for name, (rows, columns, has_bias) in matrices.items():
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        if family.head_norms:
            shapes[prefix + "self_attn.q_norm.weight"] = (dim,)
            shapes[prefix + "self_attn.k_norm.weight"] = (dim,)
    return shapes
