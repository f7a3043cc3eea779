"""Loads a Hugging Face directory on the native engine, or says in one line why it cannot."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.interfaces import TargetInfo
from eyas.errors import ConfigError
from eyas.models import Progress, base_fingerprint, silent, target_fingerprint
from eyas.models.families import open_tensors
from eyas.models.formats import formats_of, stored_array
from eyas.models.machine import memory_bytes, usable_cores
from eyas.models.mixes import DRAFT_FORMATS, MIXES
from eyas.models.quantised import QuantisedTensors
from eyas.models.sources import is_gguf
from eyas.models.spec import ModelSpec
from eyas.models.tensors import ModelTensors
from eyas.runtimes.native.layers import cache_type, fused_cache_type, make_stack
from eyas.runtimes.native.matrices import (
    FILE_FORMATS,
    as_native,
    has_bias,
    layer_matrix,
    widen,
)
from eyas.runtimes.native.packing import HEAD, OWN, PackedWeights
from eyas.runtimes.native.runtime import NativeRuntime
from eyas.runtimes.native.support import supported_spec

DTYPES = formats_of("native")
_LOGGER = logging.getLogger("eyas.runtimes")
KV_DTYPES = ("float32", "bfloat16", "q8_0")


def load(
    model: Path,
    *,
    dtype: str,
    draft_dtype: str,
    kv_dtype: str,
    threads: int | None,
    name: str,
    progress: Progress = silent,
) -> NativeRuntime:
    """See `eyas.runtimes.native.load_native_runtime`."""
    engine = _native.Engine(_threads(threads), _isa())
    numbers = "float32" if engine.isa == "portable" else "bfloat16"
    kind = _dtype("dtype", dtype, OWN if is_gguf(model) else numbers, (*DTYPES, *MIXES))
    draft_kind = _dtype("draft_dtype", draft_dtype, "int8", (*DTYPES, *DRAFT_FORMATS))
    if kv_dtype not in ("auto", *KV_DTYPES):
        raise ConfigError(f"kv_dtype is {kv_dtype!r}; it is auto, {', '.join(KV_DTYPES)}.")
    spec = supported_spec(model)
    tensors = open_tensors(model, spec)
    if kind in MIXES:
        tensors = QuantisedTensors(tensors, kind, engine.threads)
    fingerprint = target_fingerprint(model)
    packed = PackedWeights(tensors, kind, progress)
    _warn_if_large(name, packed.num_bytes)
    keys = cache_type(kind, kv_dtype)
    stack = _stack(engine, spec, tensors, packed, keys if kind in DTYPES else fused_cache_type(keys))
    head = _native.LMHead(engine, [packed.matrix(HEAD)], spec.head.scale, spec.head.softcap)
    network = _native.Target(stack, head, *_embedding(packed, kind, spec.embedding.scale))
    return NativeRuntime(
        engine,
        network=network,
        head=head,
        logits=spec.head,
        stack=stack,
        packed=packed,
        draft_dtype=DRAFT_FORMATS.get(draft_kind, draft_kind),
        info=TargetInfo(
            name=name,
            family=spec.family,
            runtime="native",
            dtype=packed.main_format if kind == OWN else kind,
            kv_dtype=keys,
            hidden_size=spec.hidden_size,
            vocab_size=spec.vocab_size,
            num_layers=spec.stack.num_layers,
            context_limit=spec.context_limit,
            context_reason=spec.context_reason,
            threads=engine.threads,
            fingerprint=fingerprint,
            base_fingerprint=base_fingerprint(model),
        ),
    )


def _warn_if_large(name: str, num_bytes: int) -> None:
    """Say so where the weights do not fit into memory: they are mapped, so it works, slowly."""
    memory = memory_bytes()
    if memory is not None and num_bytes > memory:
        _LOGGER.warning(
            "eyas: %s has %.1f GB of weights and there are %.1f GB of memory: every pass reads the rest from "
            "the disk",
            name,
            num_bytes / 1e9,
            memory / 1e9,
        )


def _stack(
    engine: _native.Engine, spec: ModelSpec, tensors: ModelTensors, packed: PackedWeights, kv_dtype: str
) -> _native.Stack:
    def vector(layer: int, name: str) -> NDArray[np.float32]:
        return tensors.floats(f"layers.{layer}.{name}.weight")

    def bias(layer: int, name: str) -> NDArray[np.float32]:
        return widen(layer_matrix(lambda part: tensors.floats(f"layers.{layer}.{part}"), name, "bias"))

    def matrices(layer: int, matrix: str) -> list[_native.Matrix]:
        biased = has_bias(spec.layers[layer], matrix)
        return [
            packed.matrix(f"layers.{layer}.{name}", bias(layer, name) if biased else None)
            for name in packed.parts(layer, matrix)
        ]

    return make_stack(engine, spec.stack, vector, matrices, tensors.floats("final_norm.weight"), kv_dtype)


def _embedding(
    packed: PackedWeights, kind: str, scale: float
) -> tuple[NDArray[Any], bool, float, str | None]:
    """The embedding's table, whether its numbers are rounded to bfloat16, their scale, and its format."""
    raw = packed.embedding()
    if kind not in DTYPES and raw.format in FILE_FORMATS:
        return raw.data, False, scale, raw.format
    return as_native(stored_array(raw)), kind in ("bfloat16", "int8"), scale, None


def _dtype(option: str, dtype: str, best: str, known: Sequence[str]) -> str:
    if dtype == "auto":
        return best
    if dtype.lower() not in known:  # GGUF's names are often written in capitals
        raise ConfigError(f"{option} is {dtype!r}; on the native runtime it is auto, {', '.join(known)}.")
    return dtype.lower()


def _isa() -> str | None:
    """The instruction set that `EYAS_ISA` forces, or None."""
    isa = os.environ.get("EYAS_ISA")
    if not isa:
        return None
    present = _native.isas()
    if isa not in present:
        raise ConfigError(f"EYAS_ISA is {isa!r}; this machine has {', '.join(present)}.")
    return isa


def _threads(threads: int | None) -> int:
    if threads is None:
        return usable_cores()
    if not (isinstance(threads, int) and 1 <= threads <= 256):
        raise ConfigError(f"threads is {threads!r}, but it must be a whole number in 1..256.")
    return threads
