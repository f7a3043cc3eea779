"""Model directories are checked before anything is loaded; each fault is named."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from eyas.errors import CheckpointError, ModelError
from eyas.models import check_model_dir, read_header, read_json, read_tensor, resolve_model, tensor_places
from eyas.models.gguf_convert import convert_gguf
from eyas.models.weights import write_safetensors
from tiny_gguf import weights, write_gguf


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    convert_gguf(write_gguf(tmp_path / "tiny.gguf"), folder)
    return folder


def shard(folder):
    """Split the weights in two files with an index, as large models come."""
    tensors = weights()
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def refused(folder):
    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder))
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_whole_model_passes(model):
    check_model_dir(model)
    assert resolve_model(model) == model
    shard(model)
    check_model_dir(model)
    places = tensor_places(model)
    for name, array in weights().items():
        np.testing.assert_array_equal(read_tensor(*places[name]), array)


def test_no_config(model):
    (model / "config.json").unlink()
    assert "has no config.json" in refused(model)


@pytest.mark.parametrize("text", ["{", "[1]", "", "nul", "[" * 100_000])
def test_a_broken_config(text, model):
    (model / "config.json").write_text(text)
    assert "config.json" in refused(model)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_truncated_weights(keep, model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors" in refused(model)


def test_a_truncated_file_is_told_with_both_sizes(model):
    path = model / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    message = refused(model)
    assert str(size) in message
    assert str(size - 10) in message


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"3",
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}, "b": {"dtype": "F32", "shape": [1],'
        b' "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": "xy"}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_corrupt_headers(header, model):
    path = model / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "model.safetensors" in refused(model)


def test_a_header_longer_than_memory_is_not_read(model):
    path = model / "model.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + bytes(100))
    assert "truncated" in refused(model)


@given(position=st.integers(0, 2000), byte=st.integers(0, 255))
def test_any_flipped_byte_is_an_error_or_harmless(tmp_path_factory, position, byte):
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, dtype=np.int64)}, path)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    with contextlib.suppress(ModelError):  # anything else would be a traceback
        for entry in read_header(path).values():
            read_tensor(path, entry)


def test_wrong_shape_is_told_with_both_shapes(model):
    config = json.loads((model / "config.json").read_text())
    rows, width = config["vocab_size"], config["hidden_size"]
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    message = refused(model)
    assert f"[{rows}, {width}]" in message
    assert f"[7, {width}]" in message
    assert "embed_tokens.weight" in message


def test_pickled_weights_are_refused_by_name(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    message = refused(model)
    assert "pytorch_model.bin" in message
    assert "pickled" in message


def test_no_weights_at_all(model):
    (model / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(model)


def test_a_missing_shard(model):
    shard(model)
    (model / "b.safetensors").unlink()
    assert "lacks b.safetensors" in refused(model)


def test_a_truncated_shard(model):
    shard(model)
    path = model / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "b.safetensors" in refused(model)


def test_a_tensor_that_only_the_index_knows(model):
    shard(model)
    index = model / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"] | {"model.ghost.weight": "a.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "model.ghost.weight" in refused(model)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 3}])
def test_an_index_without_a_map(weight_map, model):
    shard(model)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map" in refused(model)


def test_unknown_names_say_what_there_is():
    with pytest.raises(ModelError, match=r"'nothing' is not a directory.*none yet"):
        resolve_model("nothing")
    for name in ("/no/such/place", "../no", "a/b/c", "~/x", ""):
        with pytest.raises(ModelError):
            resolve_model(name)


def test_the_readers_of_heads_raise_their_own_error(tmp_path):
    (tmp_path / "x").write_text("{")
    for read in (read_json, read_header):
        with pytest.raises(CheckpointError):
            read(tmp_path / "x", CheckpointError)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(lambda n: n != "__metadata__"),
        arrays.arrays(
            st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8]),
            arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    )
)
def test_what_is_written_is_read_by_us_and_by_the_library(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    write_safetensors(path, tensors)
    header = read_header(path)
    theirs = load_file(path)
    assert header.keys() == tensors.keys() == theirs.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(read_tensor(path, header[name]), array)
        np.testing.assert_array_equal(theirs[name], array)


def test_bfloat16_is_read_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    values = torch.randn(5, 7).to(torch.bfloat16)
    save_torch({"x": values}, tmp_path / "x.safetensors")
    [(name, entry)] = read_header(tmp_path / "x.safetensors").items()
    np.testing.assert_array_equal(read_tensor(tmp_path / "x.safetensors", entry), values.float().numpy())
    assert name == "x"
