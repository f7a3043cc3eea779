"""`benchmarks/before_after.py`: ratios of medians, equal ids first, pairs that resume."""

import json

import pytest
from before_after import Pairs, told


def pair(before, after, *, ids=("a", "a"), prompt=0, repeat=0, method="autoregressive", temperature=0.0):
    sides = zip(("before", "after"), (before, after), ids, strict=True)
    name = {"dtype": "int8", "method": method, "temperature": temperature, "prompt": prompt, "repeat": repeat}
    return name | {side: {"seconds": seconds, "tokens": 10, "ids": own} for side, seconds, own in sides}


def test_the_ratio_is_that_of_medians_over_repeats_and_geometric_over_prompts(capsys):
    rows = [pair(4.0, 1.0), pair(2.0, 1.0, repeat=1), pair(2.0, 9.0, repeat=2), pair(8.0, 1.0, prompt=1)]
    assert told(rows) == 0
    out = capsys.readouterr().out
    assert "4.0000 +- 0.6931" in out  # sqrt(2 * 8); half the difference of the logarithms
    assert "all ids of 4 pairs are equal" in out


def test_rounds_of_the_server_are_measurements_of_their_own(capsys):
    rows = [pair(2.0, 1.0, method="served", temperature=None, repeat=n) for n in range(3)]
    assert told([*rows, pair(8.0, 1.0)]) == 0
    out = capsys.readouterr().out
    assert "int8 served" in out
    assert out.splitlines()[-2].split()[-1] == "4.0000", "every kind counts alike"


def test_no_speed_before_equal_ids(capsys):
    assert told([pair(1.0, 1.0), pair(1.0, 1.0, ids=("a", "b"), prompt=1)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 2 pairs have other ids" in err


def test_pairs_resume_and_other_settings_are_refused(tmp_path):
    path, row = tmp_path / "pairs.jsonl", pair(1.0, 2.0)
    name = {key: value for key, value in row.items() if key not in ("before", "after")}
    with Pairs(path, {"tokens": 10}) as pairs:
        assert not pairs.has(**name)
        pairs.add(name, {side: row[side] for side in ("before", "after")})
    path.write_text(path.read_text() + '{"cut of')
    with Pairs(path, {"tokens": 10}) as pairs:
        assert pairs.has(**name)
        assert pairs.rows == [row]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    with pytest.raises(SystemExit, match="choose another --out"):
        Pairs(path, {"tokens": 20})
