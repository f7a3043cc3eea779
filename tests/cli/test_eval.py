"""`eyas eval`: equal ids, resuming without double counting, and prompts that fail alone."""

import json
import signal
import time
from dataclasses import replace

import pytest

from eyas.engine.costs import CostTable

QUESTIONS = [{"question_id": n, "category": "c", "turns": [f"question {n}", "more"]} for n in range(6)]
OPTIONS = ("--max-new-tokens", "24", "--dtype", "float64", "--threads", "1", "--draft-tokens", "15")


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "tides.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return file


@pytest.fixture
def argv(model, questions, tmp_path):
    return ("eval", "--questions", questions, "--model", model, "--out", tmp_path / "out", *OPTIONS)


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]


def test_ids_are_equal_and_numbers_are_there(eyas, argv, tmp_path):
    done = eyas(*argv, "--temperature", "0,1", "--seeds", "0,1", "--limit", "2", "--json")
    assert done.code == 0, done.err
    summary = done.document
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["equality"] == {"equal": 6, "excused": 0, "failed": 0}
    found = {(c["method"], c["temperature"]): c["mean"] for c in summary["conditions"]}
    assert found["autoregressive", 1.0]["acceptance_length"] == 1.0
    assert found["eagle2", 1.0]["answers"] == 4
    assert found["eagle2", 0.0]["acceptance_length"] >= 1.0
    origin = summary["provenance"]
    assert origin["command_line"].startswith("eyas eval --questions")
    for key in ("versions", "cpu", "threads", "git_commit", "sources", "head_sha256", "started", "ended"):
        assert origin[key] or key == "git_commit"
    assert len(rows(tmp_path)) == 12


@pytest.mark.slow
def test_answers_made_together_are_those_made_alone(eyas, argv, tmp_path):
    settings = ("--temperature", "0,1", "--limit", "5", "--json")
    assert eyas(*argv, *settings).code == 0
    alone = {row["key"]: row["token_ids"] for row in rows(tmp_path)}
    (tmp_path / "out" / "rows.jsonl").unlink()
    done = eyas(*argv, *settings, "--batch", "3")
    assert done.code == 0, done.err
    assert done.document["equality"] == {"equal": 10, "excused": 0, "failed": 0}
    assert {row["key"]: row["token_ids"] for row in rows(tmp_path)} == alone
    assert done.document["conditions"][0]["mean"]["tokens_per_second"] is None
    assert "batch is 0" in eyas(*argv, "--batch", "0").error


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("where", ["begin", "propose"])
def test_an_answer_that_fails_costs_itself_only(eyas, argv, model, monkeypatch, batch, where):
    from eyas.drafters.eagle2 import Eagle2
    from eyas.models import Tokenizer

    [three] = Tokenizer.load(model).encode("3")

    class Picky:
        """A session that fails on question 3, in its prefill or in its second cycle."""

        def __init__(self, session):
            self.session, self.is_hard, self.cycles = session, False, 0

        def __getattr__(self, name):
            return getattr(self.session, name)

        def fork(self, *arguments):
            return Picky(self.session.fork(*arguments))

        def begin(self, context, keep=0):
            self.is_hard = three in context.prompt_ids
            self._stop("begin")
            self.session.begin(context, keep)

        def propose(self, *arguments):
            self.cycles += 1
            if self.cycles > 1:
                self._stop("propose")
            return self.session.propose(*arguments)

        def _stop(self, here):
            if self.is_hard and here == where:
                raise ValueError("too hard")

    open_session = Eagle2.open
    monkeypatch.setattr(Eagle2, "open", lambda drafter: Picky(open_session(drafter)))
    done = eyas(*argv, "--json", "--batch", batch)
    assert done.code == 1
    assert [(row["question_id"], row["error"]) for row in done.document["errors"]] == [
        (3, "ValueError: too hard")
    ]
    assert done.document["equality"]["equal"] == 5
    monkeypatch.setattr(Eagle2, "open", open_session)
    assert eyas(*argv, "--json", "--batch", batch).document["equality"]["equal"] == 6


def test_answers_of_an_older_eyas_are_named(eyas, argv, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.jsonl").write_text("{}")
    assert "answers.jsonl was written by an older eyas" in eyas(*argv, "--limit", "1").err


def test_trees_of_measured_size_are_stored_with_their_costs(eyas, model, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("eyas.drafters.policy.calibration.SECONDS", 0.0)
    words = ("--out", tmp_path / "out", "--tree", "auto", "--limit", "1", "--json", "--max-new-tokens", "12")
    done = eyas("eval", "--questions", questions, "--model", model, "--dtype", "float64", *words)
    assert done.code == 0, done.err
    summary = done.document
    assert summary["config"]["tree"] == "auto"
    assert CostTable.from_dict(summary["provenance"]["costs"]).digest == summary["config"]["cost_table"]


def test_the_table_is_the_answer(eyas, argv):
    done = eyas(*argv, "--limit", "1")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["method", "T", "set"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        [method, "0", name] for method in ("autoregressive", "eagle2") for name in ("tides", "mean")
    ]
    assert lines[-1] == "passed"


def test_a_second_run_asks_what_is_missing_only(eyas, argv, tmp_path):
    eyas(*argv, "--limit", "1", "--no-equal-check")
    assert len(rows(tmp_path)) == 1
    done = eyas(*argv, "--limit", "2")
    assert "1 of 4 answers are in" in done.err
    # Plain decoding twice, the second answer, and the first one again with its comparison.
    assert len(rows(tmp_path)) == 1 + 2 + 1 + 1
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["equality"]["equal"] == 2


def test_other_settings_are_told_apart(eyas, argv, tmp_path):
    eyas(*argv, "--limit", "1")
    done = eyas(*argv, "--limit", "1", "--draft-tokens", "7")
    assert "1 of 2 answers are in" in done.err, "plain decoding needs no tree"
    assert "1 answers in" in done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["config"]["draft_tokens"] == 7
    assert all(c["mean"]["answers"] == 1 for c in summary["conditions"])


def test_notes_in_the_place_of_answers_are_left_alone(eyas, argv, tmp_path):
    file = tmp_path / "out" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("my notes")
    assert "line 1: not a result row" in eyas(*argv, "--limit", "1").error
    assert file.read_text() == "my notes"


def test_a_summary_goes_where_a_link_leads(eyas, argv, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.json").symlink_to(tmp_path / "kept.json")
    assert eyas(*argv, "--limit", "1").code == 0
    assert json.loads((tmp_path / "kept.json").read_text())["passed"]


def test_a_failing_prompt_loses_itself_only(eyas, argv, questions):
    long = {"question_id": "long", "turns": ["x" * 400]}
    questions.write_text(questions.read_text() + json.dumps(long) + "\n")
    done = eyas(*argv, "--json")
    assert done.code == 1
    summary = done.document
    assert summary["problems"] == ["2 of 14 answers were lost to errors"]
    assert {row["question_id"] for row in summary["errors"]} == {"long"}
    assert "the prompt has" in summary["errors"][0]["error"]
    assert summary["equality"]["equal"] == 6


def test_a_difference_is_found_and_fails(eyas, argv, monkeypatch):
    from eyas.api.llm import LLM

    request = LLM.request

    def other(llm, prompt, options, choice=0, method=None):
        if method == "eagle2" and prompt == "question 1":
            options = replace(options, sampling=replace(options.sampling, logit_bias={9: 5.0}))
        return request(llm, prompt, options, choice, method)

    monkeypatch.setattr(LLM, "request", other)
    done = eyas(*argv, "--json")
    assert done.code == 1
    assert done.document["equality"] == {"equal": 5, "excused": 0, "failed": 1}
    [difference] = done.document["differences"]
    assert difference["question_id"] == 1
    assert difference["gap"] > 0
    assert "1 of 6 answers differ" in done.err


def wait_for_rows(tmp_path, count, process):
    file = tmp_path / "out" / "rows.jsonl"
    deadline = time.monotonic() + 240
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_it_goes_on_after_a_kill_and_after_ctrl_c(eyas, command, argv, tmp_path):
    argv = (*argv, "--seeds", "0,1", "--temperature", "0,1", "--json")
    killed = command(*argv)
    wait_for_rows(tmp_path, 3, killed)
    killed.kill()
    killed.communicate(timeout=120)
    made = len(rows(tmp_path))
    assert 3 <= made < 30

    stopped = command(*argv)
    wait_for_rows(tmp_path, made + 2, stopped)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=120)
    assert (stopped.returncode, out) == (130, b"")
    already, interrupted = err.decode().splitlines()[-2:]  # after the reason for the torch runtime
    assert already.startswith(f"eyas: {made} of 36 answers are in")
    assert interrupted == "eyas: interrupted"
    assert not (tmp_path / "out" / "summary.json").exists()

    made = len(rows(tmp_path))
    done = eyas(*argv)
    assert f"{made} of 36 answers are in" in done.err
    assert len(rows(tmp_path)) == 36
    whole = eyas(*argv, "--out", tmp_path / "whole").document
    assert [timeless(c) for c in done.document["conditions"]] == [timeless(c) for c in whole["conditions"]]


def timeless(numbers):
    """Without speeds, which no two runs share."""
    if not isinstance(numbers, dict):
        return numbers
    return {key: timeless(value) for key, value in numbers.items() if key != "tokens_per_second"}
