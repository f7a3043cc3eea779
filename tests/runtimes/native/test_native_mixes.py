"""A folder quantised at loading is the GGUF file of that mix, bit for bit; it is quantised once."""

import shutil

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from eyas.engine.interfaces import TargetCall
from eyas.errors import ConfigError
from eyas.models import cache_dir, quantised
from eyas.models.families import open_tensors, read_spec
from eyas.models.formats import to_float32
from eyas.models.mixes import DRAFT_FORMATS, MIXES
from eyas.models.quantised import QuantisedTensors
from eyas.runtimes import choose_runtime
from eyas.runtimes.native import load_native_runtime, packing, precisions
from eyas.runtimes.native.matrices import make_matrix
from gguf_files import write_gguf
from tiny import write_llama

TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "pad_token_id": 0}
    return write_llama(tmp_path_factory.mktemp("mixes") / "model", **sizes)


def logits(model, **options):
    runtime = load_native_runtime(model, threads=1, **options)
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), TOKENS)])
    return np.stack([rows.logits(row) for row in range(len(TOKENS))])


def test_a_folder_in_a_mix_is_the_gguf_file_of_that_mix(folder, tmp_path):
    file = write_gguf(folder, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(logits(folder, dtype="q8_0"), logits(file))


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_is_its_dequantised_weights_but_for_int8_activations(mix, folder, tmp_path):
    tensors = QuantisedTensors(open_tensors(folder, read_spec(folder)), mix)
    arrays = {tensors.names.find(name).tensor: to_float32(tensors.raw(name)) for name in tensors}
    save_file(arrays, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    exact, found = logits(tmp_path, dtype="float32"), logits(folder, dtype=mix)
    assert np.sqrt(np.square(found - exact).mean() / np.square(exact).mean()) < 0.1
    assert load_native_runtime(folder, dtype=mix.upper(), threads=1).target.dtype == mix


@pytest.mark.parametrize("mix", ["q4_k_m", "q4_k"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_is_quantised_once(mix, tied, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)
    folder = write_llama(tmp_path / "model", hidden_size=64, tie_word_embeddings=tied)
    monkeypatch.setattr(packing, "SMALL", 1 << 30)
    wanted = logits(folder, dtype=mix)  # in memory
    monkeypatch.setattr(packing, "SMALL", 0)
    np.testing.assert_array_equal(logits(folder, dtype=mix), wanted)
    [file] = [path for path in (cache_dir() / "packed").glob("*.safetensors") if f"-{mix}-" in path.name]
    monkeypatch.setattr(quantised, "quantise", None)  # would be an error
    monkeypatch.setattr(packing.PackedWeights, "_write", None)
    np.testing.assert_array_equal(logits(folder, dtype=mix), wanted)
    assert file.exists()


def test_another_quantiser_writes_another_file(folder, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)

    def files():
        return {path.name for path in (cache_dir() / "packed").glob("[!.]*-q4_0-*")}

    logits(folder, dtype="q4_0")
    before = files()
    monkeypatch.setattr(packing, "quantiser_key", lambda name: "other")
    logits(folder, dtype="q4_0")
    assert len(files() - before) == 1


@pytest.mark.parametrize("draft_dtype", DRAFT_FORMATS)
def test_draft_layers_in_block_formats(draft_dtype, folder):
    """Rows of 128 numbers, which blocks of 256 do not divide, and of 100, which no block divides."""
    runtime = load_native_runtime(folder, dtype="float32", draft_dtype=draft_dtype, threads=1)
    rng = np.random.default_rng(0)
    for inputs in (256, 128, 100):
        weight = rng.standard_normal((48, inputs)).astype(np.float32)
        rows = rng.standard_normal((5, inputs)).astype(np.float32)
        wanted = rows @ weight.T
        error = runtime.linear(weight, None)(rows) - wanted
        assert np.sqrt(np.square(error).mean() / np.square(wanted).mean()) < 0.4
    assert runtime.lm_head(np.arange(0, 64, 3)).top_k(rows[:, :64], 4).token_ids.shape == (5, 4)


def test_precisions_by_name(folder, tmp_path):
    assert {"auto", "int8", "q4_k_m", "q8_0"} <= set(precisions())
    assert choose_runtime(folder, "Q4_K_M").name == "native"
    with pytest.raises(ConfigError, match=r"draft_dtype is 'q4_k_m'; .* it is auto, .*int8, q8_0, .*q4_k, "):
        load_native_runtime(folder, draft_dtype="q4_k_m")
    with pytest.raises(ConfigError, match=r"dtype is 'q4_k_x'; .* it is auto, .* q4_k_m, q4_k_s, "):
        load_native_runtime(folder, dtype="q4_k_x")
    file = write_gguf(folder, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(ConfigError, match=r"dtype is 'q4_k', but .* is quantised already"):
        load_native_runtime(file, dtype="q4_k")


def test_weights_of_blocks_are_not_quantised_again():
    weight = np.random.default_rng(0).standard_normal((33, 64)).astype(np.float32)
    blocks = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    make_matrix(blocks, "Q8_0", "a matrix")
