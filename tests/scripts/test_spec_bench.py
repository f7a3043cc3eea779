"""Answers for Spec-Bench: read here as its speed.py reads them."""

import json

import numpy as np
import pytest
from benchmarks.paper.spec_bench import accept_lengths
from synthetic import answer, folder


def read(path):
    """Speeds and mean accepted tokens, in the steps of Spec-Bench's evaluation/speed.py."""
    speeds, lengths = [], []
    for line in path.read_text().splitlines():
        data = json.loads(line)
        tokens = sum(data["choices"][0]["new_tokens"])
        times = sum(data["choices"][0]["wall_time"])
        lengths.extend(data["choices"][0]["accept_lengths"])
        speeds.append(tokens / times)
    return np.array(speeds).mean(), np.mean(lengths)


def test_its_reader_finds_our_numbers(report, tmp_path):
    same = {"new_tokens": 31, "category": "rag"}
    drafted = {"cycles": 10, "cycle_tokens": 18, "accepted_by_depth": [6, 2], "drafted_by_depth": [10, 10]}
    words = {"token_ids": [1, 2], "text": "plain's"}
    path = folder(
        tmp_path / "made",
        answer("autoregressive", 7, cycles=30, seconds=(2.0, 3.0, 4.0), **same, **words),
        answer("autoregressive", 7, turn=2, cycles=30, seconds=(3.0,), **same, **words),
        answer("eagle2", 7, seconds=(1.0,), prefill=0.5, **same, **drafted),
        answer("eagle2", 7, turn=2, seconds=(1.5,), prefill=0.5, **same, **drafted),
        answer("eagle2", 7, temperature=1.0, seconds=(1.0,), text="hot", token_ids=[3], **same, **drafted),
    )
    code, _, _ = report(path, "--spec-bench-answers", tmp_path / "answers")
    assert code == 0
    speed, length = read(tmp_path / "answers" / "a" / "eagle2-temperature-0.jsonl")
    assert speed == 62 / 3.5
    assert length == pytest.approx(1.8)
    plain, one = read(tmp_path / "answers" / "a" / "autoregressive-temperature-0.jsonl")
    assert (plain, one) == (62 / 8.0, 1.0)
    [line] = (tmp_path / "answers" / "a" / "eagle2-temperature-0.jsonl").read_text().splitlines()
    data = json.loads(line)
    assert set(data) == {"question_id", "category", "answer_id", "model_id", "choices", "tstamp"}
    assert (data["question_id"], data["category"], data["model_id"]) == (7, "rag", "eagle2")
    assert set(data["choices"][0]) == {
        "index",
        "turns",
        "decoding_steps",
        "new_tokens",
        "wall_time",
        "accept_lengths",
    }
    assert data["choices"][0]["turns"] == ["plain's", "plain's"], "equal ids have plain decoding's text"
    assert data["choices"][0]["decoding_steps"] == [10, 10]


def test_cycles_come_back_from_their_counts():
    assert accept_lengths({"cycles": 5, "accepted_by_depth": [3, 1]}) == [3, 2, 2, 1, 1]
    assert accept_lengths({"cycles": 2, "accepted_by_depth": []}) == [1, 1]
    assert accept_lengths({"cycles": 0, "accepted_by_depth": []}) == []


def test_without_times_there_is_nothing_to_export(report, tmp_path):
    path = folder(tmp_path / "made", answer("autoregressive", 1))
    code, out, err = report(path, "--spec-bench-answers", tmp_path / "x")
    assert (code, out) == (2, "")
    assert "run with --repeats 1" in err


def test_a_place_of_the_wrong_kind_is_named(report, tmp_path):
    path = folder(tmp_path / "made", answer("autoregressive", 1, seconds=(1.0,), text="a", token_ids=[1]))
    code, _, err = report(path, "--spec-bench-answers", path / "rows.jsonl")
    assert code == 2
    assert "cannot make the folder" in err
