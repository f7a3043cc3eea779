"""What kept features lose by their precision: errors of hidden states, divergence of next-token distributions.

    python benchmarks/feature_precision.py --model model.gguf --prompts prompts.jsonl --limit 14

A line for each precision: for each tap the error of its median dimension, in units of that dimension's spread;
then the mean divergence in nats of the distributions that the LM head makes of the final features, and how often
the best token stays. int8 is tried with a scale for 32, 64 and 128 numbers, and for a row.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eyas.engine.sampling import log_softmax
from eyas.engine.sequence import sequence_features
from eyas.models import Tokenizer, resolve_model
from eyas.runtimes import load_runtime
from eyas.runtimes.torch import load_torch_draft_runtime
from eyas.training.feature_formats import decode, encode
from eyas.training.prompts import read_prompts
from eyas.training.taps import parse_taps

Array = NDArray[np.float32]


def main() -> None:
    """Print a line per precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", help="the target; without it the default one")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines, as for `eyas train distil`")
    parser.add_argument("--limit", type=int, default=14, help="prompts")
    parser.add_argument("--most", type=int, default=256, help="tokens of a prompt")
    args = parser.parse_args()
    model = resolve_model(args.model)
    runtime, tokenizer = load_runtime("native", model, name=model.name), Tokenizer.load(model)
    taps, hidden = parse_taps("eagle3", runtime.target), runtime.target.hidden_size
    ids = [prompt.token_ids(tokenizer)[: args.most] for prompt in read_prompts(args.prompts)[: args.limit]]
    features = np.concatenate([np.asarray(sequence_features(runtime, tokens, taps)) for tokens in ids])
    # As in training: the LM head's numbers, and no rounding of what it reads.
    head, some = load_torch_draft_runtime(model, dtype="float32").lm_head(), features[::6, -hidden:]
    exact = log_softmax(head.logits(torch.from_numpy(some)))
    for name, rounded in precisions(hidden).items():
        errors = [error(part, rounded(part)) for part in np.split(features, len(taps), axis=1)]
        found = log_softmax(head.logits(torch.from_numpy(rounded(some))))
        divergence = (np.exp(exact) * (exact - found)).sum(axis=1).mean()
        same = (exact.argmax(axis=1) == found.argmax(axis=1)).mean()
        print(f"{name}: {' '.join(f'{e:.4f}' for e in errors)}, {divergence:.5f} nats, {100 * same:.1f} %")


def precisions(hidden: int) -> dict[str, Callable[[Array], Array]]:
    """Ways to round (T, W) numbers."""
    ways: dict[str, Callable[[Array], Array]] = {"bfloat16": lambda rows: decode(encode(rows, "bfloat16"))}
    for name, size in {"32": 32, "64": 64, "128": 128, "a row": hidden}.items():
        ways[f"int8, a scale for {name}"] = lambda rows, size=size: in_int8(rows, size)
    return ways


def in_int8(rows: Array, size: int) -> Array:
    """Numbers rounded to int8 and back, with a float16 scale for each `size` of a row."""
    groups = rows.reshape(len(rows), -1, size)
    scale = (np.abs(groups).max(axis=2, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    return (np.rint(groups / np.maximum(scale, 1e-9)).clip(-127, 127) * scale).reshape(rows.shape)


def error(exact: Array, rounded: Array) -> float:
    """Root mean square error of the median dimension, over that dimension's standard deviation."""
    each = np.sqrt(np.square(rounded - exact).mean(axis=0)) / exact.std(axis=0)
    return float(np.median(each))


if __name__ == "__main__":
    main()
