"""The native runtime: decoder-only models on a CPU, in C++ and without torch.

A token's logits have the same bits in a chain, in a tree and in a batch, with any number of threads
(docs/laws.md, L8), so every method gives plain decoding's ids in every precision. The sources are in
`native/`; the module is built when eyas is installed.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.errors import ConfigError
from eyas.models.formats import formats_of
from eyas.models.mixes import MIXES
from eyas.models.progress import Progress, progress_lines
from eyas.runtimes.native.support import unsupported

if TYPE_CHECKING:
    from eyas.runtimes.native.runtime import NativeRuntime


def precisions() -> tuple[str, ...]:
    """Values of `dtype` here."""
    return ("auto", *formats_of("native"), *MIXES)


def is_built() -> bool:
    """Whether this installation has the compiled module."""
    return importlib.util.find_spec("eyas._native") is not None


def load_native_runtime(
    model: Path,
    *,
    dtype: str = "auto",
    draft_dtype: str = "auto",
    kv_dtype: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    name: str | None = None,
    progress: Progress | None = None,
) -> "NativeRuntime":
    """Load a model of a family that `eyas.models.families` describes.

    Args:
        model: a Hugging Face directory with config.json and safetensors, or a GGUF file.
        dtype: float32, bfloat16, int8, or a mix of block formats such as q4_k_m (`eyas.models.mixes`); the
            last two quantise weights at loading: that is then the target. "auto" is a GGUF file's own
            formats, and for a directory the faster of bfloat16 and, with portable code alone, float32.
        draft_dtype: precision of draft networks, which never change the ids: as `dtype`, with single block
            formats instead of mixes; "auto" is int8, the fastest.
        kv_dtype: of the target's keys and values: float32, bfloat16, or q8_0 (int8 with a scale per 32
            numbers, half the memory of bfloat16); "auto" is float32 for a float32 target, else bfloat16.
        threads: None is one per physical core. Results do not depend on it.
        device: "cpu", the only one here.
        name: what messages call the model; None is the file's or directory's name.
        progress: told how far packing is, which takes minutes for a large model, once; None writes a line a
            minute to stderr.

    Raises:
        ConfigError: an unknown dtype, another device, a bad number of threads, or an installation without
            the module.
        ModelError: the directory is broken, or the model has an operation that the engine lacks.
    """
    if not is_built():
        raise ConfigError(
            "this installation has no native runtime; install a C++ compiler (Debian: g++) and run "
            "`pip install --force-reinstall eyas`, or use --runtime torch."
        )
    if device != "cpu":
        raise ConfigError(f"device is {device!r}, but native computes on the cpu; use --runtime torch.")
    from eyas.runtimes.native.load import load

    return load(
        model,
        dtype=dtype,
        draft_dtype=draft_dtype,
        kv_dtype=kv_dtype,
        threads=threads,
        name=name or Path(model).name,
        progress=progress or progress_lines(),
    )


__all__ = ["is_built", "load_native_runtime", "precisions", "unsupported"]
