"""EAGLE-2 on another machine, from its cost table: the trees that it would draft there, and their time.

A request's trees follow from its cost table and its own answer, and a run of `eyas bench` keeps the table of its machine.
So a head can be tried with costs that were measured elsewhere, without a clock: a cycle takes the time that the table
gives for its tree, plain decoding that of as many single tokens. Prefill and other load are left out on both sides. To
see how far to trust it, first replay a head whose speeds were measured there (`--head`).

    python benchmarks/replay.py --costs benchmarks/results/speed-bfloat16/run.json --out replay.json

No answer is compared with plain decoding's here; the ids do not depend on costs (docs/laws.md, L1).
"""

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import eyas
from eyas.bench.files import write_whole
from eyas.bench.provenance import head_hash, provenance
from eyas.bench.questions import find_question_files, read_questions
from eyas.engine.costs import CostTable
from eyas.drafters.policy.session import MOST_READ
from eyas.engine.cycle import Engine, Request

SETS = ("mt_bench", "humaneval", "gsm8k", "alpaca", "sum", "qa")


@dataclass
class Replay:
    """One answer, its first token left out."""

    tokens: int = 0
    cycles: int = 0
    cycle_tokens: int = 0
    milliseconds: float = 0.0
    plain_milliseconds: float = 0.0


def main() -> None:
    """Replay, print a table, write the document."""
    args = arguments()
    run = json.loads(args.costs.read_text())
    stored = next(made["costs"] for made in run["contenders"].values() if made.get("costs"))
    llm = eyas.load(model=args.model, head=args.head, runtime="native", dtype=args.dtype, method="eagle2")
    engine, table = llm.engine(), CostTable.from_dict(stored)  # one table: what it derives for a context, it keeps
    options = {"temperature": args.temperature, "seed": 0, "max_new_tokens": 128, "tree": "auto", "lookup": args.lookup}
    replays: dict[str, list[Replay]] = {}
    for path in find_question_files(args.questions, os.environ.get("EYAS_EVAL_DATA")):
        questions = read_questions(path)
        for question in questions.questions[: args.limit]:
            request = replace(llm.request(question.turns[0], llm.options(options)), costs=table)
            replays.setdefault(questions.name, []).append(replayed(engine, request))
        print(f"{questions.name:12s} {summary(replays[questions.name])}", file=sys.stderr)
    sets = {name: summary(done) for name, done in replays.items()}
    document: dict[str, Any] = {
        "provenance": provenance(" ".join(sys.argv)),
        "head": head_hash(llm.loaded().head.path),
        "measured_on": stored["made"],
        "options": options | {"dtype": args.dtype, "limit": args.limit},
        "sets": sets,
        "speedup": round(statistics.geometric_mean(found["speedup"] for found in sets.values()), 3),
    }
    write_whole(args.out, json.dumps(document, indent=1) + "\n")
    print(f"{document['speedup']:.3f}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--costs", type=Path, required=True, help="run.json of a bench run with tree=auto")
    parser.add_argument("--model", help="as of `eyas generate`")
    parser.add_argument("--head", help="as of `eyas generate`")
    parser.add_argument("--dtype", default="bfloat16", help="that of the run")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--lookup", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--questions", nargs="+", default=SETS, help="files, or names in EYAS_EVAL_DATA")
    parser.add_argument("--limit", type=int, default=20, help="questions of each file, first turns")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def replayed(engine: Engine, request: Request) -> Replay:
    """Answer once; what the request's own table says that it took."""
    assert request.costs is not None, "a request with costs"
    replay, read = Replay(), 0
    run, _ = engine.start(request)
    while not run.is_finished:
        committed = len(run.token_ids) - 1
        costs = request.costs.at(committed)
        engine.step([run])
        assert run.last_cycle is not None, "a cycle"
        replay.milliseconds += costs.cycle[run.last_cycle.tree.num_draft_tokens] + run.share.draft_ms
        if run.share.draft_ms:  # the head ran, and first read what it had not
            replay.milliseconds += costs.reading(min(MOST_READ, committed - read))
            read = committed
    replay.tokens = len(run.tokens) - 1
    for committed in range(len(request.prompt_ids), len(request.prompt_ids) + replay.tokens):
        replay.plain_milliseconds += request.costs.at(committed).plain
    replay.cycles, replay.cycle_tokens = run.counter.cycles, run.counter.cycle_tokens
    return replay


def summary(replays: list[Replay]) -> dict[str, float]:
    """Of one set. Speeds are means over questions, as in `eyas.bench.statistics`."""
    timed = [replay for replay in replays if replay.tokens]
    speed = statistics.fmean(replay.tokens / replay.milliseconds for replay in timed)
    plain = statistics.fmean(replay.tokens / replay.plain_milliseconds for replay in timed)
    tau = sum(replay.cycle_tokens for replay in timed) / sum(replay.cycles for replay in timed)
    return {"questions": len(timed), "speedup": round(speed / plain, 3), "acceptance_length": round(tau, 3)}


if __name__ == "__main__":
    main()
