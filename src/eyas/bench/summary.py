"""From rows to numbers: acceptance lengths, looping, equality. Pure functions.

An acceptance length of a set is weighted by cycles: all tokens by all cycles of its answers. Over sets the
mean is taken, so that a long set does not outweigh the others. Seeds of one temperature are taken together.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import Any

from eyas.bench.answers import Row
from eyas.bench.equality import EXCUSED_SHARE, LIMITED
from eyas.engine.metrics import GenerationStats, mean_acceptance_length

STATES = ("equal", "excused", "failed")


def summarise(rows: Sequence[Row], dtype: str) -> dict[str, Any]:
    """The summary of a plan's rows: one entry for each method and temperature, and what did not pass."""
    conditions = []
    for method, temperature in dict.fromkeys((row["method"], row["temperature"]) for row in rows):
        chosen = [row for row in rows if (row["method"], row["temperature"]) == (method, temperature)]
        conditions.append({"method": method, "temperature": temperature, **_condition(chosen)})
    problems = _problems(rows, dtype)
    return {
        "conditions": conditions,
        "equality": _equality(rows),
        "errors": [_named(row) | {"error": row["error"]} for row in rows if row["error"] is not None],
        "differences": [_named(row) | row["check"] for row in rows if _state(row) in ("excused", "failed")],
        "problems": problems,
        "passed": not problems,
    }


def _condition(rows: Sequence[Row]) -> dict[str, Any]:
    names = dict.fromkeys(row["set"] for row in rows)
    sets = {name: _numbers([row for row in rows if row["set"] == name]) for name in names}
    whole = _numbers(rows)
    for key in ("acceptance_length", "acceptance_length_without_loops"):
        whole[key] = _mean(numbers[key] for numbers in sets.values())
    return {"sets": sets, "mean": whole}


def _numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of some answers, taken together."""
    answered = [row for row in rows if row["error"] is None]
    stats = [read_stats(row["stats"]) for row in answered]
    loops = [row["loops"] for row in answered]
    alone = all(row.get("batch", 1) == 1 for row in answered)  # in company, seconds belong to nobody
    seconds = sum(row.decode_seconds for row in stats if row.cycles)
    tokens = sum(row.new_tokens - 1 for row in stats if row.cycles)
    return {
        "answers": len(answered),
        "errors": len(rows) - len(answered),
        "new_tokens": sum(row.new_tokens for row in stats),
        "acceptance_length": mean_acceptance_length(stats),
        "acceptance_length_without_loops": mean_acceptance_length(
            row for row, does_loop in zip(stats, loops, strict=True) if not does_loop
        ),
        "looping_share": sum(loops) / len(loops) if loops else None,
        "acceptance_rate_by_depth": _rates(stats),
        "tokens_per_second": tokens / seconds if seconds > 0 and alone else None,
        **_equality(rows),
    }


def read_stats(stats: Mapping[str, Any]) -> GenerationStats:
    """The counts of a row as they were before they became JSON."""
    values: dict[str, Any] = {item.name: stats[item.name] for item in fields(GenerationStats)}
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return GenerationStats(**values)


def _rates(stats: Sequence[GenerationStats]) -> list[float]:
    """Per depth: cycles whose accepted path reached it, among those whose tree did."""
    accepted = [sum(at) for at in zip_longest(*(row.accepted_by_depth for row in stats), fillvalue=0)]
    drafted = [sum(at) for at in zip_longest(*(row.drafted_by_depth for row in stats), fillvalue=0)]
    return [hits / cycles for hits, cycles in zip(accepted, drafted, strict=True)]


def _equality(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(_state(row) for row in rows)
    return {state: counts[state] for state in STATES}


def _problems(rows: Sequence[Row], dtype: str) -> list[str]:
    """What keeps the evaluation from passing, a sentence each."""
    problems = []
    lost = sum(row["error"] is not None for row in rows)
    if lost:
        problems.append(f"{lost} of {len(rows)} answers were lost to errors")
    counts = _equality(rows)
    compared = sum(counts.values())
    if counts["failed"]:
        problems.append(f"{counts['failed']} of {compared} answers differ from plain decoding without excuse")
    if dtype == LIMITED and counts["excused"] > EXCUSED_SHARE * compared:
        problems.append(
            f"{counts['excused']} of {compared} answers differ at near ties; {dtype} allows 1 in 100"
        )
    return problems


def _state(row: Row) -> str | None:
    return row["check"]["state"] if row["check"] and row["error"] is None else None


def _named(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in ("set", "question_id", "method", "temperature", "seed")}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
