"""How far a quantised model is from its own weights multiplied in float32: next-token distributions of the same text.

    python benchmarks/quality.py model.gguf --out build/quality.json                  # eyas, and llama.cpp if installed
    python benchmarks/quality.py model.gguf --engines --scales 32 64 128 256 llama.cpp  # scales of activations, emulated

The reference has the file's dequantised weights and exact activations. Reported for each contender: the mean
Kullback-Leibler divergence of its distribution from the reference's in nats, the share of tokens whose best continuation
is the reference's, and the text's perplexity. The text is this project's own: its pages and sources.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from float_model import FloatModel, Ids, Rounding, exact, llama_cpp_scales, scale_per
from numpy.typing import NDArray

from eyas.bench.provenance import provenance
from eyas.models.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
TEXTS = ["docs/algorithm.md", "src/eyas/engine/cycle.py", "docs/laws.md", "native/sampler.cpp"]
REFERENCE = "float32"
# The ids of a segment -> (T, V) logits.
Engine = Callable[[Ids], NDArray[np.float32]]


def main() -> None:
    """Measure, print a table, write the document."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = FloatModel(args.model)
    segments = read_segments(args)
    engines = {name: ENGINES[name](args) for name in args.engines}
    roundings: dict[str, Rounding] = {REFERENCE: exact}
    for scale in args.scales:
        name = f"activations as in {scale}" if scale == "llama.cpp" else f"a scale per {scale} activations"
        roundings[name] = llama_cpp_scales if scale == "llama.cpp" else scale_per(int(scale))
    scores = compare(model, segments, roundings, engines)
    print(f"{'':32} {'KL, nats':>10} {'same best':>10} {'perplexity':>11}")
    for name, score in scores.items():
        figures = score.figures()
        print(f"{name:32} {figures['kl']:10.6f} {figures['same_best']:10.4f} {figures['perplexity']:11.4f}")
    if args.out:
        document = {
            "provenance": provenance(" ".join(sys.argv)),
            "model": args.model.name,
            "texts": args.texts,
            "tokens": sum(map(len, segments)),
            "scores": {name: score.figures() for name, score in scores.items()},
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(document, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--texts", nargs="+", default=TEXTS, help="files, from the project's root")
    parser.add_argument("--tokens", type=int, default=512, help="of each text, from its start")
    installed = ["eyas", *(["llama.cpp"] if find_spec("llama_cpp") else [])]
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=installed)
    parser.add_argument(
        "--scales", nargs="*", default=[], metavar="N", help="activations that share a scale, or llama.cpp"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def read_segments(args: argparse.Namespace) -> list[Ids]:
    tokenizer = Tokenizer.load(args.model)
    whole = [tokenizer.encode((ROOT / text).read_text(encoding="utf-8")) for text in args.texts]
    return [np.array(ids[: args.tokens], dtype=np.int64) for ids in whole]


@dataclass
class Score:
    """Sums over tokens."""

    divergences: list[NDArray[np.float64]] = field(default_factory=list)
    same_best: int = 0
    surprise: float = 0.0  # of the text's next tokens, in nats
    predicted: int = 0

    def add(self, reference: NDArray[np.float64], own: NDArray[np.float64], next_ids: Ids) -> None:
        """Log-probabilities (T, V) of a segment, and the tokens that follow all its tokens but the last."""
        self.divergences.append((np.exp(reference) * (reference - own)).sum(axis=1))
        self.same_best += int((reference.argmax(axis=1) == own.argmax(axis=1)).sum())
        self.surprise -= float(own[np.arange(len(next_ids)), next_ids].sum())
        self.predicted += len(next_ids)

    def figures(self) -> dict[str, float]:
        """What is reported."""
        divergences = np.concatenate(self.divergences)
        return {
            "kl": float(divergences.mean()),
            "kl_error": float(divergences.std() / math.sqrt(len(divergences))),
            "kl_99": float(np.quantile(divergences, 0.99)),
            "same_best": self.same_best / len(divergences),
            "perplexity": math.exp(self.surprise / self.predicted),
        }


def compare(
    model: FloatModel, segments: list[Ids], roundings: Mapping[str, Rounding], engines: Mapping[str, Engine]
) -> dict[str, Score]:
    """Every contender against the reference, a few tokens at a time: distributions are large."""
    features = model.features(segments, roundings)
    scores = {name: Score() for name in (*roundings, *engines)}
    for index, ids in enumerate(segments):
        given = {name: engine(ids) for name, engine in engines.items()}
        for start in range(0, len(ids), 64):
            part = slice(start, start + 64)
            logits = {
                name: model.logits(features[name][index][part], rounding) for name, rounding in roundings.items()
            }
            logits |= {name: rows[part] for name, rows in given.items()}
            reference = log_softmax(logits[REFERENCE])
            for name, rows in logits.items():
                scores[name].add(reference, log_softmax(rows), ids[start + 1 : start + 1 + 64])
    return scores


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


# ---- engines ----


def eyas_engine(args: argparse.Namespace) -> Engine:
    from eyas.engine.interfaces import TargetCall
    from eyas.runtimes.native import load_native_runtime

    runtime = load_native_runtime(args.model, threads=args.threads)

    def run(ids: Ids) -> NDArray[np.float32]:
        [rows] = runtime.forward([TargetCall(runtime.new_cache(), ids)])
        return np.stack([rows.logits(row).astype(np.float32) for row in range(len(ids))])

    return run


def llama_cpp_engine(args: argparse.Namespace) -> Engine:
    from llama_cpp import Llama

    llm: Any = Llama(
        str(args.model),
        n_ctx=args.tokens,
        n_batch=args.tokens,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        logits_all=True,
        verbose=False,
    )

    def run(ids: Ids) -> NDArray[np.float32]:
        llm.reset()
        llm.eval(ids.tolist())
        logits: NDArray[np.float32] = np.array(llm.scores[: len(ids)])
        return logits

    return run


ENGINES: dict[str, Callable[[argparse.Namespace], Engine]] = {
    "eyas": eyas_engine,
    "llama.cpp": llama_cpp_engine,
}


if __name__ == "__main__":
    main()
