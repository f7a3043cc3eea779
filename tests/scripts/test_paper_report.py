"""`python -m benchmarks.paper`: tables and figures that hold rows against the papers' claims."""

import re

import pytest
from benchmarks.paper.__main__ import all_tables
from benchmarks.paper.expectations import expectations
from benchmarks.paper.figures import PAPER_FIGURES
from benchmarks.paper.tables import paper_tables
from synthetic import answer, folder, results


def test_tasks_are_those_of_spec_bench(tmp_path):
    found = results(
        tmp_path / "tasks",
        *(
            answer("autoregressive", n, category=c, seconds=(1.0,))
            for n, c in enumerate(("coding", "stem", "rag"))
        ),
        answer("eagle2", 0, category="coding", cycles=5, cycle_tokens=10, seconds=(0.5,)),
        answer("eagle2", 1, category="stem", cycles=5, cycle_tokens=20, seconds=(0.25,)),
        answer("eagle2", 2, category="rag", cycles=10, cycle_tokens=10, seconds=(1.0,)),
    )
    [table] = [table for table in paper_tables(found) if table.id == "tasks-a-0"]
    assert [name for name, _ in table.columns] == ["method", "mt_bench", "rag", "overall"]
    assert table.rows[1] == ["eagle2", (3.0, 3.0), (1.0, 1.0), (pytest.approx(7 / 3), 2.0)]


def test_differences_of_ablations_and_of_equal_budgets_have_intervals(tmp_path):
    names = {
        "eagle2": 30,
        "eagle2 without value": 25,
        "eagle2 without rerank": 30,
        "eagle2 25 tokens 5 levels": 28,
        "eagle": 24,
    }
    found = results(
        tmp_path / "ablations",
        *(
            answer(name, n, method=name.split()[0], cycles=10, cycle_tokens=tokens + n)
            for name, tokens in names.items()
            for n in range(4)
        ),
        answer("autoregressive", 0),
    )
    made = {table.id: {row[0]: row for row in table.rows} for table in paper_tables(found)}
    without = made["ablations"]["eagle2 without value"]
    assert without[2:5] == [2.65, pytest.approx(-0.5), pytest.approx((-0.5, -0.5))]
    assert made["equal-budget"]["eagle2 25 tokens 5 levels"][3] == pytest.approx(0.4)
    assert set(made["ablations"]) == {"eagle2", "eagle2 without value", "eagle2 without rerank"}

    [table] = expectations(found)
    held = {claim: holds for claim, _, holds, _ in table.rows}
    assert held["tau: eagle2 > eagle2 without value"] == "yes"
    assert held["tau: eagle2 >= eagle2 without rerank"] == "yes"
    assert held["tau: eagle2 > eagle at equal size"] == "yes"
    assert held["tau: eagle2 > eagle"] == "yes"


def test_methods_are_compared_on_the_prompts_that_both_answered(tmp_path):
    found = results(
        tmp_path / "half",
        *(answer("autoregressive", n) for n in (1, 2)),
        answer("eagle2", 1, cycles=10, cycle_tokens=20),
        answer("eagle2", 2, cycles=10, cycle_tokens=12),
        answer("eagle2 without value", 1, method="eagle2", cycles=10, cycle_tokens=18),
    )
    rows = {table.id: {row[0]: row[1:] for row in table.rows} for table in all_tables(found)}
    assert rows["ablations"]["eagle2 without value"][1:3] == [1.8, pytest.approx(-0.2)]
    assert rows["expectations"]["tau: eagle2 > eagle2 without value"] == ["0", "yes", "2.000, 1.800"]


def test_an_expectation_that_does_not_hold_is_said_and_fails_nothing(report, tmp_path):
    path = folder(
        tmp_path / "bad",
        answer("autoregressive", 1),
        answer("eagle2", 1, cycles=10, cycle_tokens=12),
        answer("eagle", 1, cycles=10, cycle_tokens=14),
    )
    code, out, _ = report(path)
    assert code == 0
    assert re.search(r"tau: eagle2 > eagle +0 +NO +1.200, 1.400", out)


def test_like_is_compared_with_like(tmp_path):
    found = results(
        tmp_path / "best",
        answer("autoregressive", 1, new_tokens=11, seconds=(4.0,)),
        answer("eagle2", 1, cycles=10, cycle_tokens=30, new_tokens=11, seconds=(8.0,)),
        answer("eagle2 auto + lookup", 1, method="eagle2", new_tokens=11, seconds=(1.0,)),
        answer("eagle auto + lookup", 1, method="eagle", new_tokens=11, seconds=(2.0,)),
        answer("medusa", 1, cycles=10, cycle_tokens=20, new_tokens=11, seconds=(8.0,)),
    )
    [table] = expectations(found)
    claims = {claim: numbers for claim, _, _, numbers in table.rows}
    assert claims["speed-up: eagle2 auto + lookup > eagle auto + lookup"] == "4.000, 2.000"
    assert not [claim for claim in claims if claim.startswith("tau") and "auto" in claim]


@pytest.fixture
def counted(tmp_path):
    counts = {
        "calibration": [[n, n // 2, n * (at + 0.5) / 20] for at, n in enumerate(range(20))],
        "positions": {"1": [30, 30, 20], "1.1": [30, 20, 10], "2": [30, 30, 5]},
        "seconds": {"draft": 1.0, "tree": 0.1, "verify": 2.0, "walk": 0.1, "commit": 0.1, "other": 0.1},
    }
    drafted = {
        "draft_tokens": 300,
        "accepted_by_depth": [20, 10],
        "drafted_by_depth": [30, 30],
        "counts": counts,
    }
    rows = []
    for n in range(4):
        rows.append(answer("autoregressive", n, cycles=30, new_tokens=31, seconds=(2.0,)))
        rows.append(answer("eagle2", n, cycles=30, cycle_tokens=60, new_tokens=61, seconds=(1.0,), **drafted))
    return folder(tmp_path / "counted", *rows)


def test_every_figure_of_the_paper_is_drawn(report, counted):
    pytest.importorskip("matplotlib")
    figures = counted / "figures"
    assert report(counted, "--figures", figures, "--html", counted / "page.html")[0] == 0
    assert {path.name for path in figures.iterdir()} == {
        f"{name}.{kind}" for name in PAPER_FIGURES for kind in ("svg", "png")
    }
    assert (counted / "page.html").read_text().count("<svg") == len(PAPER_FIGURES)


def test_rows_without_times_and_cycles_give_the_figures_that_they_can(report, tmp_path):
    pytest.importorskip("matplotlib")
    few = answer("autoregressive", 1), answer("eagle2", 1, cycle_tokens=20, draft_tokens=50)
    path = folder(tmp_path / "few", *few)
    assert report(path, "--figures", path / "figures")[0] == 0
    assert {file.stem for file in (path / "figures").iterdir()} == {"tau"}
