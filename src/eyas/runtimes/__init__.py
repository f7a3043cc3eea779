"""Who computes: one folder a runtime. Importing this package imports none of them."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from eyas.engine.interfaces import Runtime
from eyas.errors import ConfigError

# Name -> where its loader lives.
_LOADERS = {
    "native": "eyas.runtimes.native:load_native_runtime",
    "torch": "eyas.runtimes.torch:load_torch_runtime",
}


def runtime_names() -> list[str]:
    """The runtimes by name."""
    return list(_LOADERS)


def load_runtime(
    runtime: str,
    model_dir: Path,
    *,
    name: str,
    dtype: str = "auto",
    draft_dtype: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
) -> Runtime:
    """Load a target on a runtime.

    Args:
        runtime: a name, or "auto", which takes native for what it can serve.
        model_dir: an ordinary Hugging Face directory.
        name: what messages call the target.
        dtype: a precision, or "auto".
        draft_dtype: the precision of draft networks, or "auto".
        threads: None leaves them to the runtime.
        device: where it computes, as torch calls devices.

    Raises:
        ConfigError: an unknown runtime, dtype or device, or one that is not installed.
        ModelError: a model that the runtime cannot serve.
    """
    if runtime == "auto":
        runtime = choose_runtime(model_dir, dtype, device)
    if runtime not in _LOADERS:
        raise ConfigError(f"unknown runtime {runtime!r}; it is auto, {', '.join(_LOADERS)}.")
    module, function = _LOADERS[runtime].split(":")
    load = cast(Callable[..., Runtime], getattr(import_module(module), function))
    return load(model_dir, name=name, dtype=dtype, draft_dtype=draft_dtype, threads=threads, device=device)


def choose_runtime(model_dir: Path, dtype: str = "auto", device: str = "cpu") -> str:
    """What "auto" means for a model: native on the CPU where it is built and knows model and precision.

    Otherwise it is torch.

    Raises:
        ModelError: no readable config.json.
    """
    from eyas.runtimes.native import is_built, precisions, unsupported

    if device != "cpu" or not is_built() or dtype not in precisions() or unsupported(model_dir):
        return "torch"
    return "native"
