"""Do two versions of eyas write the same ids and draft the same trees? Record with each, then compare.

    EYAS_EVAL_DATA=folder python benchmarks/same_ids.py record --dtype bfloat16 --out before.jsonl   # at one commit
    EYAS_EVAL_DATA=folder python benchmarks/same_ids.py record --dtype bfloat16 --out after.jsonl    # at another
    python benchmarks/same_ids.py compare before.jsonl after.jsonl

200 prompts of six question sets, 64 new tokens, greedy and sampled with a seed: plain decoding and `eagle2` with
`tree="auto"` on all of them, every other method on the first 20, and the trees that `eagle2` drafts with two fixed
sizes on those 20. A line holds one answer: what was asked, and a digest of its ids (of its ids and drafted trees). A
recording that was interrupted goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import eyas

SETS = ("mt_bench", "humaneval", "gsm8k", "alpaca", "sum", "qa")
METHODS = ("eagle", "hydra", "medusa", "pld", "lookahead", "sps")
NUM_PROMPTS, NUM_FEW, NEW_TOKENS = 200, 20, 64
BATCH = 8  # prompts that plain decoding answers together
SAMPLED = {"temperature": 1.0, "seed": 7}
FIXED = ({"draft_tokens": 59, "depth": 6, "tree_top_k": 10}, {"draft_tokens": 15, "depth": 4, "tree_top_k": 6})


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record")
    record.add_argument("--dtype", required=True)
    record.add_argument("--threads", type=int)
    record.add_argument("--heads", type=Path, help="folder with heads of methods that eyas ships none for, by method")
    record.add_argument("--out", type=Path, required=True)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        sys.exit(compared(args.before, args.after))
    recorded(args)


def prompts() -> list[str]:
    """First turns, one of each set in turn."""
    folder = Path(os.environ["EYAS_EVAL_DATA"])
    sets = [[json.loads(line) for line in (folder / f"{name}.jsonl").open(encoding="utf-8")] for name in SETS]
    turns = [question["turns"][0] for group in zip(*sets, strict=False) for question in group]
    return turns[:NUM_PROMPTS]


def plan() -> Iterator[tuple[str, dict[str, Any], int]]:
    """Method, options, number of prompts."""
    yield "autoregressive", {}, NUM_PROMPTS
    yield "eagle2", {"tree": "auto"}, NUM_PROMPTS
    for sizes in FIXED:
        yield "eagle2", {"tree": "fixed", **sizes}, NUM_FEW
    for method in METHODS:
        yield method, {"tree": "fixed"}, NUM_FEW


def recorded(args: argparse.Namespace) -> None:
    """Append what is missing in `--out`."""
    done = set()
    if args.out.exists():
        done = {json.dumps(json.loads(line)["asked"]) for line in args.out.open()}
    asked = prompts()
    for method, options, count in plan():
        head = None if args.heads is None or not (args.heads / method).is_dir() else args.heads / method
        try:
            llm = eyas.load(runtime="native", dtype=args.dtype, method=method, head=head, threads=args.threads)
        except eyas.EyasError as error:  # no networks of this method here
            print(f"left out: {method}: {error}", file=sys.stderr)
            continue
        for sampling in ({"temperature": 0.0}, SAMPLED):
            names = [{"dtype": args.dtype, "method": method, **options, **sampling, "prompt": n} for n in range(count)]
            left = [name for name in names if json.dumps(name) not in done]
            size = BATCH if method == "autoregressive" else 1
            for start in range(0, len(left), size):
                some = left[start : start + size]
                texts = [asked[name["prompt"]] for name in some]
                lines = answered(llm, texts, {**options, **sampling}, trees="draft_tokens" in options)
                with args.out.open("a") as file:
                    file.writelines(json.dumps({"asked": name, **line}) + "\n" for name, line in zip(some, lines))
        print(f"{args.dtype} {method} {options}", file=sys.stderr)


def answered(llm: eyas.LLM, texts: list[str], options: dict[str, Any], *, trees: bool) -> list[dict[str, Any]]:
    """Digests of answers' ids; of one prompt's also of the trees of its cycles, if asked for.

    Several prompts are answered in one batch, which changes no id (docs/laws.md, L8).
    """
    if len(texts) > 1:
        answers = llm.generate_many(texts, batch_size=BATCH, max_new_tokens=NEW_TOKENS, **options)
        return [{"tokens": len(answer.token_ids), "ids": digest(list(answer.token_ids))} for answer in answers]
    stream, drafted = llm.stream(texts[0], max_new_tokens=NEW_TOKENS, **options), []
    for _ in stream:
        assert stream.run is not None, "a stream that has begun"
        cycle = stream.run.last_cycle
        if trees and cycle is not None:
            drafted.append([cycle.tree.token_ids.tolist(), cycle.tree.parents.tolist()])
    ids = list(stream.answer.token_ids)
    line = {"tokens": len(ids), "ids": digest(ids)}
    return [line | {"trees": digest(drafted)} if trees else line]


def digest(value: Any) -> str:
    """12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def compared(before: Path, after: Path) -> int:
    """Print counts; 1 if anything differs or is missing."""
    sides = [
        {json.dumps(row.pop("asked")): row for row in map(json.loads, path.open())} for path in (before, after)
    ]
    shared = sides[0].keys() & sides[1].keys()
    wrong = [asked for asked in sides[0] if asked in shared and sides[0][asked] != sides[1][asked]]
    missing = len(sides[0].keys() ^ sides[1].keys())
    for asked in wrong[:10]:
        print(f"differs: {asked}", file=sys.stderr)
    print(f"{len(shared) - len(wrong)} of {len(shared)} answers equal, {missing} on one side only")
    return int(bool(wrong or missing))


if __name__ == "__main__":
    main()
