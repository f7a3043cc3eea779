"""What a config.json of the Llama family says, strictly: what is not known here is refused by name."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyas.engine.tree import Floats
from eyas.errors import ModelError
from eyas.models import read_json

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
MAX_HEAD_DIM = 256
MAX_WIDTH = 59_999  # inputs of a matrix
MAX_SIZE = 2**31 - 1  # anything else that is counted
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Sizes and switches of one model.

    Attributes:
        windows: per layer the positions that a row sees; 0 is all of them.
        inverse_frequencies: (head_dim / 2,) of the rotary embedding, scaling included.
        rope_factor: of its cosines and sines.
    """

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    inverse_frequencies: Floats
    rope_factor: float
    context_limit: int
    windows: tuple[int, ...]
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_norms: bool  # of queries and keys


def unsupported(model_dir: Path) -> str | None:
    """Why this runtime cannot serve the model in `model_dir`; None if it can.

    Raises:
        ModelError: no readable config.json.
    """
    try:
        read_family(model_dir)
    except ModelError as error:
        if not (model_dir / "config.json").is_file():
            raise
        return str(error)
    return None


def read_family(model_dir: Path) -> Family:
    """Read config.json.

    Raises:
        ModelError: not a family of this runtime, or something in it that it does not know.
    """
    config = read_json(model_dir / "config.json")
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise ModelError(
            f"{model_dir} is of family {family!r}, and the native runtime serves {', '.join(FAMILIES)}; "
            "use --runtime torch."
        )
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise _refusal(model_dir, f"its activation is {activation!r}, not 'silu'")
    if config.get("quantization_config"):
        raise _refusal(model_dir, "its weights are quantised")
    try:
        return _family(model_dir, config, family)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"{model_dir}/config.json lacks a usable {error}; fetch it again.") from error


def _family(model_dir: Path, config: dict[str, Any], family: str) -> Family:
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    head_dim = _size(config, "head_dim", hidden // heads)
    inner, layers = _size(config, "intermediate_size"), _size(config, "num_hidden_layers")
    if head_dim % 2 or head_dim > MAX_HEAD_DIM or heads % kv_heads:
        raise _refusal(
            model_dir, f"{heads} heads of {head_dim} over {kv_heads} kv heads do not fit the kernels"
        )
    widest = max(hidden, inner, heads * head_dim)
    if widest > MAX_WIDTH:
        raise _refusal(model_dir, f"it multiplies rows of {widest} numbers, and {MAX_WIDTH} are the most")
    limit = _size(config, "max_position_embeddings")
    frequencies, factor = rotary(config, head_dim, limit, model_dir)
    eps = float(config["rms_norm_eps"])
    if not (0 <= eps < math.inf):
        raise ValueError(f"rms_norm_eps, which is {eps}")
    bias = bool(config.get("attention_bias", False))
    return Family(
        name=family,
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=eps,
        inverse_frequencies=frequencies,
        rope_factor=factor,
        context_limit=limit,
        windows=_windows(config, family, layers, limit),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias or family == "qwen2",
        output_bias=bias and family in ("llama", "qwen3"),
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        head_norms=family == "qwen3",
    )


def _size(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A number of something, at least 1; `default` where there is none."""
    value = config[name] if default is None else config.get(name) or default
    try:
        size = int(value)
    except (TypeError, ValueError, OverflowError):
        size = 0
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"{name}, which is {value!r}")
    return size


def _windows(config: dict[str, Any], family: str, layers: int, limit: int) -> tuple[int, ...]:
    window = int(config.get("sliding_window") or 0)
    if window < 0:
        raise ValueError(f"sliding_window, which is {window}")
    is_used = family == "mistral" or (family != "llama" and config.get("use_sliding_window", False))
    if not is_used or window >= limit:  # every row sees all
        window = 0
    types = config.get("layer_types")
    if types is not None:
        if (
            not isinstance(types, list)
            or len(types) != layers
            or any(kind not in _LAYER_TYPES for kind in types)
        ):
            raise ValueError(f"layer_types: it wants {layers} of {' or '.join(_LAYER_TYPES)}")
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)
    first = 0 if family == "mistral" else int(config.get("max_window_layers", layers))
    return tuple(window if layer >= first else 0 for layer in range(layers))


def rotary(config: dict[str, Any], dim: int, limit: int, model_dir: Path) -> tuple[Floats, float]:
    """Inverse frequencies (dim / 2,) and the factor of cosines and sines.

    Raises:
        ModelError: a scaling that depends on the running length, or one that is not known.
        ValueError: numbers that give no frequencies.
    """
    with np.errstate(all="ignore"):
        frequencies, factor = _scaled_rotary(config, dim, limit, model_dir)
    if not (np.isfinite(frequencies).all() and (frequencies > 0).all() and 0 < factor < math.inf):
        raise ValueError("rotary embedding: its numbers give no frequencies")
    return frequencies, factor


def _scaled_rotary(config: dict[str, Any], dim: int, limit: int, model_dir: Path) -> tuple[Floats, float]:
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise _refusal(model_dir, "its layers differ in their rotary embedding")
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    if float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise _refusal(model_dir, "it rotates a part of each head only")
    plain = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / float(rope["factor"]), 1.0
    if kind == "llama3":
        return _llama3(plain, rope), 1.0
    if kind == "yarn":
        return _yarn(plain, rope, theta, dim, limit)
    raise _refusal(model_dir, f"its rotary scaling is {kind!r}, which depends on the running length")


def _llama3(plain: Floats, rope: dict[str, Any]) -> Floats:
    """Llama 3.1: low frequencies divided by the factor, a smooth passage between (its published code)."""
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(rope["original_max_position_embeddings"])
    wavelength = 2 * math.pi / plain
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * plain / factor + smooth * plain


def _yarn(plain: Floats, rope: dict[str, Any], theta: float, dim: int, limit: int) -> tuple[Floats, float]:
    """YaRN (arXiv 2309.00071), Sec. 3.2 and 3.4; field names and defaults as in Hugging Face configs."""
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


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _refusal(model_dir: Path, reason: str) -> ModelError:
    return ModelError(f"the native runtime cannot serve {model_dir}: {reason}; use --runtime torch.")
