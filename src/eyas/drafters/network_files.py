"""What the files of all draft networks have in common: arrays by name, read strictly and written small.

`config.json` lies beside `model.safetensors`, or a pickle that holds nothing but tensors. Any name that a
network does not have is an error: a misspelt weight must not stay random. Extensions of eyas:

    d2t [M] int64       the draft vocabulary: target id = row + d2t[row] (EAGLE-3's convention); config.json
                        says M as `draft_vocab_size`
    NAME [n, k] int8    with NAME.scale [n] float32: rows as integers in -127..127 times their scale
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyas.errors import CheckpointError
from eyas.models.families.common import DRAFT
from eyas.models.gguf_convert import to_bfloat16
from eyas.models.spec import GatedMLP, StackSpec, llama_stack
from eyas.models.tensors import stack_shapes as shapes_of
from eyas.models.weights import read_header, read_json, read_tensor, write_safetensors

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
StoredPrecision = Literal["bfloat16", "int8"]

MAX_LAYERS = 8
SCALE = ".scale"


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a network.

    Raises:
        CheckpointError: there is none, or it is no JSON object.
    """
    return read_json(directory / "config.json", CheckpointError)


def read_head_fingerprint(directory: Path) -> str | None:
    """The fingerprint of a network's target, from its config.json alone."""
    fingerprint = read_config(directory).get("target_fingerprint")
    return None if fingerprint is None else str(fingerprint)


def read_arrays(directory: Path, names: Sequence[str]) -> tuple[Arrays, Path]:
    """Arrays of the first file among `names` that is there: float32, or int64; int8 rows times their scales.

    Raises:
        CheckpointError: there is none; truncated or corrupt; a pickle that holds more than tensors.
    """
    for path in (directory / name for name in names):
        if path.is_file():
            arrays = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
            return _unpacked(arrays, path), path
    raise CheckpointError(f"{directory} has neither {' nor '.join(names)}.")


def take_draft_ids(arrays: Arrays, config: Mapping[str, Any], source: Path) -> NDArray[np.int64] | None:
    """(M,) ascending target ids from `d2t`, which leaves `arrays`; None for the whole vocabulary.

    Raises:
        CheckpointError: config.json and d2t disagree, or the ids do not ascend.
    """
    offsets, size = arrays.pop("d2t", None), config.get("draft_vocab_size")
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


def check_one_head(own: NDArray[Any] | None, draft_ids: NDArray[np.int64] | None, source: Path) -> None:
    """Refuse networks with LM heads of their own and a draft vocabulary of the target's.

    Raises:
        CheckpointError: both are there.
    """
    if own is not None and draft_ids is not None:
        raise CheckpointError(f"{source} has LM heads of its own and a d2t; one of the two is wrong.")


def check_names(arrays: Mapping[str, NDArray[Any]], shapes: Shapes, source: Path) -> None:
    """Refuse arrays that are not exactly those of `shapes`, or not finite.

    Raises:
        CheckpointError: names the first that is unknown, missing, of another shape or not finite.
    """
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


def write_network(
    directory: Path,
    weights: Arrays,
    config: Mapping[str, Any],
    draft_ids: NDArray[np.int64] | None,
    precision: StoredPrecision = "bfloat16",
) -> None:
    """Write `model.safetensors` and `config.json` into an existing directory.

    Args:
        directory: the network's.
        weights: float32 arrays, checked by the caller.
        config: config.json; `draft_vocab_size` is added.
        draft_ids: (M,) ascending target ids, or None.
        precision: of matrices; "int8" halves the file. Norms and biases are always bfloat16.
    """
    document, tensors = dict(config), Arrays()
    for name, array in weights.items():
        if precision == "int8" and array.ndim == 2:
            tensors[name], tensors[name + SCALE] = _to_int8(array)
        else:
            tensors[name] = to_bfloat16(array)
    if draft_ids is not None:
        document["draft_vocab_size"] = len(draft_ids)
        tensors["d2t"] = draft_ids.astype("<i8") - np.arange(len(draft_ids))
    write_safetensors(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def stack_config(
    config: Mapping[str, Any], directory: Path, *, first_input_norm: bool = True, final_norm: bool = True
) -> StackSpec:
    """The decoder layers that a network's config.json describes.

    Raises:
        CheckpointError: a size is missing or impossible, or a rotary scaling that heads do not have.
    """
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        layers, inter = int(config.get("num_hidden_layers", 1)), int(config["intermediate_size"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        eps, theta = float(config.get("rms_norm_eps", 1e-6)), float(config.get("rope_theta", 10000.0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{directory}/config.json lacks a usable {error}.") from error
    if not (1 <= layers <= MAX_LAYERS and heads >= 1 and hidden % heads == 0 and hidden // heads % 2 == 0):
        raise CheckpointError(
            f"{directory}/config.json has {layers} layers, hidden size {hidden} and {heads} heads; layers "
            f"lie in 1..{MAX_LAYERS}, and heads divide the hidden size into even parts."
        )
    if not (kv_heads >= 1 and heads % kv_heads == 0 and 0 <= eps < math.inf and 0 < theta < math.inf):
        raise CheckpointError(
            f"{directory}/config.json has {kv_heads} kv heads for {heads} heads, rms_norm_eps {eps} and "
            f"rope_theta {theta}; one of them is impossible."
        )
    if config.get("rope_scaling") is not None:
        raise CheckpointError(f"{directory}/config.json has rope_scaling, which heads never have.")
    return llama_stack(
        hidden_size=hidden,
        intermediate_size=inter,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        rms_norm_eps=eps,
        rope_theta=theta,  # never the target's
        qkv_bias=bool(config.get("qkv_bias", False)),
        first_input_norm=first_input_norm,
        final_norm=final_norm,
    )


def stack_document(stack: StackSpec) -> dict[str, Any]:
    """The same sizes as entries of a Llama's config.json."""
    layer = stack.layers[0]
    assert isinstance(layer.mlp, GatedMLP), "draft layers have one MLP"
    assert layer.attention.rope is not None, "draft layers rotate their heads"
    return {
        "hidden_size": stack.hidden_size,
        "intermediate_size": layer.mlp.size,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": layer.attention.heads,
        "num_key_value_heads": layer.attention.kv_heads,
        "hidden_act": layer.mlp.activation,
        "rms_norm_eps": layer.norms.eps,
        "rope_theta": layer.attention.rope.theta,
        "rope_scaling": None,
    }


def stack_shapes(stack: StackSpec, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Every weight of a stack of decoder layers, its name behind `prefix`."""
    return {prefix + name: shape for name, shape in DRAFT.shapes(shapes_of(stack)).items()}


def _read_safetensors(path: Path) -> Arrays:
    header = read_header(path, CheckpointError)
    return {name: read_tensor(path, entry) for name, entry in header.items()}


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


def _unpacked(arrays: Arrays, source: Path) -> Arrays:
    """int8 rows times their scales; everything else but int64 as float32."""
    found = Arrays()
    for name, array in arrays.items():
        scale = arrays.get(name + SCALE)
        if array.dtype == np.int8:
            if scale is None or array.ndim != 2 or scale.shape != array.shape[:1]:
                raise CheckpointError(f"{source}: {name} is int8, but {name}{SCALE} has no number per row.")
            found[name] = array * scale.astype(np.float32)[:, None]
        elif not (name.endswith(SCALE) and arrays.get(name.removesuffix(SCALE), array).dtype == np.int8):
            found[name] = array if array.dtype == np.int64 else array.astype(np.float32)
    return found


def _to_int8(matrix: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(n, k) rounded to integers times (n,) scales; a row's largest weight becomes 127."""
    scale = np.abs(matrix).max(axis=1).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale
