"""int8 keeps every piece of a row, however much larger another one is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.head_arrays import read_arrays, write_arrays
from eyas.errors import CheckpointError
from eyas.models.int8 import MOST_SPREAD, from_int8, pieces_apart, rounded, to_int8


def joined(ratio, seed=0, size=16, outputs=16):
    """Two halves of normal numbers, the first `ratio` times as large."""
    halves = np.random.default_rng(seed).standard_normal((2, outputs, size)).astype(np.float32)
    return np.concatenate((halves[0] * np.float32(ratio), halves[1]), axis=1)


def lost(weights, kept, columns):
    """The error of some columns relative to their size."""
    part, got = weights[:, columns], kept[:, columns]
    return float(np.sqrt(np.square(got - part).mean() / np.square(part).mean()))


@given(ratio=st.floats(1e-4, 1e4), seed=st.integers(0, 99))
def test_no_piece_is_lost_whatever_the_other_weighs(ratio, seed):
    weights = joined(ratio, seed)
    kept = rounded(weights, 16)
    for columns in (slice(0, 16), slice(16, 32)):
        assert lost(weights, kept, columns) < 0.35
    if max(ratio, 1 / ratio) > 2 * MOST_SPREAD:
        assert max(lost(weights, kept, slice(0, 16)), lost(weights, kept, slice(16, 32))) < 0.02


def test_one_scale_a_row_would_lose_the_smaller_half():
    """What it is for: a head whose embedding half weighed 360 times its feature half read no features."""
    weights = joined(360)
    values, scale = to_int8(weights)
    assert scale.shape == (16,)
    assert lost(weights, from_int8(values, scale), slice(16, 32)) > 0.9


@pytest.mark.parametrize(
    ("matrix", "size", "pieces"),
    [
        (joined(MOST_SPREAD * 0.8), 16, 1),
        (joined(MOST_SPREAD * 1.3), 16, 2),
        (joined(1000), 32, 1),
        (joined(1000), 12, 1),  # not pieces of that size
        (np.zeros((4, 8)), 4, 1),
        (np.concatenate((joined(1000), np.zeros((16, 16))), axis=1), 16, 3),
    ],
    ids=["alike", "apart", "one-piece", "odd", "zeros", "one-zero"],
)
def test_scales_are_shared_where_pieces_are_alike(matrix, size, pieces):
    assert pieces_apart(matrix, size) == pieces


def test_files_keep_pieces_apart(tmp_path):
    weights = joined(360)
    path = tmp_path / "model.safetensors"
    write_arrays(path, {"fc.weight": weights, "alike.weight": joined(2)}, "int8")
    arrays, _ = read_arrays(tmp_path, [path.name])
    assert lost(weights, arrays["fc.weight"], slice(16, 32)) < 0.02
    np.testing.assert_allclose(arrays["alike.weight"], joined(2), atol=0.05)


def test_scales_that_do_not_fit_are_refused(tmp_path):
    from safetensors.numpy import save_file

    for shape in [(3,), (4, 3), (4, 2, 1)]:
        arrays = {"a": np.ones((4, 8), np.int8), "a.scale": np.ones(shape, np.float32)}
        save_file(arrays, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="does not have a number for each row"):
            read_arrays(tmp_path, ["model.safetensors"])
