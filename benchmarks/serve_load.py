"""Loads `eyas serve` on this machine: speed by number of clients and method, then a mix of all that can happen.

    python benchmarks/serve_load.py --out benchmarks/results/serve-load.json

*Measured* is a closed loop: each of N clients sends its next request when its last answer is whole, and goes on past
the model's own end, so that each answer has all its tokens. A turn has a fixed time, at whose end all leave: if it had
a number of requests, its last seconds would be those of fewer clients. Numbers of clients and methods take turns, so
that a busy neighbour hurts all alike; the turns of a repeat have the same requests, the next repeat others, and the
order is always the same: so no method finds its prompts in the cache. Speeds and ratios are medians over repeats. The
*mix* adds clients that leave, requests that are refused, other lengths and temperatures, and answers end where they
end. Afterwards every answer's ids are compared with those of the same request alone, by plain decoding; one that
differs, or one that is lost, makes the exit code 1. What follows `--` goes to `eyas serve`.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, product
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
DISTINCT = 48  # requests that are measured; each is asked again alone, in every length that it had
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


@dataclass
class Turn:
    """What one method was asked in a turn, and the turn's seconds."""

    outcomes: list[Outcome]
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second, of all clients together."""
        return sum(len(outcome.token_ids) for outcome in self.outcomes) / self.seconds


def main() -> int:
    """Run both parts, compare ids, print one JSON document."""
    args = arguments()
    document: dict[str, Any] = {"provenance": provenance(" ".join(sys.argv))}
    with running_server(args.server) as url:
        document |= asyncio.run(load(args, url))
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
    parser.add_argument("--seconds", type=float, default=20, help="of a turn, when speed is measured")
    parser.add_argument("--repeats", type=int, default=4, help="turns of each number of clients and method")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--mix", type=int, default=200, help="requests of the mix")
    parser.add_argument("--mix-clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(own)
    args.server = server
    return args


@contextmanager
def running_server(
    options: Sequence[str], python: Sequence[str] = (sys.executable,), env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """`eyas serve` in a process of its own, by a command that starts Python; gives its address."""
    command = [*python, "-m", "eyas", "serve", "--port", "0", "--max-concurrent", "16", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        address = _address(process.stderr)
        # Its log is read on: a full pipe would make the server wait.
        log = threading.Thread(target=deque, args=(process.stderr, 0))
        log.start()
        try:
            for _ in range(600):
                if httpx.get(f"{address}/ready", timeout=60).status_code == 200:
                    break
            else:
                raise SystemExit("the server did not get ready")
            yield address
        finally:
            process.terminate()
            log.join()


def _address(log: Iterable[str]) -> str:
    """Where the server says that it listens."""
    said = []
    for line in log:
        said.append(line)
        found = re.search(r"serving on (http://\S+);", line)
        if found:
            return found[1]
    raise SystemExit("the server did not start:\n" + "".join(said))


async def load(args: argparse.Namespace, url: str) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        for method in args.methods:
            await ask(http, request(0, args.max_tokens, method))  # loads and measures the method
        turns = await measure(http, args)
        rows = [row(clients, method, own) for (clients, method), own in turns.items()]
        answers = [outcome for own in turns.values() for turn in own for outcome in turn.outcomes]
        mixed = await mix(http, args)
        answers += mixed
        return {
            "measured": rows,
            "ratios": ratios(rows),
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


def endless(index: int, max_tokens: int, method: str) -> dict[str, Any]:
    """`request`, with an answer of all `max_tokens`."""
    return request(index, max_tokens, method) | {"ignore_eos": True}


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


async def measure(http: httpx.AsyncClient, args: argparse.Namespace) -> dict[tuple[int, str], list[Turn]]:
    """Closed loops by number of clients and method, all in turns; those of a repeat have the same requests."""
    turns: dict[tuple[int, str], list[Turn]] = {}
    for repeat in range(args.repeats):
        for clients, method in product(args.clients, args.methods):
            first = repeat * DISTINCT // args.repeats
            turn = await closed_loop(http, args, clients, method, first)
            turns.setdefault((clients, method), []).append(turn)
            print(f"{clients} clients, {method}: {turn.speed:.1f} tokens/s", file=sys.stderr)
    return turns


async def closed_loop(
    http: httpx.AsyncClient, args: argparse.Namespace, clients: int, method: str, first: int
) -> Turn:
    """A turn: for so many seconds each client sends a request when its last answer is whole, then all leave.

    First answers are of different lengths, so that from then on the clients' answers do not begin together.
    """
    outcomes: list[Outcome] = []
    indices = count(first)
    began = perf_counter()

    async def client(length: int) -> None:
        while (rest := began + args.seconds - perf_counter()) > 0:
            fields = endless(next(indices) % DISTINCT, length, method)
            outcomes.append(await ask(http, fields, leave_after=rest))
            length = args.max_tokens

    lengths = [max(1, args.max_tokens * number // clients) for number in range(1, clients + 1)]
    await asyncio.gather(*(client(length) for length in lengths))
    return Turn(outcomes, perf_counter() - began)


def row(clients: int, method: str, turns: Sequence[Turn]) -> dict[str, Any]:
    """What a method did for so many clients."""
    outcomes = [outcome for turn in turns for outcome in turn.outcomes]
    first = [outcome.first_token for outcome in outcomes if outcome.first_token is not None]
    return {
        "clients": clients,
        "method": method,
        "tokens_per_second": round(float(np.median([turn.speed for turn in turns])), 1),
        "turns": [round(turn.speed, 1) for turn in turns],
        "first_token_p50_ms": round(1e3 * float(np.percentile(first, 50)), 1),
        "first_token_p99_ms": round(1e3 * float(np.percentile(first, 99)), 1),
        "requests": len(outcomes),
        "whole": sum(outcome.is_whole for outcome in outcomes),
    }


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speeds by plain decoding's of as many clients, and by plain decoding's of one client, turn by turn."""
    speeds = {(row["clients"], row["method"]): row["turns"] for row in rows}

    def by(turns: Sequence[float], clients: int) -> float | None:
        plain = speeds.get((clients, PLAIN))
        return None if plain is None else round(float(np.median(np.divide(turns, plain))), 3)

    return [
        {
            "clients": clients,
            "method": method,
            "by_plain": by(turns, clients),
            "by_plain_of_one": by(turns, 1),
        }
        for (clients, method), turns in speeds.items()
    ]


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
