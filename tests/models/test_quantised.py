"""A folder's tensors as blocks of a mix, quantised when they are asked for."""

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from eyas.errors import ConfigError, ModelError
from eyas.models import quantised
from eyas.models.families import open_tensors, read_spec
from eyas.models.formats import RawTensor, to_float32
from eyas.models.quantised import QuantisedTensors, quantise
from tiny import write_llama
from tiny_gguf import write_gguf

native = pytest.importorskip("eyas._native")


def open_tiny(directory, **changes):
    write_llama(directory, hidden_size=64, intermediate_size=96, **changes)
    return open_tensors(directory, read_spec(directory))


def test_matrices_are_blocks_of_the_mix_and_the_rest_as_stored(tmp_path):
    plain = open_tiny(tmp_path, tie_word_embeddings=False)
    tensors = QuantisedTensors(plain, "q4_k_m")
    assert {tensors.raw(name).format for name in tensors} == {"Q5_0", "Q8_0", "float32"}
    for name in tensors:
        raw, stored = tensors.raw(name), plain.raw(name)
        assert raw.shape == stored.shape
        if len(raw.shape) == 1:
            assert raw.format == stored.format
            np.testing.assert_array_equal(raw.data, stored.data)
        else:
            kind = gguf.GGMLQuantizationType[raw.format]
            np.testing.assert_array_equal(raw.data, gguf.quants.quantize(to_float32(stored), kind))
    assert tensors.raw("lm_head.weight").format == "Q8_0"
    np.testing.assert_array_equal(
        tensors.stored("layers.0.up.weight"), to_float32(tensors.raw("layers.0.up.weight"))
    )


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_large_tensors_are_quantised_in_parts(stored, tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((37, 64)).astype(np.float32)
    values = values.astype(quantised.BFLOAT16 if stored == "bfloat16" else stored)
    raw = RawTensor(values.view(np.uint8), stored, values.shape)
    whole = quantise(raw, "Q5_1", "a tensor")
    monkeypatch.setattr(quantised, "_NUMBERS", 5 * 64)
    parts = quantise(raw, "Q5_1", "a tensor")
    assert parts.format == "Q5_1"
    assert parts.shape == (37, 64)
    np.testing.assert_array_equal(parts.data, whole.data)


def test_a_tensor_of_experts_is_quantised_row_by_row():
    values = np.random.default_rng(0).standard_normal((3, 5, 32)).astype(np.float32)
    blocks = quantise(RawTensor(values.view(np.uint8), "float32", values.shape), "Q8_0", "a tensor")
    assert blocks.data.shape == (3, 5, 34)
    np.testing.assert_array_equal(blocks.data, gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e9])
def test_weights_that_blocks_cannot_hold_are_an_error(broken, tmp_path):
    plain = open_tiny(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    arrays = {other: np.array(plain.source.raw(other).data.view("f4")) for other in plain.source.names()}
    arrays = {other: array.reshape(plain.source.shape(other)) for other, array in arrays.items()}
    arrays[name][3, 5] = broken
    save_file(arrays, tmp_path / "model.safetensors")
    tensors = QuantisedTensors(open_tensors(tmp_path, read_spec(tmp_path)), "q8_0")
    tensors.raw("layers.0.up.weight")
    with pytest.raises(ModelError, match=r"layers\.1\.up\.weight holds 1 weights that .*65504"):
        tensors.raw("layers.1.up.weight")


def test_blocks_are_not_quantised_again(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    tensors = open_tensors(file, read_spec(file))
    with pytest.raises(ConfigError, match=r"dtype is 'q4_k', but .*tiny\.gguf is quantised already"):
        QuantisedTensors(tensors, "q4_k")


def test_floating_point_gguf_files_are_quantised(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    tensors = QuantisedTensors(open_tensors(file, read_spec(file)), "q8_0")
    assert tensors.raw("layers.1.query.weight").format == "Q8_0"
