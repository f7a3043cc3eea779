"""Compares eyas with other programs that run the same model on this CPU: transformers' `generate` and llama.cpp.

All contenders get the same prompt ids, generate the same number of tokens greedily, and take turns, so that a busy
neighbour slows all alike. Figures are medians; the first token is timed apart from the others. Our speeds are reported
only if the ids equal plain decoding's. Other programs round differently; their rows state the share of equal ids. A
program that is not installed is left out by name.

    python benchmarks/peers.py --questions mt_bench gsm8k --limit 4 --out benchmarks/results/peers.json
    python benchmarks/peers.py --forwards --out benchmarks/results/forwards.json

The default model's GGUF files for llama.cpp are written into --gguf-dir, from the very weights that eyas runs.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import eyas
from eyas.bench.peers import PEERS, Peer, PeerSettings, gguf_file
from eyas.bench.provenance import provenance
from eyas.bench.questions import find_question_files, read_questions
from eyas.engine.interfaces import TargetCall
from eyas.models import resolve_model


IN_A_ROW = 3  # forwards of one contender that count


def main() -> None:
    """Measure, print a table, write the document."""
    args = arguments()
    contenders, missing = load(args)
    for name, reason in missing.items():
        print(f"left out: {name} ({reason})", file=sys.stderr)
    document: dict[str, Any] = {"provenance": provenance(" ".join(sys.argv)), "left_out": missing}
    document["options"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "gguf_dir"}
    if args.forwards:
        document["forward_milliseconds"] = forwards(args)
    else:
        document["decoding"] = decoding(args, contenders)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--questions", nargs="+", default=["mt_bench"], help="files, or names in EYAS_EVAL_DATA")
    parser.add_argument("--limit", type=int, default=2, help="questions of each file")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--forwards", action="store_true", help="milliseconds of one forward of T tokens instead")
    parser.add_argument("--gguf-dir", type=Path, default=Path("build/gguf"))
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


# ---- contenders ----


def load(args: argparse.Namespace) -> tuple[dict[str, Peer], dict[str, str]]:
    """Contenders by name, and why others are absent."""
    makers: dict[str, Callable[[], Peer]] = {}
    if not args.forwards:
        for dtype in ("bfloat16", "float32", "int8"):
            makers[f"eyas plain {dtype}"] = lambda dtype=dtype: ours(args, dtype, method="autoregressive")
            makers[f"eyas eagle2 {dtype}"] = lambda dtype=dtype: ours(args, dtype, method="eagle2", tree="auto")
        settings = PeerSettings(
            model=resolve_model(None), dtype="bfloat16", threads=args.threads, gguf_dir=args.gguf_dir
        )
        makers["transformers bfloat16"] = lambda: PEERS["transformers"](settings)
        for kind, name in (("BF16", "llama.cpp"), ("Q8_0", "llama.cpp-Q8_0"), ("Q4_0", "llama.cpp-Q4_0")):
            makers[f"llama.cpp {kind}"] = lambda name=name: PEERS[name](settings)
    found: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name, make in makers.items():
        if args.only and name not in args.only:
            continue
        try:
            found[name] = make()
        except ImportError as error:
            missing[name] = f"{error.name} is not installed"
    return found, missing


_RUNTIMES: dict[str, eyas.LLM] = {}


def ours(args: argparse.Namespace, dtype: str, **options: Any) -> Peer:
    if dtype not in _RUNTIMES:
        _RUNTIMES[dtype] = eyas.load(runtime="native", dtype=dtype, threads=args.threads)
    llm = _RUNTIMES[dtype]

    def run(prompt: Sequence[int], count: int) -> tuple[list[int], float, float]:
        answer = llm.generate(list(prompt), max_new_tokens=count, ignore_eos=True, **options)
        return list(answer.token_ids), answer.stats.prefill_seconds, answer.stats.decode_seconds

    return run


# ---- measuring ----


def decoding(args: argparse.Namespace, contenders: dict[str, Peer]) -> list[dict[str, Any]]:
    """Interleaved runs over all prompts; one row a contender."""
    tokenizer = next(iter(_RUNTIMES.values())) if _RUNTIMES else eyas.load(threads=args.threads)
    prompts = [
        tokenizer.prompt_ids(question.turns[0])
        for path in find_question_files(args.questions, os.environ.get("EYAS_EVAL_DATA"))
        for question in read_questions(path).questions[: args.limit]
    ]
    seen: dict[str, list[list[tuple[list[int], float, float]]]] = {name: [[] for _ in prompts] for name in contenders}
    for name, run in contenders.items():
        run(prompts[0], 8)  # warm-up
        print(f"warm: {name}", file=sys.stderr)
    for number, prompt in enumerate(prompts):
        for _ in range(args.repeats):
            for name, run in contenders.items():
                seen[name][number].append(run(prompt, args.new_tokens))
    return [row(name, results, seen, args.new_tokens) for name, results in seen.items()]


def row(
    name: str, results: list[list[tuple[list[int], float, float]]], seen: dict[str, Any], count: int
) -> dict[str, Any]:
    plain = f"eyas plain {name.split()[-1]}" if name.startswith("eyas") else "eyas plain bfloat16"
    equal = total = 0
    for mine, theirs in zip(results, seen.get(plain, results), strict=True):
        ids, reference = mine[0][0], theirs[0][0]
        assert len(ids) == count, f"{name} wrote {len(ids)} tokens instead of {count}"
        common = next((i for i, (a, b) in enumerate(zip(ids, reference, strict=True)) if a != b), count)
        equal, total = equal + common, total + count
        if name.startswith("eyas") and common < count:
            raise SystemExit(f"{name} left plain decoding's ids at token {common}: no speed is reported.")
    rest = [statistics.median(seconds for _, _, seconds in runs) for runs in results]
    first = [statistics.median(seconds for _, seconds, _ in runs) for runs in results]
    rates = [(count - 1) / seconds for seconds in rest]
    line = {
        "contender": name,
        "tokens_per_second": round(statistics.geometric_mean(rates), 2),
        "tokens_per_second_by_prompt": [round(rate, 2) for rate in rates],
        "first_token_seconds": round(statistics.median(first), 4),
        "ids_until_first_difference": round(equal / total, 4),
    }
    print(f"{name:24} {line['tokens_per_second']:8.1f} tokens/s   first {line['first_token_seconds'] * 1e3:7.0f} ms")
    return line


def forwards(
    args: argparse.Namespace, sizes: Sequence[int] = (1, 2, 4, 8, 12, 16, 24, 32, 64), context: int = 256
) -> dict[str, Any]:
    """Median milliseconds of one forward of T tokens behind `context`, with logits of all T, interleaved.

    Each turn is a few forwards in a row, as in decoding. The first is left out: other contenders have filled the
    caches with their own data.

    What a forward of one token has to do at least is read the weights. That is measured on the weights themselves, by
    the engine's own threads, twice: *again*, in a row like the forwards, so that what the last-level cache keeps of
    them serves both alike; and *from memory*, forward and read each right after another 1 GiB has been read. Only
    ratios of one kind mean anything: a forward in a row may be faster than a read from memory.
    """
    rng = np.random.default_rng(0)
    prompt = rng.integers(100, 10_000, context)
    other = np.ones(1 << 30, dtype=np.uint8)  # reading it leaves nothing else in the caches
    steps: dict[str, Callable[[int], float]] = {}
    for dtype in ("bfloat16", "int8", "float32"):
        runtime = eyas.load(runtime="native", dtype=dtype, threads=args.threads, method="autoregressive").runtime
        cache = runtime.new_cache()
        runtime.forward([TargetCall(cache, prompt, last_only=True)])
        cache.commit(range(context))

        def step(count: int, runtime: Any = runtime, cache: Any = cache) -> float:
            ids = rng.integers(100, 10_000, count)
            began = perf_counter()
            runtime.forward([TargetCall(cache, ids)])
            seconds = perf_counter() - began
            cache.truncate(context)
            return seconds

        def read(count: int, runtime: Any = runtime, weights: Any = packed_bytes(runtime)) -> float:
            return float(len(weights) / runtime.engine.read_bandwidth(weights))

        def from_memory(count: int, runtime: Any = runtime, timed: Callable[[int], float] = step) -> float:
            runtime.engine.read_bandwidth(other)
            return timed(count)

        steps[f"eyas {dtype}"] = step
        steps[f"{dtype} weights{AGAIN}"] = read
        steps[f"eyas {dtype}{FROM_MEMORY}"] = from_memory
        steps[f"{dtype} weights{FROM_MEMORY}"] = lambda count, timed=read, cold=from_memory: cold(count, timed=timed)
    try:
        steps["llama.cpp BF16"] = llama_forward(args, prompt, rng)
    except ImportError as error:
        print(f"left out: llama.cpp ({error.name} is not installed)", file=sys.stderr)
    seen: dict[str, dict[int, list[float]]] = {name: {size: [] for size in (*sizes, 512)} for name in steps}
    for _ in range(2 * args.repeats):
        for size in sizes:
            for name, step in steps.items():
                if size == 1 or not name.endswith((AGAIN, FROM_MEMORY)):
                    seen[name][size] += [step(size) for _ in range(1 + IN_A_ROW)][1:]
    for _ in range(args.repeats):
        for name, step in steps.items():
            if not name.endswith((AGAIN, FROM_MEMORY)):
                seen[name][512].append(step(512))
    table = {
        name: {str(size): round(statistics.median(times) * 1e3, 3) for size, times in by_size.items() if times}
        for name, by_size in seen.items()
    }
    for name, by_size in table.items():
        print(f"{name:30}", "  ".join(f"{size}: {ms:.2f}" for size, ms in by_size.items()))
    for dtype in ("bfloat16", "int8", "float32"):
        ratios = [
            table[f"eyas {dtype}{kind}"]["1"] / table[f"{dtype} weights{kind or AGAIN}"]["1"]
            for kind in ("", FROM_MEMORY)
        ]
        print(f"{dtype}: one token / reading its weights: {ratios[0]:.2f} in a row, {ratios[1]:.2f} from memory")
    return table


AGAIN, FROM_MEMORY = ", read again", ", from memory"


def packed_bytes(runtime: Any) -> Any:
    """The file of packed weights as the engine maps it: the very pages that a forward reads."""
    array = next(iter(runtime.packed._arrays.values()))  # views of one mapped file
    while isinstance(array.base, np.ndarray):
        array = array.base
    return np.frombuffer(array.base, dtype=np.uint8)


def llama_forward(args: argparse.Namespace, prompt: Any, rng: Any) -> Callable[[int], float]:
    from llama_cpp import Llama

    llm = Llama(
        str(gguf_file(args.gguf_dir, "BF16")),
        n_ctx=2048,
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        logits_all=True,
        verbose=False,
    )
    llm.eval(prompt.tolist())

    def step(count: int) -> float:
        ids = rng.integers(100, 10_000, count).tolist()
        began = perf_counter()
        llm.eval(ids)
        seconds = perf_counter() - began
        llm.n_tokens = len(prompt)  # the next eval drops what lies behind
        return seconds

    return step


if __name__ == "__main__":
    main()
