"""`eyas bench check`: changes beyond tolerance and noise fail, nothing else does."""

import pytest
from synthetic import answer, folder, results

from eyas.bench.check import Tolerance, compare_folders
from eyas.errors import ConfigError, DataError

QUESTIONS = range(8)


def made(path, *, tau=0, slower=1.0, plain=1.0, skip=(), noise=(0.99, 1.0, 1.01)):
    """Eight questions; eagle2's cycle tokens are `tau` more, its seconds `slower` times longer."""
    rows = []
    for n in QUESTIONS:
        rows.append(answer("autoregressive", n, seconds=tuple(plain * (n + 1) * x for x in noise)))
        lost = {"error": "ValueError: no"} if n in skip else {}
        seconds = () if n in skip else tuple(plain * slower * (n + 1) / 2 * x for x in noise)
        rows.append(answer("eagle2", n, cycles=10, cycle_tokens=20 + n + tau, seconds=seconds, **lost))
    return folder(path, *rows)


@pytest.fixture
def verdicts(eyas, tmp_path):
    """The verdicts of comparing an ordinary folder with a changed one."""

    def check(*words, before=None, **changed):
        first = made(tmp_path / "before", **(before or {}))
        done = eyas("bench", "check", first, made(tmp_path / "after", **changed), "--json", *words)
        rows = {(row[0], row[2]): row[-1] for row in done.document["rows"]}
        assert done.document["passed"] == (done.code == 0)
        return done.code, rows

    return check


def test_the_same_folder_passes(verdicts):
    code, rows = verdicts()
    assert code == 0
    assert rows == {
        ("autoregressive", "tokens/s"): "as before",
        ("eagle2", "tau"): "as before",
        ("eagle2", "tokens/s"): "as before",
    }


def test_what_got_slower_fails_and_what_got_faster_passes(verdicts):
    code, rows = verdicts(slower=1.2)
    assert (code, rows["eagle2", "tokens/s"]) == (1, "slower")
    code, rows = verdicts(slower=0.8)
    assert (code, rows["eagle2", "tokens/s"]) == (0, "faster")
    assert verdicts("--speed-tolerance", "0.3", slower=1.2)[0] == 0


def test_a_change_within_the_noise_passes(verdicts):
    wild = (0.5, 1.0, 2.0)
    assert verdicts(before={"noise": wild}, noise=wild, slower=1.1)[0] == 0


def test_acceptance(verdicts):
    code, rows = verdicts(tau=-2)
    assert (code, rows["eagle2", "tau"]) == (1, "lost acceptance")
    code, rows = verdicts(tau=2)
    assert (code, rows["eagle2", "tau"]) == (0, "gained acceptance")
    assert verdicts("--tau-tolerance", "0.2", tau=-2)[0] == 0


def test_lost_answers_fail(verdicts):
    code, rows = verdicts(skip=(1, 2))
    assert (code, rows["eagle2", "answers"]) == (1, "lost answers")
    assert verdicts(before={"skip": (1, 2)})[0] == 0


def test_what_only_the_first_folder_has_is_lost(eyas, tmp_path):
    def rows(name, temperature=0.0, seconds=(1.0, 1.1)):
        return [answer(name, n, temperature=temperature, seconds=seconds) for n in QUESTIONS]

    both = [*rows("autoregressive"), *rows("eagle2")]
    whole = folder(tmp_path / "whole", *both, *rows("pld"), *rows("eagle2", 1.0))
    smaller = folder(tmp_path / "smaller", *both)
    done = eyas("bench", "check", whole, smaller)
    assert done.code == 1
    assert done.err.splitlines() == [
        "eyas: eagle2 at T=1: lost answers (-100.0%)",
        "eyas: pld at T=0: lost answers (-100.0%)",
    ]
    assert eyas("bench", "check", smaller, whole).code == 0, "more is not less"

    half = [*both[:8], *both[8:12], *(answer("eagle2", n) for n in range(4, 8))]
    done = eyas("bench", "check", smaller, folder(tmp_path / "half", *half), "--normalise")
    assert (done.code, done.err) == (1, "eyas: eagle2 at T=0: lost speeds (-50.0%)\n")
    untimed = folder(tmp_path / "untimed", *rows("autoregressive", seconds=()), *rows("eagle2", seconds=()))
    done = eyas("bench", "check", smaller, untimed)
    assert done.code == 1
    assert [line.split(": ")[2] for line in done.err.splitlines()] == ["lost speeds (-100.0%)"] * 2
    assert eyas("bench", "check", untimed, smaller).code == 0


def test_two_machines_are_compared_by_speed_up(verdicts):
    assert verdicts(plain=2.0)[0] == 1
    code, rows = verdicts("--normalise", plain=2.0)
    assert code == 0
    assert rows["eagle2", "speed-up"] == "as before"
    assert verdicts("--normalise", plain=2.0, slower=1.2)[0] == 1


def test_numbers(tmp_path):
    before = results(
        tmp_path / "a", *(answer("eagle2", n, cycles=10, cycle_tokens=20, seconds=(1.0,)) for n in QUESTIONS)
    )
    after = results(
        tmp_path / "b", *(answer("eagle2", n, cycles=10, cycle_tokens=15, seconds=(2.0,)) for n in QUESTIONS)
    )
    tau, speed = compare_folders(before, after, Tolerance())
    assert (tau.before, tau.after, tau.change) == (2.0, 1.5, -0.25)
    assert tau.interval == (-0.25, -0.25)
    assert (speed.before, speed.after, speed.change) == pytest.approx((10.0, 5.0, -0.5))


def test_few_questions_are_not_judged(tmp_path):
    sides = [
        results(tmp_path / str(s), *(answer("eagle2", n, cycle_tokens=s) for n in range(4))) for s in (20, 10)
    ]
    [tau] = compare_folders(*sides, Tolerance())
    assert tau.outcome == "too few questions to tell"
    assert not tau.is_worse


def test_what_cannot_be_compared(tmp_path, eyas):
    one = results(tmp_path / "1", answer("eagle2", 1))
    other = results(tmp_path / "2", answer("eagle2", 2))
    with pytest.raises(DataError, match="no answer in common"):
        compare_folders(one, other, Tolerance())
    with pytest.raises(ConfigError, match=r"speed is -1.0"):
        Tolerance(speed=-1.0)
    assert "cannot read" in eyas("bench", "check", tmp_path / "1", tmp_path / "nowhere").error


def test_the_table_is_the_answer(eyas, tmp_path):
    done = eyas("bench", "check", made(tmp_path / "before"), made(tmp_path / "after", slower=1.5))
    assert done.code == 1
    assert done.out.startswith("Changes\n")
    assert done.err == "eyas: eagle2 at T=0: slower (-33.3%)\n"
