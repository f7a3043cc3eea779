"""`eyas bench run`: rows on equal ids, that survive kills, other code, and methods that fail."""

import json
import re
import resource
import signal
import time
from dataclasses import dataclass

import pytest

from eyas.bench.contenders import PRESETS
from eyas.drafters.autoregressive import Autoregressive, AutoregressiveSession
from eyas.drafters.registry import Method, methods
from eyas.engine.interfaces import DraftOptions
from eyas.engine.verification import SPECULATIVE_SAMPLING

SOURCES = "eyas.bench.plan.sources_hash"


@pytest.fixture
def registered(monkeypatch):
    """Add methods for one test."""

    def add(name, drafter, **own):
        monkeypatch.setattr(
            "eyas.drafters.registry._METHODS", {**methods(), name: Method(name, drafter, **own)}
        )

    return add


def test_every_prompt_is_checked_then_timed_in_turns(eyas, argv, rows, tmp_path):
    done = eyas(*argv, "--methods", "eagle2", "pld", "--repeats", "2", "--temperature", "0,1", "--json")
    assert done.code == 0, done.err
    found = rows()
    # Three prompts (one question has two turns), two temperatures, three contenders, 1 + 2 answers.
    assert len(found) == 3 * 2 * 3 * 3
    assert {row["check"]["state"] for row in found} == {"equal"}
    first = [(row["repeat"], row["contender"]) for row in found[:9]]
    plain, tree, lookup = "autoregressive", "eagle2", "pld"
    assert first == [
        *((0, plain), (0, tree), (0, lookup)),
        *((1, plain), (1, tree), (1, lookup)),
        *((2, tree), (2, lookup), (2, plain)),
    ]
    table = done.document["tables"]["speedups-0"]
    assert table["columns"] == ["method", "tides", "mean"]
    assert [row[0] for row in table["rows"]] == [plain, tree, lookup]
    assert table["rows"][0][1] == [1.0, 1.0]
    assert all(row[1][0] > 0 and row[1][1] >= 1 for row in table["rows"])


def test_answers_keep_to_a_questions_schema(eyas, argv, rows, questions):
    schema = {"enum": ["one", "two"]}
    free, held = ({"question_id": n, "turns": ["what?"]} for n in (1, 2))
    questions.write_text("".join(json.dumps(row) + "\n" for row in (free, held | {"json_schema": schema})))
    done = eyas(*argv, "--methods", "eagle2", "pld", "--repeats", "1", "--temperature", "0,1")
    assert done.code == 0, done.err
    found = [row for row in rows() if row["text"] is not None]
    texts = {row["text"] for row in found if row["question_id"] == 2}
    assert texts
    assert all(json.loads(text) in ("one", "two") for text in texts)
    assert {row["check"]["state"] for row in rows()} == {"equal"}
    assert all(row["text"].strip()[:1] != '"' for row in found if row["question_id"] == 1)


def test_without_counted_cycles_the_checked_answer_is_timed(eyas, argv, rows):
    done = eyas(*argv, "--methods", "eagle2", "pld", "--repeats", "1", "--no-cycles", "--json")
    assert done.code == 0, done.err
    found = rows()
    assert len(found) == 3 * 3
    assert {(row["repeat"], row["timed"], row["cycles"] is None) for row in found} == {(0, True, True)}
    order = [row["contender"] for row in found]
    plain, tree, lookup = "autoregressive", "eagle2", "pld"
    assert order == [plain, tree, lookup, plain, lookup, tree, plain, tree, lookup], "in turns, plain first"
    assert all(row[1][0] > 0 for row in done.document["tables"]["speedups-0"]["rows"])


def test_the_second_turn_follows_plain_decodings_answer_for_all(eyas, argv, rows, tmp_path):
    eyas(*argv, "--repeats", "0")
    turns = {}
    for row in rows():
        turns.setdefault((row["question_id"], row["turn"]), set()).add(row["prompt_tokens"])
    assert set(turns) == {(1, 1), (2, 1), (2, 2)}
    assert all(len(lengths) == 1 for lengths in turns.values())
    assert min(turns[2, 2]) > max(turns[2, 1]) + 16
    eyas(*argv, "--repeats", "0", "--turns", "1", "--out", tmp_path / "one")
    assert {row["turn"] for row in rows("one")} == {1}
    assert "--turns 1" in eyas(*argv, "--raw").error


def test_what_made_the_rows_is_told(eyas, argv, tmp_path):
    eyas(*argv, "--repeats", "0", "--limit", "1")
    eyas(*argv, "--repeats", "0")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(run["sessions"]) == 2
    for session in run["sessions"]:
        assert session["command_line"].startswith("eyas bench run")
        for key in ("versions", "cpu", "sources", "started", "ended"):
            assert session[key], key
    [maker] = run["makers"].values()
    assert maker["dtype"] == "float32"
    assert maker["threads"] == 1
    assert run["contenders"]["eagle2"]["options"]["draft_tokens"] == 7
    assert run["contenders"]["eagle2"]["head_sha256"]
    assert run["contenders"]["autoregressive"]["head_sha256"] is None
    assert list(run["questions"]) == ["tides"]


def timeless(row):
    """A row without its seconds, which no two runs share."""
    stats = {name: value for name, value in row["stats"].items() if "second" not in name}
    cycles = row["cycles"] and {name: value for name, value in row["cycles"].items() if name != "seconds"}
    return row | {"stats": stats, "cycles": cycles}


def wait_for_rows(tmp_path, count, process):
    file = tmp_path / "out" / "rows.jsonl"
    deadline = time.monotonic() + 240
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_kill_and_ctrl_c_lose_nothing_and_count_nothing_twice(eyas, argv, start, rows, tmp_path):
    argv = (*argv, "--methods", "eagle2", "pld", "--repeats", "2")
    killed = start(*argv)
    wait_for_rows(tmp_path, 5, killed)
    killed.kill()
    killed.communicate()
    made = len(rows())
    with (tmp_path / "out" / "rows.jsonl").open("a") as file:
        file.write('{"key": "cut of')  # what a kill in the middle of a row leaves

    stopped = start(*argv)
    wait_for_rows(tmp_path, made + 3, stopped)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate()
    assert (stopped.returncode, out) == (130, b"")
    assert f"{made} of 27 answers are in" in err.decode()
    assert err.decode().splitlines()[-1] == "eyas: interrupted"

    assert eyas(*argv).code == 0
    assert eyas(*argv, "--out", tmp_path / "whole").code == 0
    assert [timeless(row) for row in rows()] == [timeless(row) for row in rows("whole")]
    again = eyas(*argv)
    assert "27 of 27 answers are in" in again.err
    assert len(rows()) == 27


def test_rows_of_other_code_are_refused_unless_asked(eyas, argv, rows, tmp_path, monkeypatch):
    eyas(*argv, "--repeats", "0", "--limit", "1")
    monkeypatch.setattr(SOURCES, lambda: "other code")
    refused = eyas(*argv, "--repeats", "0").error
    assert "2 of 2 rows" in refused
    assert "--mixed" in refused
    assert len(rows()) == 2
    mixed = eyas(*argv, "--repeats", "0", "--mixed")
    assert mixed.code == 0
    assert "2 of 6 answers are in" in mixed.err
    assert len(rows()) == 6
    assert "several codes" in eyas("bench", "report", tmp_path / "out").error
    assert eyas("bench", "report", tmp_path / "out", "--mixed").code == 0


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        (("--max-new-tokens", "4"), ("--max-new-tokens", "8"), "autoregressive .* max_new_tokens 4, not 8"),
        (
            ("--methods", "eagle2:draft_tokens=3,depth=2,name=x"),
            ("--methods", "eagle2:draft_tokens=4,depth=2,name=x"),
            "of x .* draft_tokens 3, not 4",
        ),
        (("--methods", "eagle2:name=x"), ("--methods", "pld:name=x"), "of x .* method eagle2, not pld"),
    ],
)
def test_other_options_in_one_folder_are_refused_by_name(eyas, argv, rows, first, then, told):
    short = ("--repeats", "0", "--limit", "1", "--max-new-tokens", "4")
    assert eyas(*argv, *short, *first).code == 0
    made = rows()
    for more in ((), ("--mixed",)):
        assert re.search(told, eyas(*argv, *short, *then, *more).error)
    assert rows() == made
    assert eyas(*argv, *short, *first, "--temperature", "0,1").code == 0, "new prompts are no others"


def test_another_question_file_of_the_same_name_is_refused(eyas, argv, questions, rows, tmp_path):
    short = ("--repeats", "0", "--limit", "1", "--max-new-tokens", "4")
    assert eyas(*argv, *short).code == 0
    questions.write_text(questions.read_text().replace('"question 1"', '"another one"'))
    assert "with another tides.jsonl; give the same" in eyas(*argv, *short).error
    (tmp_path / "out" / "run.json").unlink()
    assert "with other options; give the same" in eyas(*argv, *short).error


@pytest.mark.parametrize("content", ["my notes", "{}\n", '{"key": "a", "value": 1}\n'])
def test_a_file_of_others_is_left_as_it_was(eyas, argv, tmp_path, content):
    file = tmp_path / "out" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text(content)
    assert "choose another --out" in eyas(*argv).error
    assert file.read_text() == content


def test_a_method_that_raises_loses_its_prompt_only(eyas, argv, rows, registered):
    class Picky(AutoregressiveSession):
        def begin(self, context, keep=0):
            if len(context.prompt_ids) > 30:
                raise ValueError("too\nlong for me")

    class Drafter(Autoregressive):
        def open(self):
            return Picky()

    registered("picky", Drafter)
    done = eyas(*argv, "--methods", "picky", "--repeats", "1", "--json")
    assert done.code == 1
    assert "1 of 6 answers were lost to errors" in done.err
    lost = [row for row in rows() if row["error"]]
    assert [(row["question_id"], row["turn"], row["error"]) for row in lost] == [
        (2, 2, "ValueError: too long for me")
    ]
    assert [row[-1] for row in done.document["tables"]["lost"]["rows"]] == ["ValueError: too long for me"]
    assert sum(row["contender"] == "picky" and row["repeat"] == 1 for row in rows()) == 2


def test_other_ids_are_a_failed_row_and_never_a_speed(eyas, argv, rows, monkeypatch):
    from eyas.bench.cycles import answered

    def other(engine, request, counts=None):
        run = answered(engine, request, counts)
        if engine.drafter.name == "eagle2":
            run.generated[-2] ^= 1
        return run

    monkeypatch.setattr("eyas.bench.run.answered", other)
    done = eyas(*argv, "--repeats", "2", "--json")
    assert done.code == 1
    assert "3 of 3 answers differ" in done.err
    found = [row for row in rows() if row["contender"] == "eagle2"]
    assert [row["repeat"] for row in found] == [0, 0, 0]
    check = found[0]["check"]
    assert (check["state"], check["position"]) == ("failed", 14)
    assert check["token"] == check["plain_token"] ^ 1
    assert check["share"] == 14 / 16
    [_, failed] = done.document["tables"]["speedups-0"]["rows"]
    assert failed == ["eagle2", [None, None], [None, None]]


def test_what_is_not_promised_is_compared_as_a_share(eyas, argv, rows, registered):
    @dataclass(frozen=True, kw_only=True)
    class Options(DraftOptions):
        @property
        def rule(self):
            return SPECULATIVE_SAMPLING

    registered("ratio", Autoregressive, options=Options)
    done = eyas(*argv, "--methods", "ratio", "--repeats", "0", "--temperature", "1", "--json")
    assert done.code == 0
    found = [row for row in rows() if row["contender"] == "ratio"]
    assert {row["lossless"] for row in found} == {"distribution"}
    [_, line] = done.document["tables"]["ids"]["rows"]
    assert line[:4] == ["ratio", "1", "distribution", 3]


def test_presets_leave_out_what_has_no_networks(eyas, argv, registered, monkeypatch, tmp_path):
    from eyas.drafters.eagle2 import Eagle2

    registered("headless", Eagle2, head="medusa")
    monkeypatch.setitem(PRESETS, "two", ("headless", "eagle2"))
    done = eyas(*argv, "--methods", "two", "--repeats", "0", "--limit", "1", "--json")
    assert done.code == 0
    assert "left out: headless (no draft networks" in done.err
    assert done.document["tables"]["lost"]["rows"][0][0] == "headless"
    assert "no draft head" in eyas(*argv, "--methods", "headless").error


def test_peers_write_as_many_tokens_after_the_same_prompt(eyas, argv, rows, monkeypatch):
    prompts = []

    def absent(settings):
        raise ImportError("no", name="llama_cpp")

    def peer(settings):
        def run(prompt, count):
            prompts.append(tuple(prompt))
            return [1] * count, 0.25, 0.5

        return run

    monkeypatch.setattr(
        "eyas.bench.peers.PEERS",
        {"ones": peer, "short": lambda _: lambda p, n: ([1], 1.0, 1.0), "gone": absent},
    )
    done = eyas(
        *argv,
        "--peers",
        "ones",
        "short",
        "gone",
        "--repeats",
        "1",
        "--limit",
        "1",
        "--temperature",
        "0,1",
        "--json",
    )
    assert done.code == 1
    assert "left out: gone (llama_cpp is not installed)" in done.err
    made = [row for row in rows() if row["contender"] == "ones"]
    assert {row["temperature"] for row in made} == {0.0}
    assert all(len(row["token_ids"]) == 16 for row in made)
    assert {row["check"]["state"] for row in made} == {"other"}
    assert {row["error"] for row in rows() if row["contender"] == "short"} == {
        "DataError: it gave 1 tokens instead of 16"
    }
    assert len(set(prompts)) == 1
    table = done.document["tables"]["peers"]
    speeds = {row[0]: row[1:] for row in table["rows"]}
    assert speeds["ones"][:2] == [15 / 0.5, 0.25]
    assert "unknown peer" in eyas(*argv, "--peers", "someone").error


def test_a_full_disk_is_one_line_and_can_be_resumed(eyas, argv, start, rows, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))

    argv = (*argv, "--repeats", "2", "--no-cycles")
    full = start(*argv, preexec_fn=small_files)
    _, err = full.communicate()
    assert full.returncode == 2
    assert err.decode().splitlines()[-1].startswith("eyas: error: cannot write")
    made = len(rows())
    assert 0 < made < 12
    assert f"{made} of 12 answers" in eyas(*argv).err
    assert len(rows()) == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: not JSON"),
        ('{"question_id": 1, "turns": ["again"]}', "question_id 1 is in line 1 already"),
        ('{"question_id": 3, "turns": ["' + "x" * (1 << 20) + '"]}', "line 3: longer than 1048576 bytes"),
    ],
)
def test_a_broken_question_file_names_the_line(eyas, argv, questions, tmp_path, line, message):
    questions.write_text(questions.read_text() + line + "\n")
    assert message in eyas(*argv).error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "guess"), "unknown method 'guess'"),
        (("--temperature", "-1"), "temperature is -1.0"),
        (("--temperature", "0,0"), "temperatures has a value twice"),
        (("--seeds", ""), "seeds is empty"),
        (("--limit", "0"), "limit is 0"),
        (("--turns", "0"), "turns is 0"),
        (("--repeats", "-1"), "repeats is -1"),
        (("--questions", "nowhere"), "there is no question file 'nowhere'"),
        (("--head", "nowhere"), "holds no config.json"),
    ],
)
def test_errors_are_one_line(eyas, argv, words, message):
    assert message in eyas(*argv, *words).error
