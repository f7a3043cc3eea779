"""GGUF files as they are: milliseconds of a pass, prefill and plain decoding, by eyas and llama.cpp in turns.

    python benchmarks/gguf_passes.py FILE.gguf ... --llama other/bin/python --out build/gguf-passes.json

Each program runs in a process of its own, which sleeps while the other one works; the order alternates.
A pass is over T random tokens behind a context, after which they are dropped again; of a few passes in a row
the first is left out, since the other program has filled the caches. Figures are medians of repeats; a ratio
is eyas / llama.cpp. `--llama` is a Python that has llama-cpp-python; without it only eyas is measured.

Printed besides: seconds to load the file the first time (weights are packed) and again, tokens per second of
prefill and of plain decoding, and the resident set with a full context over the file's size. Without `--no-start`
also seconds from starting `eyas generate` to the end of an answer of one token, with an empty cache of packed
weights and with a full one.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

PROGRAMS = ("eyas", "llama.cpp")
VOCABULARY = 20_000  # random ids lie below
IN_A_ROW = 4  # passes of one program
CHUNK = 512  # tokens of a pass that fills a context


def main() -> None:
    """Measure all files, print a table for each, write the document."""
    args = arguments()
    if args.worker:
        worker(args)
        return
    document: dict[str, Any] = {"options": {k: str(v) for k, v in vars(args).items()}, "files": {}}
    for file in args.files:
        figures = measured(args, file)
        document["files"][file.name] = figures
        sys.stdout.write(table(file, args.tokens, figures) + "\n\n")
    if args.out:
        from eyas.bench.provenance import provenance

        document["provenance"] = provenance(" ".join(sys.argv))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(document, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--llama", metavar="PYTHON", help="a Python that has llama-cpp-python")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 12, 16, 32], help="of a pass")
    parser.add_argument("--context", type=int, default=256, help="tokens before each pass")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of a prefill")
    parser.add_argument("--new-tokens", type=int, default=48, help="of plain decoding")
    parser.add_argument("--full-context", type=int, default=2048, help="tokens behind which the resident set is read")
    parser.add_argument("--no-start", action="store_true", help="leave out the starts of `eyas generate`")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=PROGRAMS, help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- both programs in turns ----


def measured(args: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Figures of one file by program."""
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(first_cache())
        first_load = seconds_to_load(args, file, cache)
        caches = [] if args.no_start else [stack.enter_context(first_cache()), cache]
        starts = [seconds_to_first_token(args, file, folder) for folder in caches]
        ask = {"eyas": stack.enter_context(started(args, "eyas", [sys.executable], file, cache))}
        if args.llama:
            ask["llama.cpp"] = stack.enter_context(
                started(args, "llama.cpp", shlex.split(args.llama), file, cache)
            )
        figures = {name: {"load_s": function("load"), "ms": {}} for name, function in ask.items()}
        figures["eyas"] |= {"first_load_s": first_load, "start_s": starts}
        jobs = [
            *(f"pass {count}" for count in args.tokens),
            f"prefill {args.prefill}",
            f"decode {args.new_tokens}",
        ]
        for job in jobs:
            times: dict[str, list[float]] = {name: [] for name in ask}
            for repeat in range(args.repeats if job.startswith("pass") else 3):
                for name in list(ask) if repeat % 2 else list(ask)[::-1]:
                    times[name].append(ask[name](job))
            for name, found in times.items():
                figures[name]["ms"][job] = statistics.median(found)
        for name, function in ask.items():
            function(f"fill {args.full_context}")
            figures[name]["resident"] = function("resident") / file.stat().st_size
    return figures


def seconds_to_first_token(args: argparse.Namespace, file: Path, cache: Path) -> float:
    """Of a whole process that adds one token to a prompt."""
    words = [sys.executable, "-m", "eyas", "generate", "Three rivers:", "--raw", "--model", str(file)]
    words += ["--method", "autoregressive", "--max-new-tokens", "1", "--threads", str(args.threads)]
    began = perf_counter()
    subprocess.run(
        words, check=True, capture_output=True, env=os.environ | {"EYAS_CACHE": str(cache)}, cwd=cache
    )
    return perf_counter() - began


@contextlib.contextmanager
def first_cache() -> Iterator[Path]:
    """A cache folder without packed weights, so that the first load packs them."""
    folder = Path(tempfile.mkdtemp(prefix="gguf-passes-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seconds_to_load(args: argparse.Namespace, file: Path, cache: Path) -> float:
    """Of a process that packs the weights."""
    with started(args, "eyas", [sys.executable], file, cache) as ask:
        return ask("load")


@contextlib.contextmanager
def started(
    args: argparse.Namespace, program: str, python: list[str], file: Path, cache: Path
) -> Iterator[Callable[[str], float]]:
    """A worker: a function from a job to its figure."""
    words = [*python, __file__, str(file), "--worker", program, "--threads", str(args.threads)]
    for option in ("context", "full_context"):
        words += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    environment = os.environ | {"EYAS_CACHE": str(cache)}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(job: str) -> float:
            process.stdin.write(job + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer = process.stdout.readline()  # type: ignore[union-attr]
            if not answer:
                raise SystemExit(f"{program} failed on {file}")
            return float(answer)

        yield ask
        process.stdin.close()
        process.wait()


def table(file: Path, tokens: list[int], figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{file.name}, {file.stat().st_size / 1e6:.0f} MB"]
    heads = [f"{count} tok" for count in tokens] + ["prefill/s", "decode/s", "load s", "resident"]
    lines.append(f"{'':12}" + "".join(f"{head:>10}" for head in heads))
    rows: dict[str, list[float]] = {}
    for name, found in figures.items():
        values = list(found["ms"].values())
        *passes, prefill, decode = values
        prefill_tokens, new_tokens = (int(job.split()[1]) for job in list(found["ms"])[-2:])
        speeds = [1e3 * prefill_tokens / prefill, 1e3 * new_tokens / decode]
        rows[name] = [*passes, *speeds, found["load_s"], found["resident"]]
        lines.append(f"{name:12}" + "".join(f"{value:10.2f}" for value in rows[name]))
    if len(rows) == 2:
        ratios = [a / b for a, b in zip(*rows.values(), strict=True)]
        lines.append(f"{'ratio':12}" + "".join(f"{value:10.2f}" for value in ratios))
    lines.append(f"first load: {figures['eyas']['first_load_s']:.1f} s")
    if starts := figures["eyas"]["start_s"]:
        lines.append("start to first token: first {:.1f} s, again {:.2f} s".format(*starts))
    return "\n".join(lines)


# ---- one program ----


def worker(args: argparse.Namespace) -> None:
    """Answer jobs from stdin, a line each, with a number."""
    [file] = args.files
    began = perf_counter()
    program = (Eyas if args.worker == "eyas" else LlamaCpp)(file, args)
    loaded = perf_counter() - began
    ids = np.random.default_rng(0).integers(1000, VOCABULARY, 4096)
    for line in sys.stdin:
        name, _, count = line.strip().partition(" ")
        if name == "load":
            figure = loaded
        elif name == "resident":
            figure = resident_bytes()
        elif name == "fill":
            program.fill(ids, int(count))
            figure = float(count)
        elif name == "decode":
            program.run(ids[: args.context], 0, stay=True)
            figure = program.decode(args.context, int(count))
        elif name == "prefill":
            figure = program.run(ids[: int(count)], 0, stay=True)
        else:
            program.fill(ids, args.context)
            times = [program.run(ids[: int(count)], args.context) for _ in range(IN_A_ROW)]
            figure = statistics.median(times[1:])
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


def resident_bytes() -> float:
    """Of this process, shared maps of files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return float(line.split()[1]) * 1024
    raise SystemExit("/proc has no VmRSS")


class Eyas:
    """The native engine, without a drafter."""

    def __init__(self, file: Path, args: argparse.Namespace) -> None:
        from eyas.runtimes.native import load_native_runtime

        self.runtime = load_native_runtime(file, threads=args.threads)
        self.cache = self.runtime.new_cache()

    def fill(self, ids: Any, context: int) -> None:
        """Make the cache hold `context` tokens."""
        if self.cache.length != context:
            for start in range(0, context, CHUNK):
                self.run(ids[start : min(start + CHUNK, context)], start, stay=True)

    def run(self, ids: Any, past: int, *, stay: bool = False) -> float:
        """Milliseconds of a pass over `ids` behind `past` tokens, in whose cache they may stay."""
        from eyas.engine.interfaces import TargetCall

        self.cache.truncate(past)
        began = perf_counter()
        call = TargetCall(self.cache, np.asarray(ids, dtype=np.int64), last_only=stay)
        [self.rows] = self.runtime.forward([call])
        took = 1e3 * (perf_counter() - began)
        self.cache.commit(range(len(ids)) if stay else ())
        return took

    def decode(self, context: int, count: int) -> float:
        """Milliseconds of greedy decoding."""
        from eyas.engine.interfaces import TargetCall

        token = int(np.argmax(self.rows.logits(context - 1)))
        began = perf_counter()
        for _ in range(count):
            [rows] = self.runtime.forward([TargetCall(self.cache, np.array([token]))])
            token = int(np.argmax(rows.logits(0)))
            self.cache.commit([0])
        return 1e3 * (perf_counter() - began)


class LlamaCpp:
    """llama.cpp by llama-cpp-python."""

    def __init__(self, file: Path, args: argparse.Namespace) -> None:
        import llama_cpp

        self.llama = llama_cpp.Llama(
            str(file),
            n_ctx=2048,
            n_batch=512,
            n_ubatch=512,
            n_threads=args.threads,
            n_threads_batch=args.threads,
            logits_all=True,
            verbose=False,
        )

    def fill(self, ids: Any, context: int) -> None:
        """Make the cache hold `context` tokens."""
        if self.llama.n_tokens != context:
            for start in range(0, context, CHUNK):
                self.run(ids[start : min(start + CHUNK, context)], start, stay=True)

    def run(self, ids: Any, past: int, *, stay: bool = False) -> float:
        """Milliseconds of a pass, see `Eyas.run`."""
        self.drop(past)
        began = perf_counter()
        self.evaluate([int(token) for token in ids], past, every=not stay)
        took = 1e3 * (perf_counter() - began)
        if stay:
            self.llama.n_tokens = past + len(ids)
        else:
            self.drop(past)
        return took

    def drop(self, past: int) -> None:
        """Keep the first tokens only."""
        self.llama._ctx.kv_cache_seq_rm(-1, past, -1)
        self.llama.n_tokens = past

    def evaluate(self, ids: list[int], past: int, *, every: bool) -> None:
        """Run tokens; logits of every one, or of the last."""
        self.llama._batch.set_batch(batch=ids, n_past=past, logits_all=every)
        self.llama._ctx.decode(self.llama._batch)

    def decode(self, context: int, count: int) -> float:
        """Milliseconds of greedy decoding."""
        size = self.llama.n_vocab()
        began, token = perf_counter(), 1000
        for at in range(count):
            self.evaluate([token], context + at, every=True)
            logits = np.ctypeslib.as_array(self.llama._ctx.get_logits(), shape=(size,))
            token = int(np.argmax(logits))
        return 1e3 * (perf_counter() - began)


if __name__ == "__main__":
    main()
