"""What a stock model's config says: limits, windows, logit transforms, and why a family is refused."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from eyas.errors import ModelError
from eyas.runtimes.torch.masks import MaskPlan

FULL, SLIDING = "full_attention", "sliding_attention"
# Rotary scalings whose angles depend on the running length: two lengths, two models.
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def refusal(family: str, name: str, reason: str) -> ModelError:
    """The error for a model that cannot be a target."""
    return ModelError(
        f"{name} (family {family!r}) cannot be the target: {reason}; use a decoder-only model with rotary or "
        "learned absolute positions, such as Llama, Qwen, Gemma or Mistral."
    )


def unusable(config: Any) -> str | None:
    """Why no model with this config can attend to a tree; None if nothing is known against it."""
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder, and eyas serves decoder-only models"
    attention = getattr(text, "attn_config", None)
    if text.model_type == "bloom" or _flag(text, "alibi") or _flag(attention, "alibi"):
        return "its positions are ALiBi biases by slot, not by position in the tree"
    if "local" in (getattr(text, "attention_layers", None) or ()):
        return "it has local attention layers that build their own masks"
    unknown = sorted(set(layer_types(text)) - {FULL, SLIDING})
    if unknown:
        return f"it has layers of type {', '.join(unknown)}, recurrent or with a mask that eyas does not know"
    return None


def _flag(config: Any, key: str) -> bool:
    value = config.get(key) if isinstance(config, dict) else getattr(config, key, False)
    return bool(value)


def layer_types(text: Any) -> tuple[str, ...]:
    """The kinds of attention of a text config's layers, as far as it names them."""
    types = getattr(text, "layer_types", None)
    if types:
        return tuple(types)
    return (FULL,) if getattr(text, "sliding_window", None) is None else (SLIDING,)


def mask_plan(text: Any) -> MaskPlan:
    """One mask per kind of layer; a single one if all layers are alike."""
    window = getattr(text, "sliding_window", None)
    return MaskPlan({kind: window if kind == SLIDING else None for kind in sorted(set(layer_types(text)))})


def context_limit(text: Any) -> tuple[int, str] | None:
    """Positions that the model can serve exactly, and what sets the limit; None if it states none."""
    limit = int(getattr(text, "max_position_embeddings", None) or 0)
    limits = [(limit, "its max_position_embeddings")] if limit else []
    parameters = getattr(text, "rope_parameters", None) or {}
    # Some models have one set of parameters per layer type.
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in nested or [parameters]:
        kind, short = str(rope.get("rope_type", "default")), rope.get("short_factor")
        if short is not None and short == rope.get("long_factor"):
            continue  # factors that hold at any length, as GGUF files have Llama 3's
        if any(word in kind for word in _LENGTH_DEPENDENT):
            original = rope.get("original_max_position_embeddings") or limit
            reason = f"its {kind} rotary scaling changes every position beyond that length"
            limits.append((int(original), reason))
    # At equal limits the scaling is the better explanation.
    return min(reversed(limits), key=lambda entry: entry[0], default=None)


def logit_transform(text: Any) -> Callable[[Tensor], Tensor]:
    """The function from the LM head's output to logits: scales and soft-caps, by their names in configs."""
    multiply = getattr(text, "logit_scale", None)  # Cohere
    divide = getattr(text, "logits_scaling", None)  # Granite
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma

    def transform(logits: Tensor) -> Tensor:
        if multiply is not None:
            logits = logits * multiply
        if divide is not None:
            logits = logits / divide
        if cap is not None:
            logits = (logits / cap).tanh() * cap
        return logits

    return transform
