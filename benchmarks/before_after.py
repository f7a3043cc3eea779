"""Is a newer eyas as fast as an older one? Two Python environments in turns on one machine, on equal token ids.

    EYAS_EVAL_DATA=folder python benchmarks/before_after.py --before old/bin/python --after new/bin/python \
        --out build/before-after

Answers one at a time: plain decoding and `eagle2` with cost-aware trees, greedy and sampled. Then the server with
eight clients. Every measurement of one side is paired with one of the other right before or after it, on the same prompt;
the order alternates. Seconds are wall-clock times of a whole call, prefill included. A ratio is that of the medians
over repeats, before / after: above 1 the newer one is faster. Printed are geometric means of the ratios, each with
its standard error. The ids of both sides must be equal, or the exit code is 1 and no ratio is printed.

A side is a command that starts Python, such as `env PYTHONPATH=new/src python`; PYTHONPATH itself is not passed on.
Only what both versions have is used: `eyas.load`, `llm.generate`, `eyas calibrate`, `eyas serve`. Results go to
OUT/pairs.jsonl; run the same command again after an interruption, and it resumes.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

SETS = ("mt_bench", "humaneval", "gsm8k", "alpaca", "sum", "qa")
SIDES = ("before", "after")
PLAIN = "autoregressive"
METHODS = {PLAIN: {}, "eagle2": {"tree": "auto"}}
WARM_UP_TOKENS = 16
Row = dict[str, Any]


def main() -> int:
    """Measure what is missing, then print the ratios."""
    args = arguments()
    if args.worker:
        return worker(args)
    args.out.mkdir(parents=True, exist_ok=True)
    commands = {side: shlex.split(getattr(args, side)) for side in SIDES}
    with Pairs(args.out / "pairs.jsonl", settings(args)) as pairs:
        for dtype in args.dtypes:
            for command in commands.values():
                calibrated(command, dtype, args.threads)
            single(args, commands, dtype, pairs)
            if args.rounds:
                asyncio.run(served(args, commands, dtype, pairs))
        return told(pairs.rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", default=sys.executable, metavar="COMMAND", help="Python of the older version")
    parser.add_argument("--after", default=sys.executable, metavar="COMMAND", help="Python of the newer version")
    parser.add_argument("--out", type=Path, default=Path("build/before-after"))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "int8"])
    parser.add_argument("--prompts", type=int, default=24, help="first turns, taken from six sets in turn")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs on each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer; all are written")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of rounds on the server; 0 leaves it out")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=24, help="of a round, all clients together")
    parser.add_argument("--threads", type=int, help="of each runtime")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(args: argparse.Namespace) -> Row:
    """What the rows of a folder have in common."""
    names = ("before", "after", "tokens", "clients", "requests", "threads")
    return {name: getattr(args, name) for name in names}


class Pairs:
    """The file of pairs: settings in its first line, then one finished pair each."""

    def __init__(self, path: Path, asked: Row) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        if whole and whole[0] != asked:
            raise SystemExit(f"{path} was measured with {whole[0]}; choose another --out.")
        self.rows: list[Row] = whole[1:]
        path.write_text("".join(json.dumps(row) + "\n" for row in [asked, *self.rows]))
        self._file = path.open("a")
        self._done = {self._name(row) for row in self.rows}

    def __enter__(self) -> "Pairs":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, **name: Any) -> bool:
        """Whether a pair is measured."""
        return self._name(name) in self._done

    def add(self, name: Row, sides: dict[str, Row]) -> None:
        """Keep a pair."""
        row = {**name, **sides}
        self.rows.append(row)
        self._done.add(self._name(row))
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    @staticmethod
    def _name(row: Row) -> str:
        return json.dumps({key: value for key, value in row.items() if key not in SIDES}, sort_keys=True)


def clean_environment() -> dict[str, str]:
    """Ours without PYTHONPATH, which would make both sides the same."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def calibrated(command: Sequence[str], dtype: str, threads: int | None) -> None:
    """Measure the cost table of a side again: the machine may have been busy the last time."""
    words = [*command, "-m", "eyas", "calibrate", "--runtime", "native", "--dtype", dtype]
    words += ["--threads", str(threads)] if threads else []
    subprocess.run(words, env=clean_environment(), stdout=subprocess.DEVNULL, check=True)


# ---- one answer at a time ----


def worker(args: argparse.Namespace) -> int:
    """Answer requests from stdin, a JSON line each, with seconds and ids; this runs in each side's Python."""
    import eyas

    llm = eyas.load(runtime="native", dtype=args.dtype, threads=args.threads)
    for line in sys.stdin:
        asked = json.loads(line)
        prompt = asked.pop("prompt")
        began = perf_counter()
        answer = llm.generate(prompt, ignore_eos=True, **asked)
        seconds = perf_counter() - began
        ids = list(answer.token_ids)
        print(json.dumps({"seconds": seconds, "tokens": len(ids), "ids": digest(ids)}), flush=True)
    return 0


@contextmanager
def workers(args: argparse.Namespace, commands: dict[str, list[str]], dtype: str) -> Iterator[Any]:
    """A process of each side; gives a function that asks one of them."""
    own = [__file__, "--worker", "--dtype", dtype, *(["--threads", str(args.threads)] if args.threads else [])]
    with ExitStack() as stack:
        running = {
            side: stack.enter_context(
                subprocess.Popen(
                    [*command, *own], env=clean_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for side, command in commands.items()
        }

        def ask(side: str, asked: Row) -> Row:
            process = running[side]
            assert process.stdin is not None and process.stdout is not None, "both are pipes"
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{side}: {shlex.join(commands[side])} ended; its error is above.")
            found: Row = json.loads(line)
            return found

        yield ask
        for process in running.values():
            assert process.stdin is not None, "a pipe"
            process.stdin.close()


def single(args: argparse.Namespace, commands: dict[str, list[str]], dtype: str, pairs: Pairs) -> None:
    """Pairs of single answers."""
    missing = [
        {"dtype": dtype, "method": method, "temperature": temperature, "prompt": number, "repeat": repeat}
        for repeat in range(args.repeats)
        for number in range(args.prompts)
        for temperature in args.temperatures
        for method in METHODS
        if not pairs.has(dtype=dtype, method=method, temperature=temperature, prompt=number, repeat=repeat)
    ]
    if not missing:
        return
    texts = prompts(args.prompts)
    with workers(args, commands, dtype) as ask:
        for method, options in METHODS.items():
            for side in SIDES:
                ask(side, {"prompt": texts[0], "method": method, "max_new_tokens": WARM_UP_TOKENS, **options})
        for done, name in enumerate(missing):
            asked = {
                "prompt": texts[name["prompt"]],
                "method": name["method"],
                "max_new_tokens": args.tokens,
                "temperature": name["temperature"],
                "seed": name["prompt"],
                **METHODS[name["method"]],
            }
            order = SIDES if (name["prompt"] + name["repeat"]) % 2 == 0 else SIDES[::-1]
            pairs.add(name, {side: ask(side, asked) for side in order})
            if done % 20 == 0:
                print(f"{dtype}: {done} of {len(missing)} pairs", file=sys.stderr)


def prompts(number: int) -> list[str]:
    """First turns, one of each set in turn."""
    folder = Path(os.environ["EYAS_EVAL_DATA"])
    sets = [[json.loads(line) for line in (folder / f"{name}.jsonl").open(encoding="utf-8")] for name in SETS]
    turns = [question["turns"][0] for group in zip(*sets, strict=False) for question in group]
    return turns[:number]


# ---- the server ----


async def served(args: argparse.Namespace, commands: dict[str, list[str]], dtype: str, pairs: Pairs) -> None:
    """Pairs of rounds: so many clients send a fixed number of requests, each its next when one is answered."""
    import httpx
    from serve_load import ask, endless, running_server

    name: Row = {"dtype": dtype, "method": f"eagle2, {args.clients} clients", "temperature": None, "prompt": 0}
    missing = [repeat for repeat in range(args.rounds) if not pairs.has(**name, repeat=repeat)]
    if not missing:
        return
    options = ["--runtime", "native", "--dtype", dtype]
    options += ["--threads", str(args.threads)] if args.threads else []

    async def round_of(http: httpx.AsyncClient) -> Row:
        waiting, ids = iter(range(args.requests)), dict[int, list[int]]()

        async def client() -> None:
            for index in waiting:
                outcome = await ask(http, endless(index, args.tokens // 2, "eagle2"))
                if not outcome.is_whole:
                    raise SystemExit(f"request {index} was lost: status {outcome.status}.")
                ids[index] = outcome.token_ids

        began = perf_counter()
        await asyncio.gather(*(client() for _ in range(args.clients)))
        seconds = perf_counter() - began
        found = [ids[index] for index in range(args.requests)]
        return {"seconds": seconds, "tokens": sum(map(len, found)), "ids": digest(found)}

    with ExitStack() as stack:
        clients = {}
        for side, command in commands.items():
            url = stack.enter_context(running_server(options, command, clean_environment()))
            clients[side] = httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None))
            await round_of(clients[side])  # warm-up
        for repeat in missing:
            order = SIDES if repeat % 2 == 0 else SIDES[::-1]
            pairs.add(name | {"repeat": repeat}, {side: await round_of(clients[side]) for side in order})
            print(f"{dtype}: round {repeat + 1} of {args.rounds} on the server", file=sys.stderr)
        for client in clients.values():
            await client.aclose()


# ---- what was found ----


def digest(value: Any) -> str:
    """12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def told(rows: Sequence[Row]) -> int:
    """Print the ratios, or what differs."""
    different = [row for row in rows if row["before"]["ids"] != row["after"]["ids"]]
    for row in different[:10]:
        print(f"ids differ: {({k: v for k, v in row.items() if k not in SIDES})}", file=sys.stderr)
    if different:
        print(f"{len(different)} of {len(rows)} pairs have other ids; no speed is reported", file=sys.stderr)
        return 1
    groups: dict[tuple[str, str], dict[Any, list[Row]]] = {}
    for row in rows:
        # A round on the server is a measurement of its own; of a prompt the repeats are.
        key = row["repeat"] if row["temperature"] is None else (row["temperature"], row["prompt"])
        groups.setdefault((row["dtype"], row["method"]), {}).setdefault(key, []).append(row)
    every = []
    print(f"{'':28} {'before':>9} {'after':>9}  after / before")
    for (dtype, method), by_prompt in groups.items():
        logs = [math.log(ratio(repeats)) for repeats in by_prompt.values()]
        every += [statistics.fmean(logs)]
        speeds = [
            statistics.geometric_mean(
                row[side]["tokens"] / row[side]["seconds"] for repeats in by_prompt.values() for row in repeats
            )
            for side in SIDES
        ]
        error = statistics.stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else math.nan
        name = f"{dtype} {'plain' if method == PLAIN else method}"
        print(f"{name:28} {speeds[0]:9.1f} {speeds[1]:9.1f}  {math.exp(every[-1]):.4f} +- {error:.4f}")
    print(f"{'geometric mean':28} {'tokens/s':>9} {'tokens/s':>9}  {math.exp(statistics.fmean(every)):.4f}")
    print(f"all ids of {len(rows)} pairs are equal")
    return 0


def ratio(repeats: Sequence[Row]) -> float:
    """Speed after / speed before, by median seconds."""
    before, after = (statistics.median(row[side]["seconds"] for row in repeats) for side in SIDES)
    return before / after


if __name__ == "__main__":
    sys.exit(main())
