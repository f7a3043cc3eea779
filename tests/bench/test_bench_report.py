"""`eyas bench report`: tables worked out by hand, in every form; marks in Markdown."""

import json
import re

import pytest
from synthetic import answer, folder

from eyas.bench.render import markdown, terminal, write_markdown
from eyas.bench.summary import problems
from eyas.bench.tables import Table
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
    found = tables_of(eyas, made)["speedups-0"]
    assert found["autoregressive"] == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    assert found["eagle2"] == [[2.0, 2.5], [2.0, 4.0], [2.0, 3.25]]
    assert found["medusa"] == [[None, None], [0.5, 3.0], [0.5, 3.0]]
    assert tables_of(eyas, made)["speedups-1"]["eagle2"] == [[2.0, 1.5], [None, None], [2.0, 1.5]]


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
        ("<!-- eyas bench: two -->\n<!-- /eyas bench -->", "asks for a table 'two'"),
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
    ],
)
def test_a_place_of_the_wrong_kind_is_named(eyas, made, option, message):
    done = eyas("bench", "report", made, option, made)
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
    assert json.loads(eyas("bench", "report", path, "--mixed", "--json").out)["tables"]["speedups-0"]


def test_more_near_ties_than_float32_allows_do_not_pass(tmp_path):
    many = [answer("eagle2", n, state="excused" if n < 2 else "equal")[0] for n in range(101)]
    plain = answer("autoregressive", 1)
    assert problems([*plain, *many[1:]], "float32") == []
    found = problems([*plain, *many], "float32")
    assert found == ["2 of 101 answers differ at near ties; float32 allows 1 in 100"]
    assert problems([*plain, *many], "bfloat16") == []


def test_more_near_ties_than_bfloat16_explains_do_not_pass():
    plain = answer("autoregressive", 1)
    few = [answer("eagle2", n, state="excused" if n % 3 else "equal")[0] for n in range(4)]
    assert problems([*plain, *few], "bfloat16") == [], "a few answers say nothing"
    many = [answer("eagle2", n, state="excused")[0] for n in range(60)]
    found = problems([*plain, *many], "bfloat16")
    assert found == ["60 of 60 answers differ at near ties, one in 4 tokens; bfloat16 allows one in 25"]
    rare = [answer("eagle2", n, state="excused", position=29)[0] for n in range(60)]
    assert problems([*plain, *rare], "bfloat16") == []
