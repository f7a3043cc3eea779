"""What a GGUF file says about its model, as the config.json that it amounts to.

llama.cpp's converter has made metadata and a few small tensors of an original config; families undo that with
a function each (`GGUFNames.config`), and `usual_config` does what they share. The keys are listed in ggml's
docs/gguf.md and in `gguf.constants.Keys`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyas.models.families.common import Unsupported
from eyas.models.formats import to_float32
from eyas.models.sources import GGUFSource
from eyas.models.tensors import TensorNames

_SPECIAL_TOKENS = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}


class GGUFMetadata:
    """A file's metadata by their keys behind the architecture, such as "block_count", and its small tensors.

    A missing one is a KeyError and an impossible one a TypeError, both by the whole key.
    """

    def __init__(self, source: GGUFSource) -> None:
        self._source = source

    def get(self, key: str, default: Any = None) -> Any:
        """A value as it is; `default` where there is none."""
        return self._source.fields.get(self._whole(key), default)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number; `default` where there is none."""
        value = self._value(key, default)
        if type(value) is not int:
            raise TypeError(f"{self._whole(key)}, which is {str(value)[:40]!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; float32 becomes the short decimal that was meant."""
        value = self._value(key, default)
        if type(value) not in (int, float):
            raise TypeError(f"{self._whole(key)}, which is {str(value)[:40]!r}")
        return _short(value)

    def has(self, tensor: str) -> bool:
        """Whether there is a tensor of that name."""
        return tensor in self._source.names()

    def numbers(self, tensor: str, count: int) -> list[float]:
        """The numbers of a small tensor.

        Raises:
            ValueError: it has another size.
        """
        shape = self._source.shape(tensor)
        if shape != (count,):
            raise ValueError(f"{tensor}, which has shape {shape} and not ({count},)")
        return [_short(value) for value in to_float32(self._source.raw(tensor)).tolist()]

    def _whole(self, key: str) -> str:
        return f"{self._source.architecture}.{key}"

    def _value(self, key: str, default: Any) -> Any:
        return self._source.fields[self._whole(key)] if default is None else self.get(key, default)


@dataclass(frozen=True, kw_only=True)
class GGUFNames:
    """How GGUF files hold a family.

    Attributes:
        architecture: their `general.architecture`.
        tensors: names of their tensors.
        config: the entries of config.json that a file amounts to, in transformers' spelling, apart from those
            that `gguf_config` adds. Raises `Unsupported` for what the family's file does not know.
    """

    architecture: str
    tensors: TensorNames
    config: Callable[[GGUFMetadata], dict[str, Any]]


def gguf_config(source: GGUFSource, model_type: str, names: GGUFNames) -> dict[str, Any]:
    """The config.json that a file amounts to.

    Args:
        source: the file.
        model_type: the family's name.
        names: how files hold the family.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: metadata that are missing or impossible, by key.
        Unsupported: something that the family's file does not know.
    """
    config: dict[str, Any] = {"model_type": model_type, **names.config(GGUFMetadata(source))}
    embedding, head = (f"{names.tensors.outer[name]}.weight" for name in ("embedding", "lm_head"))
    if embedding not in source.names():
        raise KeyError(embedding)
    config["vocab_size"] = source.shape(embedding)[0]
    config["tie_word_embeddings"] = head not in source.names()
    config["torch_dtype"] = "bfloat16"
    for name, entry in _SPECIAL_TOKENS.items():
        key = f"tokenizer.ggml.{name}_token_id"
        if key in source.fields:
            config[entry] = int(source.fields[key])
    return config


def usual_config(metadata: GGUFMetadata, *, is_partial: bool = False) -> dict[str, Any]:
    """The entries that families share: sizes, and the rotary embedding with its scaling.

    Args:
        metadata: of the file.
        is_partial: whether the family may rotate a part of each head only.

    Raises:
        Unsupported: something that no config says.
    """
    heads, hidden = metadata.size("attention.head_count"), metadata.size("embedding_length")
    head_dim = metadata.size("attention.key_length", 0) or hidden // max(
        heads, 1
    )  # 0 heads are refused later
    if metadata.size("attention.value_length", head_dim) != head_dim:
        raise Unsupported("its values are not as wide as its keys")
    config = {
        "hidden_size": hidden,
        "intermediate_size": metadata.size("feed_forward_length"),
        "num_hidden_layers": metadata.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.size("context_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
    }
    rotated = metadata.size("rope.dimension_count", head_dim)
    if rotated != head_dim:
        if not is_partial:
            raise Unsupported(f"it rotates {rotated} of {head_dim} dimensions, and all have to be rotated")
        config["partial_rotary_factor"] = rotated / head_dim
    scaling = _rope_scaling(metadata, rotated)
    return config | ({"rope_scaling": scaling} if scaling else {})


def layer_types(metadata: GGUFMetadata, period: int) -> list[str]:
    """The kinds of attention by layer: every `period`-th sees everything, unless the file says which do."""
    layers = range(metadata.size("block_count"))
    pattern = metadata.get("attention.sliding_window_pattern", period)
    if isinstance(pattern, int):
        slides = [pattern == 0 or (layer + 1) % pattern != 0 for layer in layers]
    else:
        slides = [bool(each) for each in pattern]
    return ["sliding_attention" if each else "full_attention" for each in slides]


def biases(metadata: GGUFMetadata) -> dict[str, bool]:
    """Whether attention and MLPs have biases, by the first layer's tensors."""
    return {
        "attention_bias": metadata.has("blk.0.attn_output.bias"),
        "mlp_bias": metadata.has("blk.0.ffn_down.bias"),
    }


def _short(value: float) -> float:
    """The shortest decimal that rounds to a float32: 1e-05 where that holds 9.99999974e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(metadata: GGUFMetadata, rotated: int) -> dict[str, Any] | None:
    """`rope_scaling` of a config, from metadata or from tensors that divide the frequencies."""
    factor = metadata.number("rope.scaling.factor", 0.0) or metadata.number("rope.scale_linear", 0.0)
    kind = metadata.get("rope.scaling.type", "linear")
    if metadata.has("rope_freqs.weight") or metadata.has("rope_factors_short.weight"):
        if kind == "yarn" or factor not in (0.0, 1.0):
            raise Unsupported(f"its rotary frequencies are scaled twice, by {kind!r} and by factors")
        return _rope_factors(metadata, rotated)
    if kind == "yarn":
        return _yarn(metadata, factor)
    if kind == "linear" and factor not in (0.0, 1.0):
        return {"rope_type": "linear", "factor": factor}
    if kind not in ("none", "linear"):
        raise Unsupported(f"its rotary scaling is {kind!r}, and its factors are missing")
    return None


def _rope_factors(metadata: GGUFMetadata, rotated: int) -> dict[str, Any]:
    """Factors of the frequencies: Llama 3's, which hold at any length, or Phi 3's short and long ones.

    LongRoPE (arXiv 2402.13753) says both.
    """
    original = context = metadata.size("context_length")
    if metadata.has("rope_freqs.weight"):
        factors = metadata.numbers("rope_freqs.weight", rotated // 2)
        long_factors, attention = factors, 1.0
    else:
        factors, long_factors = (
            metadata.numbers(f"rope_factors_{length}.weight", rotated // 2) for length in ("short", "long")
        )
        original = metadata.size("rope.scaling.original_context_length", context)
        attention = metadata.number("rope.scaling.attn_factor", 0.0)
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "factor": context / original,
        "short_factor": factors,
        "long_factor": long_factors,
        "original_max_position_embeddings": original,
    }
    return scaling | ({"attention_factor": attention} if attention else {})


def _yarn(metadata: GGUFMetadata, factor: float) -> dict[str, Any]:
    """YaRN (arXiv 2309.00071)."""
    unusual = {"yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0, "attn_factor": 1.0}
    for key, usual in unusual.items():
        if metadata.number(f"rope.scaling.{key}", usual) != usual:
            raise Unsupported(f"its YaRN has a {key} of {metadata.number(f'rope.scaling.{key}')}")
    context = metadata.size("context_length")
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor or 1.0,
        "original_max_position_embeddings": metadata.size("rope.scaling.original_context_length", context),
    }
    entries = {
        "attention_factor": "yarn_attn_factor",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    for entry, key in entries.items():
        if metadata.get(f"rope.scaling.{key}") is not None:
            scaling[entry] = metadata.number(f"rope.scaling.{key}")
    return scaling
