"""`eyas bench report`: tables worked out by hand, in every form; marks in Markdown; what was expected."""

import json
import re

import pytest
from synthetic import answer, folder, results

from eyas.bench.render import markdown, terminal, write_markdown
from eyas.bench.summary import problems
from eyas.bench.tables import Table, tables
from eyas.errors import DataError


@pytest.fixture
def made(tmp_path):
    """Two sets and two temperatures; one loop, one failure, one error, one peer."""

    def plain_and_eagle2(set_, question, temperature, tokens, **own):
        same = {"set": set_, "temperature": temperature, "new_tokens": 21}
        drafted = {"draft_tokens": 100, "draft_forwards": 50}
        return [
            answer("autoregressive", question, cycles=20, seconds=(2.0,), **same),
            answer(
                "eagle2", question, cycles=10, cycle_tokens=tokens, seconds=(1.0,), **drafted, **same, **own
            ),
        ]

    return folder(
        tmp_path / "made",
        *plain_and_eagle2("a", 1, 0.0, 20),
        *plain_and_eagle2("a", 2, 0.0, 30, loops=True),
        *plain_and_eagle2("b", 1, 0.0, 40),
        *plain_and_eagle2("a", 1, 1.0, 15),
        answer("medusa", 1, cycles=10, cycle_tokens=15, state="failed", new_tokens=21),
        answer("medusa", 2, error="ValueError: no"),
        answer("medusa", 1, set="b", cycles=10, cycle_tokens=30, new_tokens=21, seconds=(4.0,)),
        answer(
            "transformers",
            1,
            method=None,
            lossless=None,
            state="other",
            share=0.5,
            new_tokens=21,
            seconds=(10.0,),
        ),
        run={"sessions": [{"cpu": "a <fast> one"}], "left_out": {"llama.cpp": "not installed"}},
    )


def tables_of(eyas, path):
    document = eyas("bench", "report", path, "--json").document
    return {name: {row[0]: row[1:] for row in table["rows"]} for name, table in document["tables"].items()}


def test_the_papers_table(eyas, made):
    found = tables_of(eyas, made)["paper-0"]
    assert found["autoregressive"] == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    assert found["eagle2"] == [[2.0, 2.5], [2.0, 4.0], [2.0, 3.25]]
    assert found["medusa"] == [[None, None], [0.5, 3.0], [0.5, 3.0]]
    assert tables_of(eyas, made)["paper-1"]["eagle2"] == [[2.0, 1.5], [None, None], [2.0, 1.5]]


def test_costs_loops_ids_and_what_was_lost(eyas, made):
    document = eyas("bench", "report", made, "--json").document["tables"]
    rows = {name: list(table["rows"]) for name, table in document.items()}
    costs = next(row for row in rows["costs"] if row[:2] == ["eagle2", "0"])
    assert costs[2:5] == [33 / 63, 150 / 63, 300 / 63]
    loops = next(row for row in rows["loops"] if row[:2] == ["eagle2", "0"])
    assert loops[2:] == [3, pytest.approx(1 / 3), 3.25, 3.0]
    ids = {row[0]: row for row in rows["ids"] if row[1] == "0"}
    #                                             all equal excused failed other errors
    assert ids["medusa"][2:] == ["ids", 3, 1, 0, 1, 0, 1, 1.0]
    assert ids["transformers"][2:] == [None, 1, 0, 0, 0, 1, 0, 0.5]
    peers = {row[0]: row[1:] for row in rows["peers"]}
    assert peers["transformers"] == [2.0, 1.0, 0.2, 0.5]
    assert peers["autoregressive"][0] == 10.0
    assert [(row[0], row[-1]) for row in rows["lost"]] == [
        ("medusa", "token 3 is 2, not 1 (gap 4)"),
        ("medusa", "ValueError: no"),
        ("llama.cpp", "left out: not installed"),
    ]


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
    [table] = [table for table in tables(found) if table.id == "tasks-a-0"]
    assert [name for name, _ in table.columns] == ["method", "mt_bench", "rag", "overall"]
    assert table.rows[1] == ["eagle2", (3.0, 3.0), (1.0, 1.0), (pytest.approx(7 / 3), 2.0)]


def test_differences_of_ablations_and_of_equal_budgets_have_intervals(tmp_path):
    names = {
        "eagle2": 30,
        "eagle2-without-value": 25,
        "eagle2-without-rerank": 30,
        "eagle2-equal": 28,
        "eagle": 24,
    }
    found = results(
        tmp_path / "ablations",
        *(
            answer(name, n, method=name.split("-")[0], cycles=10, cycle_tokens=tokens + n)
            for name, tokens in names.items()
            for n in range(4)
        ),
        answer("autoregressive", 0),
    )
    made = {table.id: {row[0]: row for row in table.rows} for table in tables(found)}
    without = made["ablations"]["eagle2-without-value"]
    assert without[2:5] == [2.65, pytest.approx(-0.5), pytest.approx((-0.5, -0.5))]
    assert made["equal-budget"]["eagle2-equal"][3] == pytest.approx(0.4)
    assert set(made["ablations"]) == {"eagle2", "eagle2-without-value", "eagle2-without-rerank"}

    from eyas.bench.expectations import expectations

    [table] = expectations(found)
    held = {claim: holds for claim, _, holds, _ in table.rows}
    assert held["tau: eagle2 > eagle2-without-value"] == "yes"
    assert held["tau: eagle2 >= eagle2-without-rerank"] == "yes"
    assert held["tau: eagle2 > eagle at equal size"] == "yes"
    assert held["tau: eagle2 > eagle"] == "yes"


def test_methods_are_compared_on_the_prompts_that_both_answered(eyas, tmp_path):
    path = folder(
        tmp_path / "half",
        *(answer("autoregressive", n) for n in (1, 2)),
        answer("eagle2", 1, cycles=10, cycle_tokens=20),
        answer("eagle2", 2, cycles=10, cycle_tokens=12),
        answer("eagle2-without-value", 1, method="eagle2", cycles=10, cycle_tokens=18),
    )
    rows = tables_of(eyas, path)
    assert rows["ablations"]["eagle2-without-value"][1:3] == [1.8, pytest.approx(-0.2)]
    assert rows["expectations"]["tau: eagle2 > eagle2-without-value"] == ["0", "yes", "2.000, 1.800"]


def test_an_expectation_that_does_not_hold_is_said_and_fails_nothing(eyas, tmp_path):
    path = folder(
        tmp_path / "bad",
        answer("autoregressive", 1),
        answer("eagle2", 1, cycles=10, cycle_tokens=12),
        answer("eagle", 1, cycles=10, cycle_tokens=14),
    )
    done = eyas("bench", "report", path)
    assert done.code == 0
    assert re.search(r"tau: eagle2 > eagle +0 +NO +1.200, 1.400", done.out)


TABLE = Table(
    "one",
    "One | two",
    [("name", "text"), ("x", "x"), ("both", "pair")],
    [["a|b", 1.5, (2.0, None)]],
    "A note.",
)


def test_forms():
    assert markdown([TABLE]) == (
        "### One | two\n\n| name | x | both |\n|---|--:|--:|\n| a\\|b | 1.50x | 2.00x / - |\n\nA note.\n"
    )
    assert terminal([TABLE]) == "One | two\nname      x       both\na|b   1.50x  2.00x / -\nA note.\n"


def test_marks_in_a_file_are_filled_again_and_again(tmp_path):
    path = tmp_path / "page.md"
    before = "# Title\n<!-- eyas bench: one -->\nold\n<!-- /eyas bench -->\nafter\n"
    path.write_text(before)
    write_markdown(path, [TABLE], "x")
    once = path.read_text()
    assert once.startswith("# Title\n<!-- eyas bench: one -->\n")
    assert once.endswith("<!-- /eyas bench -->\nafter\n")
    assert "old" not in once
    assert "1.50x" in once
    write_markdown(path, [TABLE], "x")
    assert path.read_text() == once


def test_a_file_without_marks_or_with_a_wrong_one_is_left_alone(tmp_path):
    path = tmp_path / "page.md"
    for text, message in (
        ("mine", "has no place for tables"),
        ("<!-- eyas bench: two -->\n<!-- /eyas bench -->", "wants a table 'two'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            write_markdown(path, [TABLE], "x")
        assert path.read_text() == text
    write_markdown(tmp_path / "new.md", [TABLE], "Heading")
    assert (tmp_path / "new.md").read_text().startswith("# Heading\n\n### One")


def test_the_page_stands_alone_and_escapes(eyas, made, tmp_path):
    pytest.importorskip("matplotlib")
    done = eyas("bench", "report", made, "--html", tmp_path / "page.html", "--markdown", tmp_path / "page.md")
    assert done.code == 0
    page = (tmp_path / "page.html").read_text()
    assert "a &lt;fast&gt; one" in page
    assert page.count("<svg") >= 1
    assert not re.search(r'(src|href)="http', page)
    assert "2.00x / 3.25" in page
    assert "2.00x / 3.25" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("", "holds no rows"),
        ("{}\n", "line 1: not a result row"),
        ('{"key": "a"}\n', "a row without 'asked'"),
    ],
)
def test_what_is_no_result_folder(eyas, tmp_path, content, message):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    assert message in eyas("bench", "report", tmp_path).error


def test_a_folder_of_several_options_is_refused(eyas, tmp_path):
    first, again = answer("eagle2", 1, seconds=(1.0,)), answer("eagle2", 1, seconds=(9.0,))
    for row in again:
        row["asked"] += "otherwise"
        row["key"] += "otherwise"
    path = folder(tmp_path / "several", answer("autoregressive", 1), first, again)
    for words in (("report", path), ("report", path, "--mixed"), ("plot", path), ("check", path, path)):
        assert "answer question 1 of a for eagle2 at T=0 with several options" in eyas("bench", *words).error
    again[0]["turn"] = again[1]["turn"] = 2
    assert eyas("bench", "report", folder(path, answer("autoregressive", 1), first, again)).code == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--html", "cannot write {}/: Is a directory"),
        ("--markdown", "cannot write {}/: Is a directory"),
        ("--spec-bench-answers", "cannot make the folder {}/rows.jsonl/a: Not a directory"),
    ],
)
def test_a_place_of_the_wrong_kind_is_named(eyas, made, option, message):
    place = made / "rows.jsonl" if "spec" in option else made
    done = eyas("bench", "report", made, option, place)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"eyas: error: {message.format(made).replace('/:', ':')}")
    assert (made / "rows.jsonl").is_file()


def test_a_file_that_is_no_text_takes_no_tables(eyas, made):
    (made / "page.md").write_bytes(b"\xff")
    assert "is not UTF-8" in eyas("bench", "report", made, "--markdown", made / "page.md").error


def test_a_broken_run_document_is_named(eyas, made):
    (made / "run.json").write_text("{")
    assert "run.json" in eyas("bench", "report", made).error


def test_two_heads_of_one_contender_are_mixed(eyas, tmp_path):
    path = folder(
        tmp_path / "heads",
        answer("autoregressive", 1),
        answer("eagle2", 1, head="x"),
        answer("eagle2", 2, head="y"),
    )
    assert "several codes, models, heads" in eyas("bench", "report", path).error
    assert json.loads(eyas("bench", "report", path, "--mixed", "--json").out)["tables"]["paper-0"]


def test_more_near_ties_than_float32_allows_do_not_pass(tmp_path):
    many = [answer("eagle2", n, state="excused" if n < 2 else "equal")[0] for n in range(101)]
    plain = answer("autoregressive", 1)
    assert problems([*plain, *many[1:]], "float32") == []
    found = problems([*plain, *many], "float32")
    assert found == ["2 of 101 answers differ at near ties; float32 allows 1 in 100"]
    assert problems([*plain, *many], "bfloat16") == []
