"""Loads `eyas serve` on this machine: speed by number of clients and method, then a mix of all that can happen.

    python benchmarks/serve_load.py --out benchmarks/results/serve-load.json

*Measured* is a closed loop: each of N clients sends its next request when its last answer is whole. Methods take
turns, so that a busy neighbour hurts all alike; always in the same order, since a method that comes twice running
would find its prompts in the cache. The *mix* adds clients that leave, requests that are refused, other lengths and
temperatures. Afterwards every answer's ids are compared with those of the same request alone, by plain decoding; one
that differs, or one that is lost, makes the exit code 1. What follows `--` goes to `eyas serve`.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np

from eyas.bench.provenance import provenance

PLAIN = "autoregressive"
CHAT = "/v1/chat/completions"
PROMPTS = (
    "Explain how tides come about.",
    "Write a short poem about a lighthouse.",
    "What is the capital of Peru, and what is it known for?",
    "List five ways to save water at home.",
    "Write a Python function that reverses a list.",
    "Why do leaves change their colour in autumn?",
    "Tell me a story of a fox that lost its way.",
    "How do I boil an egg?",
)
PADDING = "The harbour lay still, and the boats had not moved since the morning. "  # makes prompts long


@dataclass
class Outcome:
    """What became of one request."""

    fields: dict[str, Any]
    status: int = 0
    token_ids: list[int] = field(default_factory=list)
    first_token: float | None = None  # seconds from the request on
    left: bool = False  # the client went away on purpose
    is_whole: bool = False


def main() -> int:
    """Run both parts, compare ids, print one JSON document."""
    args = arguments()
    with running_server(args.server) as url:
        document = asyncio.run(load(args, url))
    document = {"provenance": provenance(" ".join(sys.argv)), **document}
    text = json.dumps(document, indent=1)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")
    return 1 if document["ids"]["different"] or document["mix"]["lost"] else 0


def arguments() -> argparse.Namespace:
    own, server = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, server = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--methods", nargs="+", default=["eagle2", PLAIN])
    parser.add_argument("--requests", type=int, default=3, help="of each client, when speed is measured")
    parser.add_argument("--repeats", type=int, default=4, help="turns of each method")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--mix", type=int, default=200, help="requests of the mix")
    parser.add_argument("--mix-clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(own)
    args.server = server
    return args


@contextmanager
def running_server(options: Sequence[str]) -> Iterator[str]:
    """`eyas serve` in a process of its own; gives its address."""
    command = [sys.executable, "-m", "eyas", "serve", "--port", "0", "--max-concurrent", "16", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.communicate()


def _address(process: "subprocess.Popen[str]") -> str:
    """Where the server listens, once it is ready; its log is read on in the background from then on."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        found = re.search(r"serving on (http://\S+);", line)
        if found:
            break
    else:
        raise SystemExit("the server did not start:\n" + "".join(said))
    log = process.stderr
    threading.Thread(target=lambda: [None for _ in log], daemon=True).start()
    for _ in range(600):
        if httpx.get(f"{found[1]}/ready", timeout=60).status_code == 200:
            return found[1]
    raise SystemExit("the server did not get ready")


async def load(args: argparse.Namespace, url: str) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        for method in args.methods:
            await ask(http, request(0, args.max_tokens, method))  # loads and measures the method
        rows, answers = [], []
        for clients in args.clients:
            outcomes, seconds = await measure(http, args, clients)
            rows += [row(clients, method, outcomes[method], seconds[method]) for method in args.methods]
            answers += [outcome for method in args.methods for outcome in outcomes[method]]
        mixed = await mix(http, args)
        answers += mixed
        return {
            "measured": rows,
            "mix": {
                "requests": len(mixed),
                "left": sum(outcome.left for outcome in mixed),
                "refused": sum(outcome.status >= 400 for outcome in mixed),
                "whole": sum(outcome.is_whole for outcome in mixed),
                "lost": sum(not (o.is_whole or o.left or o.status >= 400) for o in mixed),
                "failed": sum(outcome.status >= 500 for outcome in mixed),
            },
            "ids": await compare(http, answers),
        }


def request(index: int, max_tokens: int, method: str | None = None) -> dict[str, Any]:
    """Request number `index` of a fixed row of them: prompts, lengths, temperatures, seeds."""
    rng = random.Random(index)
    prompt = PADDING * rng.choice([0, 0, 0, 4, 12]) + rng.choice(PROMPTS)
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": rng.choice([0.0, 0.7, 1.0]),
        "seed": index,
        "stream": True,
        **({"eyas": {"method": method}} if method else {}),
    }


async def ask(http: httpx.AsyncClient, fields: dict[str, Any], leave_after: float | None = None) -> Outcome:
    """Send a request and read its stream, or leave after so many seconds."""
    outcome, began = Outcome(fields), perf_counter()
    try:
        async with asyncio.timeout(leave_after), http.stream("POST", CHAT, json=fields) as response:
            outcome.status = response.status_code
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    outcome.is_whole = outcome.status == 200 and outcome.is_whole
                elif line.startswith("data: ") and outcome.status == 200:
                    _read(outcome, json.loads(line.removeprefix("data: ")), perf_counter() - began)
    except TimeoutError:
        outcome.left, outcome.is_whole = True, False
    return outcome


def _read(outcome: Outcome, chunk: dict[str, Any], seconds: float) -> None:
    if "error" in chunk:
        outcome.status = 500
        return
    [choice] = chunk["choices"]
    outcome.first_token = outcome.first_token or seconds
    outcome.token_ids += [token["id"] for token in choice["eyas"]["tokens"]]
    outcome.is_whole = choice["finish_reason"] is not None


async def measure(
    http: httpx.AsyncClient, args: argparse.Namespace, clients: int
) -> tuple[dict[str, list[Outcome]], dict[str, float]]:
    """Closed loops of `clients` clients, the methods in turns."""
    outcomes: dict[str, list[Outcome]] = {method: [] for method in args.methods}
    seconds = dict.fromkeys(args.methods, 0.0)

    async def client(number: int, method: str) -> None:
        for turn in range(args.requests):
            fields = request(number * args.requests + turn, args.max_tokens, method)
            outcomes[method].append(await ask(http, fields))

    for _ in range(args.repeats):
        for method in args.methods:
            began = perf_counter()
            await asyncio.gather(*(client(number, method) for number in range(clients)))
            seconds[method] += perf_counter() - began
    return outcomes, seconds


def row(clients: int, method: str, outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    first = [outcome.first_token for outcome in outcomes if outcome.first_token is not None]
    return {
        "clients": clients,
        "method": method,
        "tokens_per_second": round(sum(len(outcome.token_ids) for outcome in outcomes) / seconds, 1),
        "first_token_p50_ms": round(1e3 * float(np.percentile(first, 50)), 1),
        "first_token_p99_ms": round(1e3 * float(np.percentile(first, 99)), 1),
        "requests": len(outcomes),
        "whole": sum(outcome.is_whole for outcome in outcomes),
    }


async def mix(http: httpx.AsyncClient, args: argparse.Namespace) -> list[Outcome]:
    """Everything at once: other lengths, clients that leave, requests that are refused."""
    rng = random.Random(args.seed)
    waiting = iter(range(args.mix))
    outcomes: list[Outcome] = []

    async def client() -> None:
        for index in waiting:
            fields = request(index % 40, rng.choice([1, 8, 24, 48]), rng.choice([None, *args.methods]))
            kind = rng.random()
            if kind < 0.2:
                outcomes.append(await ask(http, fields, leave_after=rng.uniform(0.005, 0.5)))
            elif kind < 0.3:
                wrong = rng.choice([{"tools": [{}]}, {"temperature": -1}, {"n": 1000}, {"model": "other"}])
                outcomes.append(await ask(http, fields | wrong))
            else:
                outcomes.append(await ask(http, fields))

    await asyncio.gather(*(client() for _ in range(args.mix_clients)))
    return outcomes


async def compare(http: httpx.AsyncClient, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Each answer's ids, also of those cut short, against the same request alone by plain decoding."""
    alone: dict[str, list[int]] = {}
    different = compared = 0
    for outcome in outcomes:
        if not outcome.token_ids:
            continue
        fields = {**outcome.fields, "eyas": {"method": PLAIN}}
        key = json.dumps(fields, sort_keys=True)
        if key not in alone:
            alone[key] = (await ask(http, fields)).token_ids
        expected = alone[key] if outcome.is_whole else alone[key][: len(outcome.token_ids)]
        different += outcome.token_ids != expected
        compared += 1
    return {"answers": compared, "requests": len(alone), "different": different}


if __name__ == "__main__":
    sys.exit(main())
