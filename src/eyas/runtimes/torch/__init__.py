"""The torch runtime: any decoder-only causal LM that stock transformers loads.

The tree goes in through an additive attention mask and explicit positions; keys and values live in our own
subclass of transformers' `Cache`. No model code is copied or patched. torch and transformers are imported
when a model is loaded, not before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.errors import ConfigError
from eyas.models.progress import Progress, silent

if TYPE_CHECKING:
    from eyas.engine.interfaces import Runtime
    from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
    from eyas.runtimes.torch.runtime import TorchRuntime


def load_torch_runtime(
    model: Path,
    *,
    dtype: str = "auto",
    draft_dtype: str = "auto",
    kv_dtype: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    name: str | None = None,
    reason: str | None = None,
    progress: Progress = silent,
) -> "TorchRuntime":
    """Load a model, and check once that trees work on it.

    Args:
        model: a Hugging Face directory with config.json and safetensors, or a GGUF file, whose
            weights are dequantised.
        dtype: float32, bfloat16, float16 or float64; "auto" is bfloat16 where the processor computes in it
            (AVX512-BF16, AMX, CUDA) and float32 elsewhere. `runtime.target.dtype` says which it is.
        draft_dtype: "auto"; draft networks run in the target's precision here.
        kv_dtype: "auto"; keys and values have the model's precision here.
        threads: of torch, for the whole process; None leaves their number as it is.
        device: where torch puts the model, such as "cpu" or "cuda:0".
        name: what messages call the model; None is the file's or directory's name.
        reason: why this runtime was chosen, for provenance.
        progress: told how far the blocks of a GGUF file are dequantised.

    Raises:
        ConfigError: an unknown dtype or device, or torch and transformers are not installed.
        ModelError: the directory is broken, or the model's family cannot attend to a tree.
    """
    if draft_dtype not in ("auto", dtype):
        raise ConfigError(
            f"draft_dtype is {draft_dtype!r}, but on torch draft networks run in the target's precision; "
            "leave it at auto, or use --runtime native."
        )
    if kv_dtype not in ("auto", dtype):
        raise ConfigError(
            f"kv_dtype is {kv_dtype!r}, but on torch keys and values have the model's precision; "
            "leave it at auto, or use --runtime native."
        )
    _check_installed()
    from eyas.runtimes.torch.load import load

    return load(
        model,
        dtype=dtype,
        threads=threads,
        device=device,
        name=name or Path(model).name,
        reason=reason,
        progress=progress,
    )


def load_torch_draft_runtime(
    model: Path,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    name: str | None = None,
    whole: Callable[[], "Runtime"] | None = None,
    progress: Progress = silent,
) -> "TorchDraftRuntime":
    """Load what draft networks need of a model: its embedding and its LM head, without its layers.

    Args:
        model: a directory or a GGUF file of a family that `eyas.models.families` describes.
        dtype: as in `load_torch_runtime`; weights in blocks are dequantised.
        threads: of torch, for the whole process; None leaves their number as it is.
        device: where torch puts them.
        name: what messages call the model; None is the file's or directory's name.
        whole: loads a runtime of the same target with its layers, if features of its tokens are asked for.
        progress: told how far the weights are read.

    Raises:
        ConfigError: an unknown dtype or device, or torch and transformers are not installed.
        ModelError: files that are broken or of an unknown family.
    """
    _check_installed()
    from eyas.runtimes.torch.load import load_draft

    return load_draft(
        model,
        dtype=dtype,
        threads=threads,
        device=device,
        name=name or Path(model).name,
        whole=whole,
        progress=progress,
    )


def _check_installed() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the torch runtime needs the package {error.name}; install it with `pip install 'eyas[torch]'`."
        ) from error


__all__ = ["load_torch_draft_runtime", "load_torch_runtime"]
