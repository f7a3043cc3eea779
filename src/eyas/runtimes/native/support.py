"""What the native engine computes: every other model is refused by name, before anything is loaded."""

from pathlib import Path

from eyas.errors import ModelError
from eyas.models.families import read_spec
from eyas.models.spec import LayerSpec, ModelSpec

MAX_HEAD_DIM = 256
MAX_WIDTH = 59_999  # inputs of a matrix


def unsupported(model_dir: Path) -> str | None:
    """Why this runtime cannot serve the model in `model_dir`; None if it can.

    Raises:
        ModelError: no readable config.json.
    """
    try:
        supported_spec(model_dir)
    except ModelError as error:
        if not (model_dir / "config.json").is_file():
            raise
        return str(error)
    return None


def supported_spec(model_dir: Path) -> ModelSpec:
    """The description of the model in `model_dir`.

    Raises:
        ModelError: a family or an operation that this runtime does not know.
    """
    spec = read_spec(model_dir)
    reason = _missing(spec)
    if reason:
        raise ModelError(f"the native runtime cannot serve {model_dir}: {reason}; use --runtime torch.")
    return spec


def _missing(spec: ModelSpec) -> str | None:
    """The first thing in a model that the engine does not compute; None if it computes all of it."""
    for layer in dict.fromkeys(spec.layers):
        reason = _missing_in_layer(layer, spec)
        if reason:
            return reason
    return None


def _missing_in_layer(layer: LayerSpec, spec: ModelSpec) -> str | None:
    attention = layer.attention
    heads, kv_heads, dim = attention.heads, attention.kv_heads, attention.head_dim
    if dim % 2 or dim > MAX_HEAD_DIM or heads % kv_heads:
        return f"{heads} heads of {dim} over {kv_heads} kv heads do not fit the kernels"
    widest = max(spec.hidden_size, spec.stack.mlp_size, attention.query_size)
    if widest > MAX_WIDTH:
        return f"it multiplies vectors of {widest} numbers, and {MAX_WIDTH} are the most"
    return _missing_operation(layer, spec)


def _missing_operation(layer: LayerSpec, spec: ModelSpec) -> str | None:
    attention, mlp, first = layer.attention, layer.mlp, spec.layers[0].attention
    rope = attention.rope
    lacks = {
        f"its activation is {getattr(mlp, 'activation', 'that of experts')!r}, not 'silu'": (
            getattr(mlp, "activation", None) != "silu"
        ),
        "it rotates a part of each head only": rope is None or rope.dim != attention.head_dim,
        "its layers differ in their rotary embedding": rope != first.rope,
        "its layers norm other than their blocks' inputs": layer.norms.where != "pre",
        "its attention scores are scaled or soft-capped": attention.scale is not None
        or attention.softcap > 0,
        "it norms queries and keys over all heads": attention.query_key_norm == "width",
        "it scales its residual stream": layer.residual_multiplier != 1.0,
        "it scales its embedding": spec.embedding.scale != 1.0,
        "it scales or soft-caps its logits": spec.head.scale != 1.0 or spec.head.softcap > 0,
    }
    return next((reason for reason, is_so in lacks.items() if is_so), None)
