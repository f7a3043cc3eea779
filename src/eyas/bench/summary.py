"""From rows to the summary of `eyas eval`: acceptance lengths, looping answers, equality. Pure functions.

An acceptance length of a set pools its cycles: all tokens over all cycles. Over sets the mean is taken, so
that a long set does not outweigh the others. Seeds of one temperature are pooled.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from eyas.bench import statistics as st
from eyas.bench.equality import EXCUSED_SHARE, FEW, LEAST_TOKENS, PLAIN
from eyas.bench.rows import Row
from eyas.bench.statistics import Sample

STATES = ("equal", "excused", "failed")


def summarise(rows: Sequence[Row], dtype: str) -> dict[str, Any]:
    """The summary of a plan's rows: an entry for each contender and temperature, and what did not pass."""
    conditions = []
    for name, temperature in dict.fromkeys((row["contender"], row["temperature"]) for row in rows):
        chosen = [row for row in rows if (row["contender"], row["temperature"]) == (name, temperature)]
        conditions.append({"method": name, "temperature": temperature, **_condition(chosen)})
    found = problems(rows, dtype)
    return {
        "conditions": conditions,
        "equality": _equality(rows),
        "errors": [_named(row) | {"error": row["error"]} for row in rows if row["error"] is not None],
        "differences": [
            _named(row) | row["check"] for row in rows if _state(row) in ("excused", "failed", "other")
        ],
        "problems": found,
        "passed": not found,
    }


def problems(rows: Sequence[Row], dtype: str) -> list[str]:
    """What keeps checked rows from passing, a sentence each."""
    found = []
    lost = sum(row["error"] is not None for row in rows)
    if lost:
        found.append(f"{lost} of {len(rows)} answers were lost to errors")
    counts = _equality(rows)
    compared = sum(counts.values())
    if counts["failed"]:
        found.append(f"{counts['failed']} of {compared} answers differ from plain decoding without excuse")
    ties, told = counts["excused"], f"{counts['excused']} of {compared} answers differ at near ties"
    if dtype == "float32" and ties > EXCUSED_SHARE * compared:
        found.append(f"{told}; {dtype} allows 1 in 100")
    tokens = sum(_num_compared(row) for row in rows if row["lossless"] == "ids" and _state(row) in STATES)
    if dtype in LEAST_TOKENS and ties > max(FEW, tokens / LEAST_TOKENS[dtype]):
        found.append(
            f"{told}, one in {tokens / ties:.0f} tokens; {dtype} allows one in {LEAST_TOKENS[dtype]}"
        )
    return found


def _num_compared(row: Row) -> int:
    """Tokens of an answer up to its first difference, which alone is judged."""
    at = row["check"].get("position")
    return int(row["stats"]["new_tokens"] if at is None else at + 1)


def _condition(rows: Sequence[Row]) -> dict[str, Any]:
    names = dict.fromkeys(row["set"] for row in rows)
    sets = {name: _numbers([row for row in rows if row["set"] == name]) for name in names}
    whole = _numbers(rows)
    for key in ("acceptance_length", "acceptance_length_without_loops"):
        whole[key] = st.mean(numbers[key] for numbers in sets.values())
    return {"sets": sets, "mean": whole}


def _numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of some answers, pooled."""
    samples = [Sample(row, (), ()) for row in rows if row["error"] is None]
    loops = [sample.row["loops"] for sample in samples]
    return {
        "answers": len(samples),
        "errors": len(rows) - len(samples),
        "new_tokens": sum(sample.stats["new_tokens"] for sample in samples),
        "acceptance_length": st.tau(samples),
        "acceptance_length_without_loops": st.tau(sample for sample in samples if not sample.row["loops"]),
        "looping_share": sum(loops) / len(loops) if loops else None,
        "acceptance_rate_by_depth": _rates(samples),
        "tokens_per_second": _speed(samples),
        **_equality(rows),
    }


def _speed(samples: Sequence[Sample]) -> float | None:
    """Tokens per second after the first token; None for a batch, whose seconds belong to no single answer."""
    if any(sample.row.get("batch", 1) > 1 for sample in samples):
        return None
    stats = [sample.stats for sample in samples if sample.stats["cycles"]]
    seconds = sum(row["decode_seconds"] for row in stats)
    return sum(row["new_tokens"] - 1 for row in stats) / seconds if seconds > 0 else None


def _rates(samples: Sequence[Sample]) -> list[float]:
    """Per depth: cycles whose accepted path reached it, over those whose tree did."""
    counts = [
        [sum(at) for at in zip_longest(*(sample.stats[name] for sample in samples), fillvalue=0)]
        for name in ("accepted_by_depth", "drafted_by_depth")
    ]
    return [hits / cycles for hits, cycles in zip(*counts, strict=True)]


def _equality(rows: Sequence[Row]) -> dict[str, int]:
    """Answers by state, of methods that promise plain decoding's ids."""
    counts = Counter(_state(row) for row in rows if row["lossless"] == "ids")
    return {state: counts[state] for state in STATES}


def _state(row: Row) -> str | None:
    """How an answer compares with plain decoding's; None for that one itself and for lost answers."""
    return None if row["error"] is not None or row["contender"] == PLAIN else row["check"]["state"]


def _named(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in ("set", "question_id", "method", "temperature", "seed")}
