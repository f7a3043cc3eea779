"""Calibration, positions and their statistics, against numbers worked out on paper."""

import pytest
from benchmarks.paper.cycle_counts import by_position, calibration, dispersion, spearman
from synthetic import answer, results

from eyas.bench import statistics as st


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 10), (2, 20), (3, 30)], 1.0),
        ([(1, 3), (2, 2), (3, 1)], -1.0),
        ([(1, 1), (2, 3), (3, 2), (4, 4)], 0.8),  # 1 - 6 (1 + 1) / (4 * 15)
        ([(1, 1), (2, 1), (3, 2)], 3**0.5 / 2),  # ranks 1.5, 1.5, 3
        ([(1, 1), (2, 2)], None),
        ([(1, 1), (1, 2), (1, 3)], None),
    ],
)
def test_rank_correlation(points, expected):
    assert spearman(points) == (None if expected is None else pytest.approx(expected))


def test_dispersion_tells_contexts_from_chance():
    same = [(100, 50), (100, 48), (100, 52), (100, 50)]
    ratio, score = dispersion(same)
    assert ratio == pytest.approx((0 + 4 + 4 + 0) / 25 / 3)
    assert score < 0
    ratio, score = dispersion([(100, 20), (100, 80), (100, 50)])
    assert ratio == pytest.approx((900 + 900) / 25 / 2)
    assert score > 10
    assert dispersion([(10, 0), (10, 0), (10, 0)]) is None


def test_counts_of_several_answers_are_added(tmp_path):
    counts = {
        "calibration": [[0, 0, 0.0] for _ in range(20)],
        "positions": {"1": [10, 10, 4], "1.1": [8, 4, 2]},
    }
    counts["calibration"][2] = [4, 1, 0.5]
    found = results(
        tmp_path / "counts", *(answer("eagle2", n, cycles=10, cycle_tokens=14, counts=counts) for n in (1, 2))
    )
    mine = st.samples(found, "eagle2", 0.0).values()
    assert calibration(mine) == [(0.125, 0.25, 8)]
    assert by_position(mine) == {"1": [(10, 4)] * 2, "1.1": [(8, 2)] * 2}
