"""Outside baselines: other programs that generate as many greedy tokens from the same prompt ids.

They show how fast our own plain decoding is. Their rounding differs, so their ids leave ours at some point; a
row states the share that is equal from the start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from eyas.bench.files import make_folder
from eyas.errors import ConfigError
from eyas.models import CATALOGUE, default_model_dir, is_gguf
from eyas.models.catalogue import DEFAULT
from eyas.models.fetch import fetch_file

# Prompt ids and a number of tokens to: the tokens, seconds to the first one, seconds of the others.
Peer = Callable[[Sequence[int], int], tuple[list[int], float, float]]

LOOKUP_TOKENS = 10  # of transformers' prompt lookup, as in Spec-Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """What a peer needs to load.

    Attributes:
        model: directory or GGUF file of the target.
        dtype: of the target; a peer that lacks it uses bfloat16.
        threads: of the peer.
        assistant: directory of a small model for assisted generation.
        gguf_dir: where the default model's GGUF files are written for llama.cpp; it runs others as they are.
    """

    model: Path
    dtype: str
    threads: int
    assistant: Path | None = None
    gguf_dir: Path = Path("build/gguf")


class Absent(Exception):
    """A peer cannot be measured here; the message says why."""


def load_peers(names: Sequence[str], settings: PeerSettings) -> tuple[dict[str, Peer], dict[str, str]]:
    """Peers by name, and for those left out the reasons by name.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"unknown peer {name!r}; the peers are {', '.join(PEERS)}.")
    found: dict[str, Peer] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            found[name] = PEERS[name](settings)
        except ImportError as error:
            left_out[name] = f"{error.name or error} is not installed"
        except Absent as error:
            left_out[name] = str(error)
    return found, left_out


def _transformers(settings: PeerSettings, **drafting: Any) -> Peer:
    if is_gguf(settings.model):
        raise Absent("the target is a GGUF file, which it would convert to floats")
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(settings.threads)
    dtype = torch.float32 if settings.dtype == "float32" else torch.bfloat16

    def load(directory: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()

    model = load(settings.model)
    options = {name: load(value) if isinstance(value, Path) else value for name, value in drafting.items()}

    def run(prompt: Sequence[int], count: int) -> tuple[list[int], float, float]:
        ids = torch.tensor([list(prompt)])

        def generate(number: int) -> tuple[list[int], float]:
            began = perf_counter()
            with torch.inference_mode():
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=number,
                    min_new_tokens=number,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                    **options,
                )
            return out[0, len(prompt) :].tolist(), perf_counter() - began

        _, first = generate(1)
        tokens, whole = generate(count)
        return tokens, first, max(whole - first, 0.0)

    return run


def _assisted(settings: PeerSettings) -> Peer:
    if settings.assistant is None:
        raise Absent("it needs an assistant model; give one with --peer-assistant DIR")
    return _transformers(settings, assistant_model=settings.assistant)


def _llama_cpp(settings: PeerSettings, kind: str) -> Peer:
    is_file = is_gguf(settings.model)
    if is_file and kind != "BF16":
        raise Absent("the target is a GGUF file, which the peer llama.cpp runs as it is")
    if not is_file and settings.model.resolve() != default_model_dir().resolve():
        raise Absent("its GGUF is made for the default model only")
    from llama_cpp import Llama

    llm: Any = Llama(
        str(settings.model if is_file else gguf_file(settings.gguf_dir, kind)),
        n_ctx=2048,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        verbose=False,
    )

    def run(prompt: Sequence[int], count: int) -> tuple[list[int], float, float]:
        llm.reset()
        began = perf_counter()
        llm.eval(list(prompt))
        tokens = [llm.sample(temp=0.0)]
        first = perf_counter() - began
        while len(tokens) < count:
            llm.eval([tokens[-1]])
            tokens.append(llm.sample(temp=0.0))
        return tokens, first, perf_counter() - began - first

    return run


PEERS: Mapping[str, Callable[[PeerSettings], Peer]] = {
    "transformers": _transformers,
    "transformers-pld": lambda settings: _transformers(settings, prompt_lookup_num_tokens=LOOKUP_TOKENS),
    "transformers-assisted": _assisted,
    "llama.cpp": lambda settings: _llama_cpp(settings, "BF16"),
    "llama.cpp-Q8_0": lambda settings: _llama_cpp(settings, "Q8_0"),
    "llama.cpp-Q4_0": lambda settings: _llama_cpp(settings, "Q4_0"),
}


def gguf_file(folder: Path, kind: str) -> Path:
    """The default model as a GGUF file of `kind`, from the weights in bfloat16 that eyas stores."""
    path = folder / f"default.{kind}.gguf"
    if path.is_file():
        return path
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize, quantize

    make_folder(folder)
    source = folder / "source.gguf"
    if not source.is_file():
        fetch_file(CATALOGUE[DEFAULT], source)
    reader, quantization = GGUFReader(source), GGMLQuantizationType[kind]
    writer = GGUFWriter(path.with_suffix(".tmp"), "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        stored = dequantize(quantize(values, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)
        writer.add_tensor(tensor.name, quantize(stored, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".tmp").rename(path)
    return path
