"""Who computes: one folder a runtime. Importing this package imports none of them."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from eyas.errors import ConfigError
from eyas.interfaces import Runtime

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
) -> Runtime:
    """Load a target on a runtime.

    Args:
        runtime: a name, or "auto", which takes native for what it can serve.
        model_dir: an ordinary Hugging Face directory.
        name: what messages call the target.
        dtype: a precision, or "auto".
        draft_dtype: the precision of draft networks, or "auto".
        threads: None leaves them to the runtime.

    Raises:
        ConfigError: an unknown runtime or dtype, or one that is not installed.
        ModelError: a model that the runtime cannot serve.
    """
    if runtime == "auto":
        runtime = choose_runtime(model_dir, dtype)
    if runtime not in _LOADERS:
        raise ConfigError(f"unknown runtime {runtime!r}; it is auto, {', '.join(_LOADERS)}.")
    module, function = _LOADERS[runtime].split(":")
    load = cast(Callable[..., Runtime], getattr(import_module(module), function))
    return load(model_dir, name=name, dtype=dtype, draft_dtype=draft_dtype, threads=threads)


def choose_runtime(model_dir: Path, dtype: str = "auto") -> str:
    """What "auto" means for a model: native where it is built and knows model and precision, else torch.

    Raises:
        ModelError: no readable config.json.
    """
    from eyas.runtimes.native import is_built, precisions, unsupported

    if not is_built() or dtype not in precisions() or unsupported(model_dir):
        return "torch"
    return "native"
