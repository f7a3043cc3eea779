"""Tables that reproduce claims of the paper and of Spec-Bench: ablations, equal and other budgets, tasks."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from eyas.bench import statistics as st
from eyas.bench.contenders import EQUAL, PRESETS, contenders
from eyas.bench.equality import PLAIN
from eyas.bench.results import Results
from eyas.bench.rows import Row
from eyas.bench.statistics import Samples
from eyas.bench.tables import Column, Table, drafted_per_cycle, each, pair

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def paper_tables(results: Results) -> list[Table]:
    """All of them that the rows can fill."""
    found: list[Table] = []
    for make in (by_task, ablations, equal_budget, budgets):
        found += make(results)
    return [table for table in found if table.rows]


def by_task(results: Results) -> list[Table]:
    """Spec-Bench's table: speed-up by task and over all questions, for sets of several tasks."""
    found = []
    for name, temperature in product(results.sets, results.temperatures):
        tasks = list(dict.fromkeys(_task(row) for row in results.rows if row["set"] == name))
        if len(tasks) < 2:
            continue
        plain = st.of_set(st.samples(results, PLAIN, temperature), name)
        rows = []
        for method in results.methods:
            mine = st.of_set(st.samples(results, method, temperature), name)
            cells = [pair(_of_task(mine, task), _of_task(plain, task)) for task in tasks]
            rows.append([method, *cells, pair(mine, plain)])
        columns: list[Column] = [("method", "text")]
        columns += [(task, "pair") for task in (*tasks, "overall")]
        title = f"{name} by task, T={temperature:g}"
        note = "Each cell: speed-up / tau; overall is over all questions, as Spec-Bench counts."
        found.append(Table(f"tasks-{name}-{temperature:g}", title, columns, rows, note))
    return found


def ablations(results: Results) -> list[Table]:
    """The paper's Table 3: EAGLE-2 without value and without rerank."""
    names = [contender.name for contender in contenders(PRESETS["ablations"])[1:]]
    return _against(results, "ablations", "Ablations of EAGLE-2", names, "eagle2")


def equal_budget(results: Results) -> list[Table]:
    """EAGLE's static tree beside EAGLE-2's dynamic one with as many nodes."""
    note = "Both verify 25 draft tokens a cycle on at most 5 levels, with the same head."
    return _against(
        results, "equal-budget", "Static and dynamic trees of equal size", [EQUAL, "eagle"], "eagle", note
    )


def budgets(results: Results) -> list[Table]:
    """Tau by the number of nodes that are verified."""
    rows = [
        [name, f"{temperature:g}", drafted, st.over_sets(st.tau_of, results.sets, mine)]
        for name, temperature, mine, _ in each(results)
        if (drafted := drafted_per_cycle(mine)) is not None and name != PLAIN
    ]
    columns: list[Column] = [("method", "text"), ("T", "text"), ("draft tokens a cycle", "f1")]
    rows.sort(key=lambda row: (row[1], row[2]))
    return [Table("budgets", "Tau by node budget", [*columns, ("tau", "f2")], rows)]


def _against(
    results: Results, id_: str, title: str, names: Sequence[str], base: str, note: str = ""
) -> list[Table]:
    """Some contenders beside one of them: tau, and its difference with an interval."""
    rows = []
    if base not in results.methods or len({*names} & {*results.methods}) < 2:
        return []
    for temperature, name in product(results.temperatures, names):
        if name not in results.methods:
            continue
        mine, other, plain = (st.samples(results, each, temperature) for each in (name, base, PLAIN))
        row: list[Any] = [name, f"{temperature:g}", st.over_sets(st.tau_of, results.sets, mine), None, None]
        left, right = (st.over_sets(st.tau_of, results.sets, found) for found in st.common(mine, other))
        if name != base and left is not None and right is not None:
            row[3:] = [left - right, st.tau_interval(mine, other)]
        rows.append([*row, st.speedup_over_sets(results.sets, mine, plain)])
    columns: list[Column] = [("method", "text"), ("T", "text"), ("tau", "f2")]
    columns += [(f"tau - {base}'s", "f2"), (f"{st.LEVEL} % interval", "interval"), ("speed-up", "x")]
    return [Table(id_, title, columns, rows, note)]


def _task(row: Row) -> str:
    return "mt_bench" if row["category"] in MT_BENCH else row["category"] or row["set"]


def _of_task(found: Samples, task: str) -> Samples:
    return {key: sample for key, sample in found.items() if _task(sample.row) == task}
