"""From a Hugging Face directory to a native runtime, or to one line that says why not."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.interfaces import TargetInfo
from eyas.errors import ConfigError
from eyas.models import Progress, silent, target_fingerprint
from eyas.runtimes.native.blocks import to_float32
from eyas.runtimes.native.families import Family, read_family
from eyas.runtimes.native.layers import layer_matrix, stack_layers, widen
from eyas.runtimes.native.packing import EMBEDDING, HEAD, PackedWeights
from eyas.runtimes.native.runtime import NativeRuntime
from eyas.runtimes.native.weights import ModelWeights

DTYPES = ("float32", "bfloat16", "int8")


def load(
    model_dir: Path,
    *,
    dtype: str,
    draft_dtype: str,
    threads: int | None,
    name: str,
    progress: Progress = silent,
) -> NativeRuntime:
    """See `eyas.runtimes.native.load_native_runtime`."""
    engine = _native.Engine(_threads(threads), _isa())
    kind = _dtype("dtype", dtype, "float32" if engine.isa == "portable" else "bfloat16")
    draft_kind = _dtype("draft_dtype", draft_dtype, "int8")
    family = read_family(model_dir)
    weights = ModelWeights(model_dir, family)
    fingerprint = target_fingerprint(model_dir)
    packed = PackedWeights(weights, family, kind, fingerprint, progress)
    stack = _stack(engine, family, weights, packed)
    head = _native.Head(engine, [packed.matrix(HEAD)])
    network = _native.Target(stack, head, weights.raw(EMBEDDING), kind != "float32")
    return NativeRuntime(
        engine,
        network=network,
        head=head,
        stack=stack,
        packed=packed,
        draft_dtype=draft_kind,
        info=TargetInfo(
            name=name,
            family=family.name,
            runtime="native",
            dtype=kind,
            hidden_size=family.hidden_size,
            vocab_size=family.vocab_size,
            context_limit=family.context_limit,
            threads=engine.threads,
            fingerprint=fingerprint,
        ),
    )


def _stack(
    engine: _native.Engine, family: Family, weights: ModelWeights, packed: PackedWeights
) -> _native.Stack:
    biased = {"qkv": family.qkv_bias, "output": family.output_bias}
    biased |= {"gate_up": family.mlp_bias, "down": family.mlp_bias}

    def matrix(layer: int, name: str) -> _native.Matrix:
        bias: NDArray[np.float32] | None = None
        if biased[name]:
            bias = widen(layer_matrix(weights.floats, f"model.layers.{layer}.", name, "bias"))
        return packed.matrix(f"layers.{layer}.{name}", bias)

    shape = _native.StackShape(
        hidden=family.hidden_size,
        intermediate=family.intermediate_size,
        heads=family.num_heads,
        kv_heads=family.num_kv_heads,
        head_dim=family.head_dim,
        eps=family.rms_norm_eps,
        inverse_frequencies=to_float32(family.inverse_frequencies),
        rope_factor=family.rope_factor,
    )
    layers = stack_layers(
        weights.floats,
        matrix,
        family.windows,
        prefix="model.layers.{}.",
        head_norms=family.head_norms,
    )
    return _native.Stack(engine, shape, layers, weights.floats("model.norm.weight"))


def _dtype(option: str, dtype: str, best: str) -> str:
    if dtype == "auto":
        return best
    if dtype not in DTYPES:
        raise ConfigError(f"{option} is {dtype!r}; on the native runtime it is auto, {', '.join(DTYPES)}.")
    return dtype


def _isa() -> str | None:
    """The instruction set that `EYAS_ISA` forces, or None."""
    isa = os.environ.get("EYAS_ISA")
    if not isa:
        return None
    known = ("avx512bf16", "avx512", "avx2", "portable")
    present = [name for name in known if _native.has_isa(name)]
    if isa not in present:
        raise ConfigError(f"EYAS_ISA is {isa!r}; this machine has {', '.join(present)}.")
    return isa


def _threads(threads: int | None) -> int:
    if threads is None:
        return physical_cores()
    if not (isinstance(threads, int) and 1 <= threads <= 256):
        raise ConfigError(f"threads is {threads!r}, but it must be a whole number in 1..256.")
    return threads


def physical_cores() -> int:
    """Cores that this process may use; siblings of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return len(cores)
