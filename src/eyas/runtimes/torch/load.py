"""Loads a directory or a GGUF file as a stock model of transformers, or says in one line why it cannot."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from eyas.engine.interfaces import Runtime, TargetInfo
from eyas.errors import ConfigError, EyasError, ModelError
from eyas.models import Progress, base_fingerprint, silent, target_fingerprint
from eyas.models.families import families, open_tensors, read_family, read_spec
from eyas.models.formats import RawTensor, to_float32
from eyas.models.sources import is_gguf
from eyas.models.stock import StockTensors, open_stock_tensors
from eyas.models.tensors import ModelTensors
from eyas.runtimes.torch.blocks import HeadRows
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.probe import check_trees
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.runtimes.torch.stock_config import context_limit, refusal, unusable

_ROWS = 4096  # dequantised at a time
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load(
    model: Path,
    *,
    dtype: str,
    threads: int | None,
    device: str,
    name: str,
    reason: str | None = None,
    progress: Progress = silent,
) -> TorchRuntime:
    """See `eyas.runtimes.torch.load_torch_runtime`."""
    place = _device(device)
    number = resolve_dtype(dtype, place)
    _set_threads(threads)
    config = _read_config(model, name)
    problem = unusable(config)
    if problem:
        raise refusal(config.model_type, name, problem)
    stock = _read_model(model, config, number, place, name, progress)
    if getattr(stock, "_is_stateful", False):
        raise refusal(config.model_type, name, "it has recurrent layers, whose state cannot branch")
    limit = context_limit(config.get_text_config(decoder=True))
    if limit is None:
        raise refusal(config.model_type, name, "its config has no max_position_embeddings")
    runtime = TorchRuntime(
        stock,
        name=name,
        limit=limit,
        fingerprint=target_fingerprint(model),
        base_fingerprint=base_fingerprint(model),
        reason=reason,
    )
    check_trees(runtime)
    return runtime


def load_draft(
    model: Path,
    *,
    dtype: str,
    threads: int | None,
    device: str,
    name: str,
    whole: Callable[[], Runtime] | None,
    progress: Progress = silent,
) -> TorchDraftRuntime:
    """See `eyas.runtimes.torch.load_torch_draft_runtime`."""
    place = _device(device)
    number = resolve_dtype(dtype, place)
    _set_threads(threads)
    spec, config = read_spec(model), _read_config(model, name)
    tensors = open_tensors(model, spec)
    stock = StockTensors(tensors, families()[spec.family].tensors)
    names = ["embedding.weight"] if spec.head.tied else ["embedding.weight", "lm_head.weight"]
    tables: list[torch.Tensor] = []
    for table in names:
        progress("reading weights", len(tables), len(names))
        tables.append(_table(tensors, table, number).to(place))
    text = config.get_text_config(decoder=True)
    return TorchDraftRuntime(
        text_config=text,
        embedding=tables[0],
        head=HeadRows(tables[-1], None),
        info=TargetInfo(
            name=name,
            family=spec.family,
            runtime="torch",
            dtype=str(number).removeprefix("torch."),
            device=str(place),
            hidden_size=spec.hidden_size,
            vocab_size=spec.vocab_size,
            num_layers=spec.stack.num_layers,
            context_limit=spec.context_limit,
            context_reason=spec.context_reason,
            threads=torch.get_num_threads(),
            fingerprint=target_fingerprint(model),
            base_fingerprint=base_fingerprint(model),
        ),
        layer_weights=lambda index: _layer_weights(stock, index, number),
        norm_weight=torch.from_numpy(tensors.floats("final_norm.weight")).to(number),
        whole=whole,
    )


def _table(tensors: ModelTensors, name: str, dtype: torch.dtype) -> torch.Tensor:
    """(V, H) of an embedding or an LM head, dequantised some rows at a time."""
    tensors.check_finite(name)
    raw = tensors.raw(name)
    table = torch.empty(raw.shape, dtype=dtype)
    for start in range(0, len(table), _ROWS):
        data = raw.data[start : start + _ROWS]
        values = to_float32(RawTensor(data, raw.format, (len(data), raw.shape[1])))
        table[start : start + _ROWS] = torch.from_numpy(values)
    return table


def _layer_weights(stock: StockTensors, index: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{index}."
    return {
        name.removeprefix(prefix): torch.from_numpy(stock.values(name)).to(dtype)
        for name in stock
        if name.startswith(prefix)
    }


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"threads is {threads}, but it must be at least 1.")
    torch.set_num_threads(threads)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype called `dtype`; "auto" is the fastest one that the device computes in."""
    if dtype == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; on the torch runtime it is auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def _device(device: str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used ({one_line(error)}); 'cpu' always can."
        ) from error
    return place


def _read_config(model: Path, name: str) -> Any:
    if is_gguf(model):
        _, document = read_family(model)
        return _stock_config(model, document, name)
    if not (model / "config.json").is_file():
        raise ModelError(f"{model} has no config.json; give the directory of a Hugging Face model.")
    try:
        return AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types here
        raise ModelError(f"the config of {name} in {model} cannot be read: {one_line(error)}") from error


def _stock_config(file: Path, document: dict[str, Any], name: str) -> Any:
    """What transformers makes of a config.json that a GGUF file's metadata amount to."""
    try:
        return CONFIG_MAPPING[document["model_type"]].from_dict(document)
    except Exception as error:  # as above
        raise ModelError(f"the metadata of {name} in {file} cannot be used: {one_line(error)}") from error


def _read_model(
    path: Path, config: Any, dtype: torch.dtype, device: torch.device, name: str, progress: Progress
) -> torch.nn.Module:
    read = partial(_from_gguf, progress=progress) if is_gguf(path) else _from_directory
    try:
        try:
            model, report = read(path, config, dtype, "sdpa")
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            # The family has no SDPA (attention sinks, soft-caps); its eager attention takes our mask too.
            model, report = read(path, config, dtype, "eager")
    except EyasError:
        raise
    except Exception as error:  # as above
        raise ModelError(f"{name} in {path} cannot be loaded: {one_line(error)}") from error
    _check_report(report, path)
    if model.device != device:
        model = model.to(device)
    model.requires_grad_(False)
    return model.eval()  # type: ignore[no-any-return]


def _implementations(attention: str, dtype: torch.dtype) -> dict[str, str]:
    """How attention and mixtures of experts are computed; the usual products of experts lack float64."""
    chosen = {"attn_implementation": attention}
    return chosen | {"experts_implementation": "eager"} if dtype == torch.float64 else chosen


def _from_directory(directory: Path, config: Any, dtype: torch.dtype, attention: str) -> tuple[Any, Any]:
    if not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"{directory} has no *.safetensors, and eyas does not read pickled weights; convert them first."
        )
    with _quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            **_implementations(attention, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported afterwards, in one line
            output_loading_info=True,
        )
    return model, report


def _from_gguf(
    file: Path, config: Any, dtype: torch.dtype, attention: str, *, progress: Progress
) -> tuple[Any, Any]:
    """The stock model with the file's numbers, dequantised and rounded to `dtype`."""
    tensors = open_stock_tensors(file)
    state: dict[str, torch.Tensor] = {}
    for name in tensors:
        progress("reading weights", len(state), len(tensors))
        state[name] = torch.from_numpy(tensors.values(name)).to(dtype)
    with _quiet():
        model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            **_implementations(attention, dtype),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return model, report


def _check_report(report: Any, model: Path) -> None:
    """Raise ModelError if a weight is missing, left over or of another shape."""
    wrong = {
        "lacks": report["missing_keys"],
        "has another shape than its config says for": [str(key[0]) for key in report["mismatched_keys"]],
        "has a weight that its config does not name:": report["unexpected_keys"],
    }
    for problem, keys in wrong.items():
        if keys:
            first = min(keys)
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ModelError(
                f"{model} {problem} {first}{more}; its weights and its config.json are not of one model."
            )


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else type(error).__name__
    return text if text.endswith((".", "!")) else text + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bar and load report; our errors replace them."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
