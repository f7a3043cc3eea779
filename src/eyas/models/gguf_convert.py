"""A GGUF file as an ordinary Hugging Face directory: what the default model is, and what others load.

The stored model is the dequantised file rounded to bfloat16: that *is* the target, whatever precision it is
run in.
"""

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.families import read_family, read_spec
from eyas.models.gguf_tokenizer import GGUFTokenizer
from eyas.models.progress import Progress, silent
from eyas.models.sources import open_gguf
from eyas.models.stock import StockTensors, open_stock_tensors
from eyas.models.weights import BFLOAT16, stream_safetensors


def convert_gguf(source: Path, target: Path, progress: Progress = silent) -> None:
    """Write config, weights, tokenizer and chat template of `source` into the folder `target`.

    Raises:
        ModelError: not a whole GGUF file, an unknown architecture, or a tokenizer that we cannot rebuild.
        OSError: `target` cannot be written.
    """
    fields = open_gguf(source).fields
    _, config = read_family(source)
    spec = read_spec(source)
    try:
        described = GGUFTokenizer(fields)
        tokenizer, settings = described.build(), described.settings(spec.context_limit)
    except KeyError as error:
        raise ModelError(f"{source} lacks the metadata {error}; fetch it again.") from error
    except ValueError as error:
        raise ModelError(f"{source} cannot be converted: {error}.") from error
    tensors = open_stock_tensors(source)
    _write_json(target / "config.json", config)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(target / "generation_config.json", {key: config[key] for key in keys if key in config})
    # As text, not by the library's own writer, whose failures do not say that the disk is full.
    (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_json(target / "tokenizer_config.json", settings)
    _write_weights(tensors, target / "model.safetensors", progress)


def _write_weights(tensors: StockTensors, target: Path, progress: Progress) -> None:
    order = {name: index for index, name in enumerate(tensors)}

    def make(name: str) -> NDArray[Any]:
        progress("converting", order[name], len(order))
        return tensors.values(name).astype(BFLOAT16)

    stream_safetensors(target, {name: (BFLOAT16, tensors.shape(name)) for name in tensors}, make)
    progress("converting", len(order), len(order))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
