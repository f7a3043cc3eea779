"""Rates, speed-ups and intervals on rows made by hand, against numbers worked out on paper."""

import math

import pytest
from synthetic import answer, results

from eyas.bench import statistics as st
from eyas.bench.tables import tables


def two_sets(tmp_path):
    """Plain decoding at 10 and 5 tokens a second; eagle2 at 20 and 20 on set a, nothing timed on b."""
    return results(
        tmp_path / "two",
        answer("autoregressive", 1, new_tokens=11, seconds=(1.0, 1.0, 9.0)),
        answer("autoregressive", 2, new_tokens=11, seconds=(2.0,)),
        answer("autoregressive", 1, set="b", new_tokens=11),
        answer("eagle2", 1, new_tokens=11, cycles=4, cycle_tokens=10, seconds=(0.5, 0.4, 0.6), prefill=2.0),
        answer("eagle2", 2, new_tokens=11, cycles=5, cycle_tokens=11, seconds=(0.5,)),
        answer("eagle2", 1, set="b", new_tokens=11, cycles=2, cycle_tokens=10),
    )


def samples(found, name):
    return st.samples(found, name, 0.0)


def test_tau_pools_the_cycles_of_a_set_and_means_over_sets(tmp_path):
    found = two_sets(tmp_path)
    mine = samples(found, "eagle2")
    assert st.tau_of(st.of_set(mine, "a")) == 21 / 9
    assert st.over_sets(st.tau_of, found.sets, mine) == (21 / 9 + 5) / 2
    assert st.tau([]) is None


def test_a_speed_up_is_the_ratio_of_mean_speeds_over_shared_questions(tmp_path):
    found = two_sets(tmp_path)
    mine, plain = samples(found, "eagle2"), samples(found, "autoregressive")
    # Medians of repeats: 10/1 and 10/2 tokens a second against 10/0.5 twice.
    assert st.rates(plain.values()) == {("a", 1): 10.0, ("a", 2): 5.0}
    assert st.speedup(mine, plain) == 20 / 7.5
    # With prefill the first token counts too: 11/2 and 11/3 against 11/2.5 and 11/1.5.
    assert st.speedup(mine, plain, prefill=True) == pytest.approx((11 / 2.5 + 11 / 1.5) / (11 / 2 + 11 / 3))
    assert st.speedup_over_sets(found.sets, mine, plain) == pytest.approx(20 / 7.5)
    assert st.repeat_spread(mine) == pytest.approx((0.6 - 0.4) / 0.5)


def test_speed_ups_of_sets_have_a_geometric_mean(tmp_path):
    """Of 4 and 1 it is 2; so twice as fast on one set and half as fast on another is no gain."""
    found = results(
        tmp_path / "ratios",
        *(answer("autoregressive", n, set=name, seconds=(1.0,)) for n in (1, 2) for name in "ab"),
        *(answer("eagle2", n, set="a", seconds=(0.25,)) for n in (1, 2)),
        *(answer("eagle2", n, set="b", seconds=(1.0,)) for n in (1, 2)),
    )
    mine, plain = samples(found, "eagle2"), samples(found, "autoregressive")
    assert st.speedup_over_sets(found.sets, mine, plain) == pytest.approx(2.0)
    assert st.speedup_interval(mine, plain) == pytest.approx((2.0, 2.0))
    assert st.geometric_mean([None]) is None
    [table] = [table for table in tables(found) if table.id == "overall"]
    assert [row[4] for row in table.rows] == pytest.approx([1.0, 2.0])


def test_turns_and_seeds_of_a_question_are_one_speed(tmp_path):
    found = results(
        tmp_path / "turns",
        answer("autoregressive", 1, new_tokens=11, seconds=(1.0,)),
        answer("autoregressive", 1, turn=2, new_tokens=31, seconds=(1.0,)),
    )
    assert st.rates(samples(found, "autoregressive").values()) == {("a", 1): 20.0}


def test_errors_and_failed_rows_count_nowhere(tmp_path):
    found = results(
        tmp_path / "lost",
        answer("autoregressive", 1, seconds=(1.0,)),
        answer("autoregressive", 2, seconds=(1.0,)),
        answer("eagle2", 1, cycle_tokens=90, state="failed", seconds=(0.1,)),
        answer("eagle2", 2, error="ValueError: no"),
    )
    assert samples(found, "eagle2") == {}
    assert st.speedup(samples(found, "eagle2"), samples(found, "autoregressive")) is None


def test_one_question_has_no_interval_and_pairing_removes_what_is_common(tmp_path):
    easy_and_hard = [(30, 10), (12, 10), (20, 10), (25, 10), (15, 10), (28, 10)]
    found = results(
        tmp_path / "paired",
        *(answer("eagle2", n, cycle_tokens=t + 2, cycles=c) for n, (t, c) in enumerate(easy_and_hard)),
        *(answer("eagle", n, cycle_tokens=t, cycles=c) for n, (t, c) in enumerate(easy_and_hard)),
    )
    mine, other = samples(found, "eagle2"), samples(found, "eagle")
    low, high = st.tau_interval(mine)
    assert low < st.tau_of(mine) < high
    assert high - low > 0.5
    assert st.tau_interval(mine, other) == pytest.approx((0.2, 0.2))
    one = {key: sample for key, sample in mine.items() if key[1] == 0}
    assert st.tau_interval(one) is None, "it would be drawn again and again"
    assert st.tau_interval({}) is None
    assert st.tau_interval(mine) == st.tau_interval(mine), "the draws are fixed"


def test_an_interval_covers_as_often_as_it_says(tmp_path):
    draws = st.resampled([40])[0]
    assert draws.shape == (st.DRAWS, 40)
    values = [math.sin(n) for n in range(40)]
    means = sorted(sum(values[at] for at in row) / 40 for row in draws.tolist())
    low, high = st.interval([*means])
    assert sum(low <= value <= high for value in means) / len(means) == pytest.approx(0.95, abs=0.002)


def test_the_seconds_of_several_answers_are_added(tmp_path):
    counts = {"seconds": {"draft": 1.0, "verify": 3.0}}
    found = results(
        tmp_path / "counts", *(answer("eagle2", n, cycles=10, cycle_tokens=14, counts=counts) for n in (1, 2))
    )
    assert st.phase_seconds(samples(found, "eagle2").values()) == ({"draft": 2.0, "verify": 6.0}, 20)
