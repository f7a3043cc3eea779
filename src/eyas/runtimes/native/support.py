"""What the native engine computes: every other model is refused by name, before anything is loaded."""

from pathlib import Path

from eyas.errors import ModelError
from eyas.models.families import read_family, read_spec
from eyas.models.sources import is_gguf
from eyas.models.spec import LayerSpec, ModelSpec, MoE

MAX_HEAD_DIM = 256
MAX_WIDTH = 59_999  # inputs of a matrix


def unsupported(model: Path) -> str | None:
    """Why this runtime cannot serve a model; None if it can.

    Raises:
        ModelError: no readable config.json, or a GGUF file that no runtime can read.
    """
    if is_gguf(model):
        read_family(model)  # the torch runtime needs it too
    try:
        supported_spec(model)
    except ModelError as error:
        if not is_gguf(model) and not (model / "config.json").is_file():
            raise
        return str(error)
    return None


def supported_spec(model: Path) -> ModelSpec:
    """The description of a model.

    Raises:
        ModelError: a family or an operation that this runtime does not know.
    """
    spec = read_spec(model)
    reason = missing(spec)
    if reason:
        raise ModelError(f"the native runtime cannot serve {model}: {reason}; use --runtime torch.")
    return spec


def missing(spec: ModelSpec) -> str | None:
    """The first thing in a model that the engine does not compute; None if it computes all of it."""
    reasons = (_missing_in_layer(layer, spec) for layer in dict.fromkeys(spec.layers))
    return next((reason for reason in reasons if reason), None)


def _missing_in_layer(layer: LayerSpec, spec: ModelSpec) -> str | None:
    attention, first = layer.attention, spec.layers[0].attention
    heads, kv_heads, dim = attention.heads, attention.kv_heads, attention.head_dim
    if (heads, kv_heads, dim) != (first.heads, first.kv_heads, first.head_dim):
        return "its layers differ in their attention heads"
    if dim % 2 or dim > MAX_HEAD_DIM or heads % kv_heads:
        return f"{heads} heads of {dim} over {kv_heads} kv heads do not fit the kernels"
    inner = layer.mlp.expert.size if isinstance(layer.mlp, MoE) else layer.mlp.size
    widest = max(spec.hidden_size, inner, attention.query_size)
    if widest > MAX_WIDTH:
        return f"it multiplies vectors of {widest} numbers, and {MAX_WIDTH} are the most"
    return None
