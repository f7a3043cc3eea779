"""The packed file: made once, shared, never half written, and written again if it is broken."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eyas.engine.interfaces import TargetCall
from eyas.errors import FetchError
from eyas.models import cache_dir, digests, packed
from eyas.models.families import open_tensors, read_spec
from eyas.runtimes.native import load_native_runtime, matrices, packing
from tiny import write_llama

KINDS = ["float32", "bfloat16", "int8"]
TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture(autouse=True)
def _small_models_are_packed_too(monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("packed") / "model")


def logits(directory, dtype="float32"):
    runtime = load_native_runtime(directory, dtype=dtype, threads=1)
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), TOKENS)])
    return rows.logits(len(TOKENS) - 1)


def packed_files():
    return sorted((cache_dir() / "packed").glob("[!.]*"))


@pytest.mark.parametrize("dtype", KINDS)
def test_a_file_is_written_once_and_gives_the_same_bits(original, dtype, monkeypatch):
    wanted = logits(original, dtype)
    [file] = packed_files()
    assert dtype in file.name
    inode = file.stat().st_ino
    monkeypatch.setattr(packing.PackedWeights, "_write", None)  # would be an error
    np.testing.assert_array_equal(logits(original, dtype), wanted)
    assert packed_files() == [file]
    assert file.stat().st_ino == inode
    monkeypatch.setattr(packing, "SMALL", 1 << 30)  # packed in memory instead
    np.testing.assert_array_equal(logits(original, dtype), wanted)


def test_each_precision_has_a_file(original):
    for dtype in KINDS:
        logits(original, dtype)
    assert len(packed_files()) == 3


def test_small_models_write_nothing(original, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 1 << 30)
    logits(original)
    assert not (cache_dir() / "packed").exists()


def test_the_file_is_mapped_and_so_shared(original):
    runtime = load_native_runtime(original, dtype="float32", threads=1)
    [file] = packed_files()
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps here")
    lines = [line for line in maps.read_text().splitlines() if line.endswith(str(file))]
    assert lines
    assert all(line.split()[1].startswith("r--") for line in lines), "read-only"
    assert runtime.packed.num_bytes <= file.stat().st_size


def test_another_weight_is_another_name(original, tmp_path):
    model = shutil.copytree(original, tmp_path / "model")
    logits(model)
    weights = model / "model.safetensors"
    content, status = bytearray(weights.read_bytes()), weights.stat()
    content[-3] ^= 0x20  # the fingerprint's sample of the weights may miss it
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    logits(model)
    assert len(packed_files()) == 2


def test_another_description_is_another_name(original, tmp_path):
    """A tied LM head is another matrix of the same shape, from the same files."""
    model = shutil.copytree(original, tmp_path / "model")
    untied = logits(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert not np.array_equal(logits(model), untied)


def test_a_copy_or_a_new_time_stamp_packs_nothing_again(original, tmp_path, monkeypatch):
    wanted = logits(original)
    monkeypatch.setattr(packing.PackedWeights, "_write", None)  # would be an error
    copy = shutil.copytree(original, tmp_path / "elsewhere")
    os.utime(copy / "model.safetensors", ns=(1, 1))
    np.testing.assert_array_equal(logits(copy), wanted)
    assert len(packed_files()) == 1


def test_a_model_is_read_whole_once(original, monkeypatch):
    logits(original)
    monkeypatch.setattr(digests, "_sha256", lambda file: pytest.fail(f"{file} is read again"))
    logits(original)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{"])
def test_broken_memories_of_digests_do_no_harm(original, content):
    wanted = logits(original)
    (cache_dir() / "digests.json").write_text(content)
    np.testing.assert_array_equal(logits(original), wanted)
    assert len(packed_files()) == 1


def test_another_layout_is_another_name(original, monkeypatch):
    logits(original)
    matrices.layout_key.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(matrices, "_LANES", 8)  # packs gate and up in another order
        name = packing.packed_path(tensors_of(original), "float32", matrices.layout_key("float32")).name
    matrices.layout_key.cache_clear()
    [file] = packed_files()
    assert name.split("-")[:2] == file.name.split("-")[:2]
    assert name != file.name


def tensors_of(directory):
    return open_tensors(directory, read_spec(directory))


def test_unused_files_of_other_layouts_go(original, tmp_path):
    folder = cache_dir() / "packed"
    folder.mkdir(parents=True)
    old = folder / "0123456789abcdef-float32-00000000.safetensors"
    older = folder / "0123456789abcdef-89abcdef-float32-1.safetensors"  # named as files once were
    fresh = folder / "fedcba9876543210-float32-00000000.safetensors"
    for path in (old, older, fresh):
        path.write_bytes(b"x" * 100)
    for path in (old, older):
        os.utime(path, (0, 0))
    logits(original)
    assert not old.exists()
    assert not older.exists()
    assert fresh.exists(), "another version of eyas may be using it"


def test_the_least_recently_used_files_go_beyond_the_limit(original, tmp_path, monkeypatch):
    models = [original, *(write_llama(tmp_path / str(seed), seed=seed) for seed in (1, 2))]
    for model in models[:2]:
        logits(model)
    size = packed_files()[0].stat().st_size
    for age, path in enumerate(sorted(packed_files(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (age + 1, age + 1))
    logits(models[0])  # used again: now the second model's is the oldest
    [second] = [path for path in packed_files() if path.stat().st_mtime < 100]
    monkeypatch.setattr(packed, "LIMIT", 2 * size + size // 2)
    logits(models[2])
    assert len(packed_files()) == 2
    assert not second.exists()
    monkeypatch.setattr(packed, "LIMIT", 0)
    logits(models[2])
    logits(models[1])
    assert len(packed_files()) == 1, "the one in use stays"


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_truncated_file_is_written_again(original, dtype, left):
    wanted = logits(original, dtype)
    [file] = packed_files()
    content = file.read_bytes()
    file.write_bytes(content[:left])
    np.testing.assert_array_equal(logits(original, dtype), wanted)
    assert file.read_bytes() == content


@pytest.mark.parametrize("content", [b"\0" * 5000, b"\x40" + b"\0" * 7 + b"{" * 64, b"x"])
def test_a_file_of_something_else_is_written_again(original, content):
    wanted = logits(original)
    [file] = packed_files()
    file.write_bytes(content)
    np.testing.assert_array_equal(logits(original), wanted)
    assert file.stat().st_size > len(content)


def test_a_file_of_another_model_is_written_again(original, tmp_path):
    wanted = logits(original)
    [file] = packed_files()
    logits(write_llama(tmp_path / "other", vocab_size=80))
    [other] = [path for path in packed_files() if path != file]
    file.write_bytes(other.read_bytes())
    np.testing.assert_array_equal(logits(original), wanted)


def test_what_a_killed_writer_left_is_written_over(original):
    wanted = logits(original)
    [file] = packed_files()
    temporary = file.with_suffix(".tmp")
    file.unlink()
    temporary.write_bytes(b"half")
    np.testing.assert_array_equal(logits(original), wanted)
    assert packed_files() == [file]


SLOW_WRITER = """
import sys, time
from pathlib import Path
from eyas.runtimes.native import load_native_runtime, packing
packing.SMALL = 0
pack = packing.PackedWeights._pack
def slowly(self, name):
    print(name, flush=True)
    time.sleep(30 if sys.argv[2] == "hang" else 0.05)
    return pack(self, name)
packing.PackedWeights._pack = slowly
load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=1)
print("ready", flush=True)
"""


def start_writer(model, how):
    command = [sys.executable, "-c", SLOW_WRITER, str(model), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_writer_that_is_killed_leaves_the_place_to_the_next(original):
    with start_writer(original, "hang") as process:
        process.stdout.readline()  # it has the lock, and its temporary file is open
        process.send_signal(signal.SIGKILL)
    assert not [path for path in packed_files() if path.suffix == ".safetensors"]
    logits(original)
    [file] = packed_files()
    assert file.suffix == ".safetensors"


def test_two_writers_take_turns(original):
    with start_writer(original, "slow") as first:
        first.stdout.readline()
        with start_writer(original, "slow") as second:
            assert second.communicate()[0] == "ready\n", "the second one waited and packed nothing"
        assert first.communicate()[0].endswith("ready\n")
    assert len(packed_files()) == 1


def test_a_cache_that_cannot_be_written_is_one_line(original, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError) as caught:
        logits(original)
    assert "\n" not in str(caught.value)
    assert "EYAS_CACHE" in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(original, monkeypatch):
    def full(path, *_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "stream_safetensors", full)
    with pytest.raises(FetchError) as caught:
        logits(original)
    assert "No space left" in str(caught.value)
    assert "EYAS_CACHE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert packed_files() == []


def test_a_stopped_writer_leaves_nothing(original, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing.PackedWeights, "_pack", stop)
    with pytest.raises(KeyboardInterrupt):
        logits(original)
    assert packed_files() == []
    monkeypatch.undo()
    monkeypatch.setattr(packing, "SMALL", 0)
    logits(original)
