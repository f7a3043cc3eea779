"""Kept features: what is read is what was written, or nothing."""

import numpy as np
import pytest

from eyas.engine.interfaces import FINAL
from eyas.errors import DataError
from eyas.training.feature_formats import GROUP, decode, encode
from eyas.training.feature_store import FeatureOptions, FeatureStore

HIDDEN = 40  # of int8 groups one and a part


def store(folder, target="t", shard_bytes=2000, **options):
    return FeatureStore(folder, target, HIDDEN, FeatureOptions(**options), shard_bytes)


def features(seed, rows=5, states=1):
    return np.random.default_rng(seed).standard_normal((rows, states * HIDDEN)).astype(np.float32)


def filled(folder, count=6, **options):
    made = store(folder, **options)
    for number in range(count):
        assert made.add(f"{number:016x}", features(number))
    made.flush()
    return made


def shards(folder):
    return sorted(folder.glob("features-*"))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_was_added_is_read_again(tmp_path, dtype):
    made = filled(tmp_path, feature_dtype=dtype)
    assert len(shards(tmp_path)) > 1
    assert not [path for path in tmp_path.iterdir() if path not in shards(tmp_path)]
    for again in (made, store(tmp_path)):
        for number in range(6):
            name, expected = f"{number:016x}", features(number)
            found = again.read(name, 5)
            np.testing.assert_array_equal(found, decode(encode(expected, dtype)))
            np.testing.assert_allclose(found, expected, atol=0.02, rtol=0.005)
            assert again.has(name, 5)
            assert not again.has(name, 6)  # it has no more rows
            assert again.read(name, 6) is None
        assert again.read("f" * 16, 1) is None


def test_answers_that_wait_can_be_read(tmp_path):
    made = store(tmp_path)
    made.add("a" * 16, features(1))
    assert made.is_waiting
    assert not shards(tmp_path)
    np.testing.assert_array_equal(made.read("a" * 16, 5), made.rounded(features(1)))
    assert store(tmp_path).read("a" * 16, 5) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_states_are_chosen_by_their_taps(tmp_path, dtype):
    made, whole = store(tmp_path, feature_dtype=dtype), features(3, states=3)
    made.add("a" * 16, whole, (7, 2, FINAL))
    made.flush()
    seven, two, final = np.split(made.rounded(whole), 3, axis=1)
    again = store(tmp_path)
    np.testing.assert_array_equal(again.read("a" * 16, 5), final)
    np.testing.assert_array_equal(again.read("a" * 16, 5, (2, FINAL)), np.hstack((two, final)))
    np.testing.assert_array_equal(again.read("a" * 16, 5, (2, 7, FINAL)), np.hstack((two, seven, final)))
    assert again.read("a" * 16, 5, (3, FINAL)) is None
    assert not again.has("a" * 16, 5, (3, FINAL))


def test_int8_keeps_small_numbers_beside_large_ones():
    """Each group of 32 has a scale of its own; half a step of it is the largest error."""
    rows = features(0, rows=50)
    rows[:, 3] *= 1000
    rows[0] = 0
    stored = encode(rows, "int8")
    assert stored.scale.shape == (50, 2)
    error = np.abs(decode(stored) - rows)
    steps = np.repeat(stored.scale.astype(np.float32), GROUP, axis=1)[:, :HIDDEN]
    assert (error <= 0.5 * steps + np.abs(rows) / 1000).all()
    assert error[:, GROUP:].max() < 0.02  # a scale for the row would lose them: its step is about 8
    assert not error[0].any()


def test_damage_is_found_wherever_it_is(tmp_path):
    """One bit, anywhere in a file, or its end missing."""
    rng = np.random.default_rng(0)
    for trial in range(40):
        folder = tmp_path / str(trial)
        filled(folder)
        before, path = shards(folder), shards(folder)[trial % 2]
        content = bytearray(path.read_bytes())
        if trial % 4 == 3:
            content = content[: rng.integers(len(content))]
        else:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        made = store(folder)
        for number in range(6):
            found = made.read(f"{number:016x}", 5)
            assert found is None or (found == made.rounded(features(number))).all()
        lost = [number for number in range(6) if made.read(f"{number:016x}", 5) is None]
        assert 0 < len(lost) < 6
        assert shards(folder) == [shard for shard in before if shard != path]  # the damaged one is gone
        for number in lost:
            made.add(f"{number:016x}", features(number))
        made.flush()
        assert all(store(folder).read(f"{number:016x}", 5) is not None for number in range(6))


def test_check_finds_damage_before_anything_is_read(tmp_path):
    filled(tmp_path)
    first = shards(tmp_path)[0]
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / ".unfinished-1").write_bytes(b"torn")
    made = store(tmp_path)
    assert all(made.has(f"{number:016x}", 5) for number in range(6))
    made.check()
    assert 0 < sum(made.has(f"{number:016x}", 5) for number in range(6)) < 6
    assert not (tmp_path / ".unfinished-1").exists()


def test_another_targets_features_are_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(DataError, match="of the target with fingerprint t, not of this one, u"):
        store(tmp_path, target="u")
    assert len(shards(tmp_path)) > 1


def test_files_of_others_stay(tmp_path):
    tmp_path.joinpath("features-mine.safetensors").write_text("mine")
    tmp_path.joinpath("notes").write_text("mine")
    filled(tmp_path).check()
    assert tmp_path.joinpath("features-mine.safetensors").read_text() == "mine"
    assert tmp_path.joinpath("notes").read_text() == "mine"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_folder_never_grows_beyond_its_limit(tmp_path, dtype):
    limit = 4000
    for _ in range(2):  # a second run counts what is there
        made = store(tmp_path, feature_gb=limit / 1e9, feature_dtype=dtype, shard_bytes=1500)
        kept = [made.add(f"{number:016x}", features(number)) for number in range(20)]
        made.flush()
        assert not all(kept)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    assert shards(tmp_path)


def test_two_writers_share_a_folder(tmp_path):
    one, other = store(tmp_path), store(tmp_path)
    one.add("a" * 16, features(1))
    other.add("b" * 16, features(2))
    one.flush()
    other.flush()
    assert one.read("b" * 16, 5) is None  # it looks when it writes
    one.add("c" * 16, features(3))
    one.flush()
    assert one.read("b" * 16, 5) is not None


def test_a_full_disk_ends_the_keeping_alone(small_disk, caplog):
    made = store(small_disk / "kept", shard_bytes=8000)
    results = [made.add(f"{number:016x}", features(number, rows=60)) for number in range(40)]
    assert not all(results)
    assert "no more features are kept" in caplog.text
    again = store(small_disk / "kept")
    found = [again.read(f"{number:016x}", 60) for number in range(40)]
    assert 0 < sum(rows is not None for rows in found) < 40
    for number, rows in enumerate(found):
        assert rows is None or (rows == made.rounded(features(number, rows=60))).all()
