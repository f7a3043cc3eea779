"""The tables of a benchmark: numbers, each with the form in which it is shown.

Every table is computed from the rows alone, so a result folder always gives the same tables.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from eyas.bench import statistics as st
from eyas.bench.equality import PLAIN
from eyas.bench.results import Results
from eyas.bench.statistics import Samples
from eyas.engine.metrics import PASSES

Form = Literal["text", "int", "x", "f3", "f2", "f1", "ms", "pct", "pair", "interval", "x-interval"]
Column = tuple[str, Form]


@dataclass(frozen=True)
class Table:
    """A table: `rows` hold raw values, None for a missing one; `columns` say how they are shown."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    notes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        names = [name for name, _ in self.columns]
        rows = [[list(value) if isinstance(value, tuple) else value for value in row] for row in self.rows]
        return {"title": self.title, "columns": names, "rows": rows, "notes": self.notes}

    def cells(self) -> list[list[str]]:
        """The rows as they are shown."""
        return [
            [shown(value, form) for value, (_, form) in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]


def shown(value: Any, form: Form) -> str:
    """A value in its form; `-` for None."""
    if form == "pair":  # speed-up / tau
        return " / ".join((shown(value[0], "x"), shown(value[1], "f2")))
    if value is None:
        return "-"
    if form in ("interval", "x-interval"):
        unit = "x" if form == "x-interval" else ""
        return f"[{value[0]:.2f}{unit}, {value[1]:.2f}{unit}]"
    if form == "x":
        return f"{value:.2f}x"
    if form == "pct":
        return f"{value:.1%}".replace("%", " %")
    if form == "ms":
        return f"{1e3 * value:.1f} ms"
    if form in ("f1", "f2", "f3"):
        return f"{value:.{form[1]}f}"
    return str(value)


def tables(results: Results) -> list[Table]:
    """All tables that the rows can fill."""
    found: list[Table] = []
    for make in (speedups, overall, costs, loops, ids, peers, lost):
        found += make(results)
    return [table for table in found if table.rows]


def speedups(results: Results) -> list[Table]:
    """The paper's Table 1: speed-up and tau by method and set, at each temperature."""
    found = []
    for temperature in results.temperatures:
        plain = st.samples(results, PLAIN, temperature)
        rows = []
        for name in results.methods:
            mine = st.samples(results, name, temperature)
            cells = [pair(st.of_set(mine, each), st.of_set(plain, each)) for each in results.sets]
            means = st.geometric_mean(cell[0] for cell in cells), st.mean(cell[1] for cell in cells)
            rows.append([name, *cells, means])
        columns: list[Column] = [("method", "text")]
        columns += [(name, "pair") for name in (*results.sets, "mean")]
        note = f"{_numbers(results, temperature)}. Each cell: speed-up over plain decoding / tau."
        note += " Means: geometric / arithmetic."
        found.append(
            Table(f"speedups-{temperature:g}", f"Speed-up and tau, T={temperature:g}", columns, rows, note)
        )
    return found


def overall(results: Results) -> list[Table]:
    """Means over sets with their intervals, and speeds."""
    rows = []
    for name, temperature, mine, plain in each(results):
        rows.append(
            [
                name,
                f"{temperature:g}",
                st.over_sets(st.tau_of, results.sets, mine),
                st.tau_interval(mine),
                st.speedup_over_sets(results.sets, mine, plain),
                st.speedup_interval(mine, plain),
                st.speedup_over_sets(results.sets, mine, plain, prefill=True),
                st.over_sets(lambda a: st.mean(st.rates(a.values()).values()), results.sets, mine),
                st.mean(st.mean(sample.prefill) for sample in mine.values()),
                st.repeat_spread(mine),
            ]
        )
    columns: list[Column] = [("method", "text"), ("T", "text"), ("tau", "f2")]
    columns += [(f"{st.LEVEL} % interval", "interval"), ("speed-up", "x"), (f"{st.LEVEL} % ", "x-interval")]
    columns += [
        ("with prefill", "x"),
        ("tokens/s", "f1"),
        ("first token", "ms"),
        ("spread of repeats", "pct"),
    ]
    note = (
        "Means over sets, geometric for speed-ups; intervals by a bootstrap over questions. Tokens/s leave "
        "out the first token."
    )
    return [Table("overall", "All sets together", columns, rows, note)]


def costs(results: Results) -> list[Table]:
    """Target forwards and draft cost per token."""
    rows = []
    for name, temperature, mine, _ in each(results):
        stats = [sample.stats for sample in mine.values()]
        tokens = sum(row["new_tokens"] for row in stats)
        phases, _ = st.phase_seconds(mine.values())
        whole = sum(phases.values())
        if not tokens:
            continue
        rows.append(
            [
                name,
                f"{temperature:g}",
                *(sum(row[key] for row in stats) / tokens for key in _COSTS),
                phases["draft"] / whole if whole else None,
                sum(s for phase, s in phases.items() if phase not in PASSES) / whole if whole else None,
            ]
        )
    columns: list[Column] = [
        ("method", "text"),
        ("T", "text"),
        *((n, "f2") for n in _COSTS.values()),
    ]
    columns += [("time in draft passes", "pct"), ("time outside passes", "pct")]
    note = "Shares of a cycle's time, from the answers whose cycles were counted."
    return [Table("costs", "What a token costs", columns, rows, note)]


_COSTS = {
    "target_forwards": "target forwards a token",
    "draft_forwards": "draft forwards a token",
    "draft_tokens": "draft tokens a token",
}


def loops(results: Results) -> list[Table]:
    """How many answers loop, which flatters every drafter, and tau without those."""
    rows = []
    for name, temperature, mine, _ in each(results):
        calm = {key: sample for key, sample in mine.items() if not sample.row["loops"]}
        share = 1 - len(calm) / len(mine) if mine else None
        taus = [st.over_sets(st.tau_of, results.sets, found) for found in (mine, calm)]
        rows.append([name, f"{temperature:g}", len(mine), share, *taus])
    columns: list[Column] = [("method", "text"), ("T", "text"), ("answers", "int")]
    columns += [("looping", "pct"), ("tau", "f2"), ("tau without loops", "f2")]
    return [Table("loops", "Answers that loop", columns, rows)]


def ids(results: Results) -> list[Table]:
    """Whether the ids equal plain decoding's."""
    rows = []
    for name, temperature in product(results.contenders, results.temperatures):
        checked = results.checked(name, temperature)
        sound = [row["check"] for row in checked if row["error"] is None]
        states = Counter(check["state"] for check in sound)
        promised = next((row["lossless"] for row in checked), None)
        share = st.mean(check["share"] for check in sound)
        counts = [states[state] for state in ("equal", "excused", "failed", "other")]
        if checked:
            rows.append([name, f"{temperature:g}", promised, len(checked), *counts])
            rows[-1] += [len(checked) - len(sound), share]
    columns: list[Column] = [("contender", "text"), ("T", "text"), ("promises", "text")]
    names = ("answers", "equal", "excused", "failed", "other", "lost to errors")
    columns += [*((name, "int") for name in names), ("ids equal from the start", "pct")]
    note = (
        "Compared with plain decoding's. Excused: the first difference is a near tie (law L1). Other: ids "
        "that differ, of a contender that does not promise equal ids."
    )
    return [Table("ids", "Token ids", columns, rows, note)]


def peers(results: Results) -> list[Table]:
    """Outside baselines, plain decoding and EAGLE-2, greedy."""
    outside = [name for name in results.contenders if name not in results.methods]
    if not outside:
        return []
    plain = st.samples(results, PLAIN, 0.0)
    rows = []
    for name in (*(name for name in (PLAIN, "eagle2") if name in results.methods), *outside):
        mine = st.samples(results, name, 0.0)
        speed = st.over_sets(lambda a: st.mean(st.rates(a.values()).values()), results.sets, mine)
        checks = [sample.row["check"]["share"] for sample in mine.values()]
        first = st.mean(st.mean(sample.prefill) for sample in mine.values())
        ratio = st.speedup_over_sets(results.sets, mine, plain)
        rows.append([name, speed, first, ratio, 1.0 if name == PLAIN else st.mean(checks)])
    columns: list[Column] = [("contender", "text"), ("tokens/s", "f1"), ("first token", "ms")]
    columns += [("speed-up over our plain decoding", "x"), ("ids equal from the start", "pct")]
    note = "The same prompt ids and number of new tokens for all, greedy."
    return [Table("peers", "Other programs", columns, rows, note)]


def lost(results: Results) -> list[Table]:
    """Every lost answer, every difference without excuse, and the contenders that were left out."""
    rows: list[list[Any]] = []
    for row in results.rows:
        what = row["error"]
        if what is None and row["check"]["state"] == "failed":
            check = row["check"]
            what = f"token {check['position']} is {check['token']}, not {check['plain_token']}"
            what += "" if check["gap"] is None else f" (gap {check['gap']:.3g})"
        if what is not None:
            where = [row[key] for key in ("contender", "set", "question_id", "turn")]
            rows.append([*where, f"{row['temperature']:g}", row["seed"], what])
    left_out = results.run.get("left_out", {})
    rows += [[name, *["-"] * 5, f"left out: {reason}"] for name, reason in left_out.items()]
    names = ("contender", "set", "question", "turn", "T", "seed", "what happened")
    return [Table("lost", "Failures and omissions", [(name, "text") for name in names], rows)]


# ---- parts ----


def drafted_per_cycle(mine: Samples) -> float | None:
    """Mean draft tokens of a cycle."""
    stats = [sample.stats for sample in mine.values() if sample.stats.get("cycles")]
    cycles = sum(row["cycles"] for row in stats)
    return sum(row["draft_tokens"] for row in stats) / cycles if cycles else None


def each(results: Results) -> Iterable[tuple[str, float, Samples, Samples]]:
    """Each method and temperature, with its samples and plain decoding's."""
    for temperature in results.temperatures:
        plain = st.samples(results, PLAIN, temperature)
        for name in results.methods:
            yield name, temperature, st.samples(results, name, temperature), plain


def pair(mine: Samples, plain: Samples) -> tuple[float | None, float | None]:
    """Speed-up and tau."""
    return st.speedup(mine, plain), st.tau_of(mine)


def _numbers(results: Results, temperature: float) -> str:
    """How much was asked, and on what: "80 questions, 96 answers of each method; bfloat16 on ..."."""
    rows = results.checked(PLAIN, temperature)
    questions = {(row["set"], row["question_id"]) for row in rows}
    timed = Counter(row["asked"] for row in rows)
    used = {row["made"] for row in rows}
    makers = {
        f"{maker['dtype']} on {maker['threads']} threads of {maker['cpu']}"
        for made, maker in results.run.get("makers", {}).items()
        if made in used and {"dtype", "threads", "cpu"} <= maker.keys()
    }
    machine = "".join(f"; {text}" for text in sorted(makers))
    return f"{len(questions)} questions, {len(timed)} answers of each method{machine}"
