"""From rows to numbers: weights, means over sets, looping, and what does not pass."""

import pytest

from eyas.bench.summary import summarise
from eyas.engine.metrics import StatsCounter


def stats(cycles, tokens_per_cycle):
    counter = StatsCounter()
    for _ in range(cycles):
        counter.add_cycle(tokens_per_cycle - 1, 8, 3)
    return counter.finish(
        new_tokens=cycles * tokens_per_cycle + 1, draft_forwards=0, prefill_seconds=1, decode_seconds=2
    )


def row(cycles=10, tokens_per_cycle=2, *, name="a", state="equal", loops=False, error=None, **more):
    made = {
        "set": name,
        "question_id": 1,
        "method": "eagle2",
        "contender": more.get("method", "eagle2"),
        "lossless": "ids",
        "temperature": 0.0,
        "seed": 0,
        "error": error,
        "check": {"state": state, "position": 3},
    }
    if error is None:
        made |= {"loops": loops, "stats": stats(cycles, tokens_per_cycle).to_dict()}
    return made | more


def test_a_sets_length_is_weighted_by_cycles_and_sets_count_alike():
    rows = [row(30, 2), row(10, 4), row(1, 1, name="b")]
    [condition] = summarise(rows, "float32")["conditions"]
    assert condition["sets"]["a"]["acceptance_length"] == 2.5
    assert condition["sets"]["b"]["acceptance_length"] == 1.0
    assert condition["mean"]["acceptance_length"] == 1.75
    assert condition["mean"]["acceptance_rate_by_depth"] == pytest.approx([40 / 41, 10 / 41, 10 / 41])
    assert condition["sets"]["a"]["tokens_per_second"] == 25.0


def test_looping_answers_are_counted_and_left_out():
    rows = [row(10, 4, loops=True), row(10, 2), row(10, 2)]
    [condition] = summarise(rows, "float32")["conditions"]
    assert condition["mean"]["looping_share"] == pytest.approx(1 / 3)
    assert condition["mean"]["acceptance_length_without_loops"] == 2.0


def test_answers_without_a_cycle_have_no_length():
    [condition] = summarise([row(0, 2)], "float32")["conditions"]
    assert condition["mean"]["acceptance_length"] is None
    assert condition["mean"]["tokens_per_second"] is None


def test_methods_and_temperatures_are_kept_apart():
    rows = [
        row(),
        row(temperature=1.0),
        row(method="autoregressive"),
        row(temperature=1.0, seed=1),
    ]
    summary = summarise(rows, "float32")
    found = [(c["method"], c["temperature"], c["mean"]["answers"]) for c in summary["conditions"]]
    assert found == [("eagle2", 0.0, 1), ("eagle2", 1.0, 2), ("autoregressive", 0.0, 1)]
    assert summary["equality"] == {"equal": 3, "excused": 0, "failed": 0}


@pytest.mark.parametrize(
    ("states", "dtype", "passed"),
    [
        (["equal"] * 3, "float32", True),
        (["equal"] * 99 + ["excused"], "float32", True),
        (["equal"] * 98 + ["excused"], "float32", False),
        (["excused"] * 3, "bfloat16", True),
        (["equal"] * 300 + ["failed"], "bfloat16", False),
    ],
)
def test_what_passes(states, dtype, passed):
    assert summarise([row(1, 1, state=state) for state in states], dtype)["passed"] is passed


def test_a_lost_answer_is_named_and_does_not_pass():
    summary = summarise([row(), row(error="RuntimeError: gone", question_id=7)], "float32")
    assert summary["passed"] is False
    assert summary["problems"] == ["1 of 2 answers were lost to errors"]
    assert summary["errors"][0]["question_id"] == 7
    assert summary["conditions"][0]["mean"]["errors"] == 1


def test_a_batch_has_no_speed():
    [condition] = summarise([row(), row(batch=4)], "float32")["conditions"]
    assert condition["mean"]["tokens_per_second"] is None


def test_other_ids_of_a_method_that_does_not_promise_them_are_told_but_pass():
    summary = summarise([row(), row(state="other", lossless="distribution")], "float32")
    assert summary["equality"] == {"equal": 1, "excused": 0, "failed": 0}
    assert [difference["state"] for difference in summary["differences"]] == ["other"]
    assert summary["passed"]
