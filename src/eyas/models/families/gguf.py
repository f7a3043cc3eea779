"""GGUF metadata as the config.json that they amount to, by the table of a family.

What most architectures share is translated here: sizes, rotary scalings, special tokens, a tied LM head. What
a family has of its own it adds with a function (`GGUFNames.special`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eyas.models.families.common import Unsupported
from eyas.models.sources import GGUFSource
from eyas.models.tensors import TensorNames

_SPECIAL_TOKENS = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}


class GGUFMetadata(dict[str, Any]):
    """The metadata of a file's architecture, by their keys behind its name: `metadata["block_count"]`.

    Attributes:
        source: the whole file, for other metadata and for tensors that stand for something in the config.
    """

    def __init__(self, source: GGUFSource) -> None:
        self.source = source
        start = f"{source.architecture}."
        keys = [key for key in source.fields if key.startswith(start)]
        super().__init__({key.removeprefix(start): _short(source.fields[key]) for key in keys})

    def __missing__(self, key: str) -> Any:
        raise KeyError(f"{self.source.architecture}.{key}")


@dataclass(frozen=True, kw_only=True)
class GGUFNames:
    """How GGUF files hold a family.

    Attributes:
        architecture: their `general.architecture`.
        tensors: names of their tensors.
        metadata: keys of config.json to metadata keys behind `architecture` and a dot.
        config: entries of config.json that every such file implies.
        optional: keys of `metadata` that a file may lack, since a config may.
        special: further entries of config.json, from what only this family has; they win over the others.
            Raises `Unsupported` for what the family's file does not know.
    """

    architecture: str
    tensors: TensorNames
    metadata: Mapping[str, str]
    config: Mapping[str, Any]
    optional: tuple[str, ...] = ("num_key_value_heads", "head_dim", "rope_theta")
    special: Callable[[GGUFMetadata], Mapping[str, Any]] | None = None


def gguf_config(source: GGUFSource, model_type: str, names: GGUFNames) -> dict[str, Any]:
    """The config.json that a file's metadata amount to.

    Args:
        source: the file.
        model_type: the family's name.
        names: how files hold the family.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: metadata that are missing or impossible, by key.
        Unsupported: something that the family's file does not know.
    """
    metadata = GGUFMetadata(source)
    config: dict[str, Any] = {"model_type": model_type, **names.config}
    for entry, key in names.metadata.items():
        if entry not in names.optional or key in metadata:
            config[entry] = _number(key, metadata[key])
    config.setdefault("rope_theta", 10000.0)
    heads = max(1, config["num_attention_heads"])  # 0 is refused by name when the config is described
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // heads
    config |= _rotary(metadata, config["head_dim"])
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
    return config | dict(names.special(metadata) if names.special else {})


def _short(value: Any) -> Any:
    """GGUF stores float32: the short decimal that was meant."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _number(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key}, which is {str(value)[:40]!r}")
    return value


def _rotary(metadata: GGUFMetadata, head_dim: int) -> dict[str, Any]:
    """Entries of config.json for a rotary embedding that is partial or scaled."""
    entries: dict[str, Any] = {}
    rotated = int(metadata.get("rope.dimension_count", head_dim))
    if rotated != head_dim:
        entries["partial_rotary_factor"] = rotated / head_dim
    kind = metadata.get("rope.scaling.type", "none")
    if kind == "linear":
        entries["rope_scaling"] = {"rope_type": "linear", "factor": metadata["rope.scaling.factor"]}
    elif kind == "yarn":
        entries["rope_scaling"] = _yarn(metadata)
    elif kind != "none":
        raise Unsupported(f"its rotary scaling is {kind!r}; known are linear and yarn")
    return entries


def _yarn(metadata: GGUFMetadata) -> dict[str, Any]:
    factor = float(metadata["rope.scaling.factor"])
    unknown = ("rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier")
    if any(metadata.get(key, neutral) != neutral for key, neutral in zip(unknown, (1.0, 0.0), strict=True)):
        raise Unsupported("its rotary scaling 'yarn' has factors of its own for attention")
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata["rope.scaling.original_context_length"],
    }
    betas = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}
    return scaling | {name: metadata[key] for name, key in betas.items() if key in metadata}
