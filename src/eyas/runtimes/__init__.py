"""The runtimes: one folder each. Importing this package imports none of them."""

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from eyas.engine.interfaces import Runtime
from eyas.errors import ConfigError
from eyas.models.progress import Progress, progress_lines

# Name -> where its loader lives.
_LOADERS = {
    "native": "eyas.runtimes.native:load_native_runtime",
    "torch": "eyas.runtimes.torch:load_torch_runtime",
}
_LOGGER = logging.getLogger("eyas.runtimes")


class RuntimeChoice(NamedTuple):
    """A runtime, and why it was not the fastest one.

    Attributes:
        name: of the runtime.
        reason: why native cannot serve the model; None where it can.
    """

    name: str
    reason: str | None = None


def runtime_names() -> list[str]:
    """The runtimes by name."""
    return list(_LOADERS)


def load_runtime(
    runtime: str,
    model: Path,
    *,
    name: str,
    dtype: str = "auto",
    draft_dtype: str = "auto",
    kv_dtype: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Runtime:
    """Load a target on a runtime.

    With "auto", one line on stderr says why native cannot serve the model, if it cannot; `runtime_reason` of
    the target keeps it.

    Args:
        runtime: a name, or "auto", which takes native for what it can serve.
        model: a Hugging Face directory or a GGUF file.
        name: what messages call the target.
        dtype: a precision, or "auto".
        draft_dtype: the precision of draft networks, or "auto".
        kv_dtype: the precision of keys and values, or "auto".
        threads: None leaves them to the runtime.
        device: where it computes, as torch calls devices.
        progress: told how far a first load is; None writes a line a minute to stderr.

    Raises:
        ConfigError: an unknown runtime, dtype or device, or one that is not installed.
        ModelError: a model that the runtime cannot serve.
    """
    reason: str | None = None
    if runtime == "auto":
        runtime, reason = choose_runtime(model, dtype, device)
    if runtime not in _LOADERS:
        raise ConfigError(f"unknown runtime {runtime!r}; it is auto, {', '.join(_LOADERS)}.")
    module, function = _LOADERS[runtime].split(":")
    load = cast(Callable[..., Runtime], getattr(import_module(module), function))
    because = {} if reason is None else {"reason": reason}
    loaded = load(
        model,
        name=name,
        dtype=dtype,
        draft_dtype=draft_dtype,
        kv_dtype=kv_dtype,
        threads=threads,
        device=device,
        progress=progress or progress_lines(),
        **because,
    )
    if reason is not None:  # after loading, so that an error stands alone
        _LOGGER.warning("eyas: runtime %s, since %s", runtime, reason)
    return loaded


def choose_runtime(model: Path, dtype: str = "auto", device: str = "cpu") -> RuntimeChoice:
    """The choice of "auto": native on the CPU where it is built and knows model and precision, else torch.

    Raises:
        ModelError: no readable config.json, or a GGUF file that no runtime can read.
    """
    from eyas.runtimes.native import is_built, precisions, unsupported

    if device != "cpu":
        reason = f"native computes on the cpu and device is {device!r}"
    elif not is_built():
        reason = "this installation has no native runtime"
    elif dtype.lower() not in precisions():
        reason = f"native does not compute in {dtype}"
    else:
        model_reason = unsupported(model)
        if model_reason is None:
            return RuntimeChoice("native")
        reason = model_reason.removesuffix("; use --runtime torch.")
    return RuntimeChoice("torch", reason)
