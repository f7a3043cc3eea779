"""EAGLE heads on disk: the EAGLE-1/2 checkpoint layout, read and written strictly.

Layout (that of the authors' released heads): `config.json`, a Llama config, and `model.safetensors` (or a
`pytorch_model.bin`) with names that carry no prefix:

    fc.weight [h, 2h]   fc.bias [h]                     input: embedding first, feature second
    layers.0.self_attn.{q,k,v,o}_proj.weight            (+ .bias of q, k, v with "qkv_bias")
    layers.0.mlp.{gate,up,down}_proj.weight
    layers.0.post_attention_layernorm.weight [h]        there is no input_layernorm in layer 0
    embed_tokens.weight [V, h]                          may be there; the target's is used

Extensions of eyas: `d2t` [M] int64 offsets (target id = row + d2t[row], EAGLE-3's convention) with
`draft_vocab_size`; `layers.1.*` with `input_layernorm`; in config.json `target_fingerprint`,
`coupled_scale`, `acceptance_map` and `provenance`. Any other name is an error: a misspelt weight must not
stay random.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.acceptance import AcceptanceMap
from eyas.config import StackConfig
from eyas.errors import CheckpointError, DataError
from eyas.models.gguf_convert import to_bfloat16
from eyas.models.weights import read_header, read_json, read_tensor, write_safetensors

Arrays = dict[str, NDArray[Any]]
DEFAULT_COUPLED_SCALE = (1.0,)
MAX_LAYERS = 8
EXTENSIONS = ("draft_vocab_size", "coupled_scale", "acceptance_map", "target_fingerprint", "provenance")
ACCEPTANCE_MODES = ("greedy", "coupled", "top-k")


@dataclass(frozen=True)
class EagleCheckpoint:
    """A head as it lies on disk.

    Attributes:
        stack: sizes of its decoder layers.
        weights: float32 arrays by their names in the file, without `embed_tokens` and `d2t`.
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole one.
        fingerprint: of the target that it was trained for; None for published heads.
        coupled_scale: per depth, the scale of coupled confidences (docs/algorithm.md, section 4).
        acceptance: maps confidences to acceptance rates (section 6), by how children are chosen: "greedy",
            "coupled" or "top-k" (temperature > 0, without the sampler's noise).
        config: the whole config.json.
    """

    stack: StackConfig
    weights: Arrays
    draft_ids: NDArray[np.int64] | None
    fingerprint: str | None
    coupled_scale: tuple[float, ...]
    acceptance: dict[str, AcceptanceMap]
    config: dict[str, Any]


def read_eagle_checkpoint(directory: Path) -> EagleCheckpoint:
    """Read a head.

    Raises:
        CheckpointError: files that are missing, truncated or corrupt; a name that is unknown or missing; a
            wrong shape; a pickle that holds more than tensors.
    """
    config = read_json(directory / "config.json", CheckpointError)
    arrays, source = _read_arrays(directory)
    arrays.pop("embed_tokens.weight", None)
    draft_ids = _draft_ids(arrays.pop("d2t", None), config, source)
    has_bias = "fc.bias" in arrays  # the weights decide, not the config: both spellings are in use
    stack = stack_config(config, directory)
    _check_names(arrays, expected_shapes(stack, has_bias), source)
    scale = tuple(float(value) for value in config.get("coupled_scale", DEFAULT_COUPLED_SCALE))
    if not scale or min(scale) <= 0:
        raise CheckpointError(
            f"{directory}/config.json has coupled_scale {scale}; it wants positive numbers."
        )
    return EagleCheckpoint(
        stack=stack,
        weights=arrays,
        draft_ids=draft_ids,
        fingerprint=config.get("target_fingerprint"),
        coupled_scale=scale,
        acceptance=_acceptance(config.get("acceptance_map", {}), directory),
        config=config,
    )


def read_head_fingerprint(directory: Path) -> str | None:
    """The fingerprint of a head's target, from its config.json alone."""
    fingerprint = read_json(directory / "config.json", CheckpointError).get("target_fingerprint")
    return None if fingerprint is None else str(fingerprint)


def write_eagle_checkpoint(
    directory: Path, weights: Arrays, config: dict[str, Any], draft_ids: NDArray[np.int64] | None
) -> None:
    """Write a head in bfloat16 into an existing directory.

    Args:
        weights: float32 arrays by the names of the layout.
        config: config.json; `draft_vocab_size` is added.
        draft_ids: (M,) ascending target ids, or None.

    Raises:
        CheckpointError: names or shapes that `read_eagle_checkpoint` would refuse.
    """
    document = dict(config)
    stack = stack_config(document, directory)
    _check_names(weights, expected_shapes(stack, "fc.bias" in weights), directory)
    tensors: Arrays = {name: to_bfloat16(array) for name, array in weights.items()}
    if draft_ids is not None:
        document["draft_vocab_size"] = len(draft_ids)
        tensors["d2t"] = draft_ids.astype("<i8") - np.arange(len(draft_ids))
    write_safetensors(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def export_plain(source: Path, target: Path) -> None:
    """Write a one-layer head without eyas's extensions: the authors' code loads it.

    The draft vocabulary only selects rows of the target's LM head, so nothing is lost but speed.

    Raises:
        CheckpointError: a head of several layers, or a target folder that exists.
    """
    checkpoint = read_eagle_checkpoint(source)
    if checkpoint.stack.num_layers != 1:
        raise CheckpointError(
            f"{source} has {checkpoint.stack.num_layers} layers; the plain layout holds 1, so train one with "
            "`eyas train head --layers 1`."
        )
    if target.exists():
        raise CheckpointError(f"{target} exists already; name a new folder.")
    target.mkdir(parents=True)
    config = {key: value for key, value in checkpoint.config.items() if key not in EXTENSIONS}
    write_eagle_checkpoint(target, checkpoint.weights, config, None)


def stack_config(config: dict[str, Any], directory: Path) -> StackConfig:
    """The decoder layers that a head's config.json describes.

    Raises:
        CheckpointError: a size is missing or impossible, or a rotary scaling that heads do not have.
    """
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        layers, inter = int(config.get("num_hidden_layers", 1)), int(config["intermediate_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    if not (1 <= layers <= MAX_LAYERS and heads >= 1 and hidden % heads == 0):
        raise CheckpointError(
            f"{directory}/config.json has {layers} layers, hidden size {hidden} and {heads} heads; layers "
            f"lie in 1..{MAX_LAYERS} and heads divide the hidden size."
        )
    if config.get("rope_scaling") is not None:
        raise CheckpointError(f"{directory}/config.json has rope_scaling, which heads never have.")
    return StackConfig(
        hidden_size=hidden,
        intermediate_size=inter,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=hidden // heads,
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=float(config.get("rope_theta", 10000.0)),  # never the target's
        qkv_bias=bool(config.get("qkv_bias", False)),
        first_input_norm=False,
        final_norm=False,
    )


def expected_shapes(stack: StackConfig, fc_bias: bool) -> dict[str, tuple[int, ...]]:
    """Every weight that a head of these sizes has, without `d2t`."""
    hidden, inter = stack.hidden_size, stack.intermediate_size
    query, key = stack.num_heads * stack.head_dim, stack.num_kv_heads * stack.head_dim
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (hidden, 2 * hidden)}
    if fc_bias:
        shapes["fc.bias"] = (hidden,)
    for layer in range(stack.num_layers):
        name = f"layers.{layer}."
        shapes |= {
            f"{name}self_attn.q_proj.weight": (query, hidden),
            f"{name}self_attn.k_proj.weight": (key, hidden),
            f"{name}self_attn.v_proj.weight": (key, hidden),
            f"{name}self_attn.o_proj.weight": (hidden, query),
            f"{name}mlp.gate_proj.weight": (inter, hidden),
            f"{name}mlp.up_proj.weight": (inter, hidden),
            f"{name}mlp.down_proj.weight": (hidden, inter),
            f"{name}post_attention_layernorm.weight": (hidden,),
        }
        if layer:
            shapes[f"{name}input_layernorm.weight"] = (hidden,)
        if stack.qkv_bias:
            shapes |= {f"{name}self_attn.{x}_proj.bias": (query if x == "q" else key,) for x in "qkv"}
    return shapes


def _read_arrays(directory: Path) -> tuple[Arrays, Path]:
    path = directory / "model.safetensors"
    if path.is_file():
        header = read_header(path, CheckpointError)
        return {name: _as_weight(read_tensor(path, entry)) for name, entry in header.items()}, path
    path = directory / "pytorch_model.bin"
    if not path.is_file():
        raise CheckpointError(f"{directory} has neither model.safetensors nor pytorch_model.bin.")
    return _read_pickle(path), path


def _read_pickle(path: Path) -> Arrays:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a torch file; reading it needs torch: pip install 'eyas[torch]'."
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {
            name: tensor.numpy() if tensor.dtype == torch.int64 else tensor.float().numpy()
            for name, tensor in tensors.items()
        }
    except Exception as error:  # unpickling raises nearly anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} holds more than tensors, or is broken ({reason[:120]}).") from error


def _as_weight(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype == np.int64 else array.astype(np.float32)


def _draft_ids(
    offsets: NDArray[Any] | None, config: dict[str, Any], source: Path
) -> NDArray[np.int64] | None:
    size = config.get("draft_vocab_size")
    if offsets is None:
        if size is not None:
            raise CheckpointError(f"{source} lacks d2t, although draft_vocab_size is {size}.")
        return None
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) != size:
        raise CheckpointError(
            f"{source}: d2t has shape {list(offsets.shape)} of {offsets.dtype}, but draft_vocab_size {size} "
            "wants that many int64 offsets."
        )
    ids: NDArray[np.int64] = offsets + np.arange(len(offsets))
    if len(ids) == 0 or ids[0] < 0 or bool(np.any(np.diff(ids) <= 0)):
        raise CheckpointError(f"{source}: the ids that d2t gives are not ascending; the file is broken.")
    return ids


def _acceptance(document: Any, directory: Path) -> dict[str, AcceptanceMap]:
    """By mode {"confidence": [..], "rate_by_depth": [[..], ..]}."""
    try:
        unknown = sorted(document.keys() - set(ACCEPTANCE_MODES))
        if unknown:
            raise DataError(f"unknown mode {unknown[0]!r}; it knows {', '.join(ACCEPTANCE_MODES)}.")
        return {
            mode: AcceptanceMap(
                confidence=tuple(map(float, entry["confidence"])),
                rate_by_depth=tuple(tuple(map(float, rates)) for rates in entry["rate_by_depth"]),
            )
            for mode, entry in document.items()
        }
    except (AttributeError, DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}/config.json has an unusable acceptance_map: {error}") from error


def _check_names(arrays: Arrays, shapes: dict[str, tuple[int, ...]], source: Path) -> None:
    unknown, missing = sorted(arrays.keys() - shapes.keys()), sorted(shapes.keys() - arrays.keys())
    if unknown:
        hint = f" (and {missing[0]} is missing)" if missing else ""
        raise CheckpointError(f"{source} holds {unknown[0]}, which no such head has{hint}.")
    if missing:
        raise CheckpointError(f"{source} lacks {missing[0]}, which its config.json asks for.")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(arrays[name].shape)}, but config.json wants {list(shape)}."
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{source}: {name} holds numbers that are not finite.")
