"""Keeps `eyas serve` under a mixed load, and watches its memory: it must not grow.

    python benchmarks/serve_soak.py --seconds 600 --out benchmarks/results/serve-soak.json

The server's resident memory is read every second from /proc. The first part of the run fills caches and pools; then
the mean of the last fifth may exceed that of the second fifth by `--tolerance` (a share) at most, or the exit code
is 1. So it is if an answer fails. What follows `--` goes to `eyas serve`.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
from serve_load import Outcome, ask, request, running_server

from eyas.bench.provenance import provenance

CHILDREN = Path("/proc/self/task")


def main() -> int:
    """Load, watch, print one JSON document."""
    own, server = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, server = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(own)
    document: dict[str, Any] = {"provenance": provenance(" ".join(sys.argv))}
    with running_server(server) as url:
        document |= asyncio.run(soak(args, url, _server_pid()))
    text = json.dumps(document, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 1 if document["growth"] > args.tolerance or document["failed"] else 0


async def soak(args: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    deadline = perf_counter() + args.seconds
    memory: list[float] = []
    outcomes = {"whole": 0, "left": 0, "refused": 0, "failed": 0}
    async with httpx.AsyncClient(
        base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)
    ) as http:

        async def watch() -> None:
            while perf_counter() < deadline:
                memory.append(resident_megabytes(pid))
                await asyncio.sleep(1)

        async def client(number: int) -> None:
            rng = random.Random(number)
            while perf_counter() < deadline:
                fields = request(rng.randrange(1000), rng.choice([1, 16, 64]))
                leave = rng.uniform(0.01, 0.5) if rng.random() < 0.2 else None
                if rng.random() < 0.1:
                    fields |= {"temperature": -1}
                outcomes[_kind(await ask(http, fields, leave))] += 1

        await asyncio.gather(watch(), *(client(number) for number in range(args.clients)))
    fifth = max(1, len(memory) // 5)
    early, late = statistics.mean(memory[fifth : 2 * fifth]), statistics.mean(memory[-fifth:])
    return {
        "seconds": args.seconds,
        **outcomes,
        "resident_megabytes": {"second_fifth": round(early, 1), "last_fifth": round(late, 1)},
        "growth": round(late / early - 1, 4),
        "samples": [round(value, 1) for value in memory],
    }


def _kind(outcome: Outcome) -> str:
    if outcome.is_whole:
        return "whole"
    if outcome.left:
        return "left"
    return "refused" if 400 <= outcome.status < 500 else "failed"


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has ended")


def _server_pid() -> int:
    """The one child of this process."""
    [pid] = [int(pid) for task in CHILDREN.iterdir() for pid in (task / "children").read_text().split()]
    return pid


if __name__ == "__main__":
    sys.exit(main())
