"""Result folders made by hand: rows with chosen counts and seconds."""

import json

from eyas.bench.plan import digest
from eyas.bench.results import Results


def answer(contender, question_id, **own):
    """The rows of one prompt: the checked one, then one for each of `seconds`."""
    told = {"set": "a", "turn": 1, "temperature": 0.0, "seed": 0, "category": "qa", "made": "m", "head": None}
    told |= {"method": contender.split(":")[0], "lossless": "ids"}
    told |= {name: own.pop(name) for name in list(own) if name in told}
    told |= {"contender": contender, "question_id": question_id}
    seconds, prefill = own.pop("seconds", ()), own.pop("prefill", 1.0)
    error, state = own.pop("error", None), own.pop("state", "equal")
    asked = {name: told[name] for name in told if name not in ("made", "head", "lossless")}
    found = []
    for repeat in range(1 + len(seconds)):
        row = told | {"asked": digest(asked | {"repeat": repeat}), "repeat": repeat, "error": error}
        row["key"] = digest({"asked": row["asked"], "made": row["made"], "head": row["head"]})
        if error is None:
            row |= _told(own, state, prefill, seconds[repeat - 1] if repeat else 0.0)
        found.append(row)
    return found


def _told(own, state, prefill, decode):
    cycles = own.get("cycles", 10)
    tokens = own.get("cycle_tokens", cycles)
    return {
        "token_ids": own.get("token_ids"),
        "text": own.get("text"),
        "prompt_tokens": 5,
        "finish_reason": "length",
        "loops": own.get("loops", False),
        "check": {
            "state": state,
            "share": own.get("share", 1.0),
            "position": own.get("position", 3),
            "plain_token": 1,
            "token": 2,
            "gap": 4.0,
        },
        "cycles": own.get("counts"),
        "stats": {
            "new_tokens": own.get("new_tokens", 11),
            "cycles": cycles,
            "cycle_tokens": tokens,
            "target_forwards": cycles + 1,
            "draft_forwards": own.get("draft_forwards", 0),
            "draft_tokens": own.get("draft_tokens", 0),
            "accepted_by_depth": own.get("accepted_by_depth", []),
            "drafted_by_depth": own.get("drafted_by_depth", []),
            "prefill_seconds": prefill,
            "decode_seconds": decode,
        },
    }


def folder(path, *answers, run=None):
    """Write a result folder."""
    path.mkdir(parents=True, exist_ok=True)
    rows = [row for rows in answers for row in rows]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "run.json").write_text(json.dumps(run or {}))
    return path


def results(path, *answers, run=None):
    """Write a result folder and read it."""
    return Results.load(folder(path, *answers, run=run))
