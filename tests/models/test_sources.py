"""Sources give tensors as they are stored, and a family's names find them: blocks, slices, rotary order."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from eyas.errors import ModelError
from eyas.models.families import open_tensors, read_spec
from eyas.models.families.common import HUGGING_FACE
from eyas.models.formats import FORMATS, RawTensor, bad_scales, formats_of, row_bytes, to_float32
from eyas.models.sources import GGUFSource, SafetensorsSource, open_gguf
from eyas.models.tensors import ModelTensors, Slice
from tiny import write_llama
from tiny_gguf import weights, write_gguf

QUANTISED = [name for name in FORMATS if hasattr(gguf.GGMLQuantizationType, name)]


def test_blocks_are_those_of_the_gguf_library():
    assert len(QUANTISED) > 10
    for name in QUANTISED:
        block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert (FORMATS[name].block, FORMATS[name].num_bytes) == (block, num_bytes), name


def test_formats_that_runtimes_compute_with():
    assert formats_of("native") == ("float32", "bfloat16", "int8")
    assert formats_of("torch") == ("float32", "bfloat16", "float16", "float64")


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_gguf_blocks_come_as_they_are(name, tmp_path):
    kind = gguf.GGMLQuantizationType[name]
    source = GGUFSource(write_gguf(tmp_path / "tiny.gguf", kind=kind))
    wanted = gguf.quants.quantize(weights()["model.layers.0.mlp.up_proj.weight"], kind)
    raw = source.raw("blk.0.ffn_up.weight")
    assert (raw.format, raw.shape) == (name, (96, 64))
    np.testing.assert_array_equal(raw.data, wanted)
    np.testing.assert_array_equal(to_float32(raw), gguf.quants.dequantize(wanted, kind))
    assert raw.data.shape[1] == row_bytes(name, 64)


@pytest.mark.parametrize("kind", [None, gguf.GGMLQuantizationType.Q8_0])
def test_query_rows_of_a_gguf_file_come_in_rotate_halfs_order(kind, tmp_path):
    """Blocks lie along rows, so rows are put in order without being dequantised."""
    path = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    tensors = open_tensors(path, read_spec(path))
    for part in ("query", "key", "value"):
        wanted = weights()[f"model.layers.1.self_attn.{part[0]}_proj.weight"]
        if kind is not None:
            wanted = gguf.quants.dequantize(gguf.quants.quantize(wanted, kind), kind)
        raw = tensors.raw(f"layers.1.{part}.weight")
        assert raw.format == ("float32" if kind is None else "Q8_0")
        np.testing.assert_array_equal(to_float32(raw), wanted)


def test_a_fused_tensor_is_a_slice_in_the_map(tmp_path):
    directory = write_llama(tmp_path / "m")
    spec, source = read_spec(directory), SafetensorsSource(directory)
    plain = ModelTensors(source, spec, HUGGING_FACE)
    fused, parts = {}, {"qkv_proj": ("query", "key", "value"), "gate_up_proj": ("gate", "up")}
    names = replace(
        HUGGING_FACE,
        parts={
            **HUGGING_FACE.parts,
            **{part: Slice(f"self_attn.{name}", parts[name]) for name in parts for part in parts[name]},
        },
    )
    for tensor, together in names.groups(plain).items():
        fused[tensor] = np.concatenate([to_float32(plain.raw(part)) for part in together])
    (tmp_path / "fused").mkdir()
    save_file(fused, tmp_path / "fused" / "model.safetensors")
    tensors = ModelTensors(SafetensorsSource(tmp_path / "fused"), spec, names)
    assert "model.layers.0.self_attn.qkv_proj.weight" in fused
    for name in plain:
        np.testing.assert_array_equal(tensors.floats(name), plain.floats(name), err_msg=name)


def test_a_format_without_weights_is_refused_by_name(tmp_path):
    save_file({"x": np.ones(3, dtype=np.int16)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="x has unsupported dtype I16; expected BF16, F16, F32 or F64"):
        SafetensorsSource(tmp_path).raw("x")
    with pytest.raises(ModelError, match="unsupported dtype I16"):
        to_float32(RawTensor(np.zeros(2, dtype=np.uint8), "I16", (1,)))


def test_a_source_converts_nothing(tmp_path):
    arrays = {
        "half": np.array([[1.5, -2.25]], dtype=np.float16),
        "double": np.array([0.1, 0.2]),
        "scalar": np.array(3.0, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    source = SafetensorsSource(tmp_path)
    assert set(source.names()) == set(arrays)
    for name, array in arrays.items():
        raw = source.raw(name)
        assert raw.data.tobytes() == array.tobytes()
        np.testing.assert_array_equal(to_float32(raw), array.astype(np.float32))


def test_parts_of_a_model_are_one_source(tmp_path):
    whole = open_gguf(write_gguf(tmp_path / "whole.gguf"))
    first = write_gguf(tmp_path / "tiny.gguf", split=6)
    assert first.name == "tiny-00001-of-00004.gguf"
    source = open_gguf(first)
    assert len(source.files()) == 4
    assert set(source.names()) == set(whole.names())
    for name in whole.names():
        np.testing.assert_array_equal(source.raw(name).data, whole.raw(name).data, err_msg=name)
    assert read_spec(first) == read_spec(tmp_path / "whole.gguf")


def test_parts_that_do_not_make_a_model_are_named(tmp_path):
    first = write_gguf(tmp_path / "tiny.gguf", split=6)
    second, third = (first.with_name(f"tiny-0000{number}-of-00004.gguf") for number in (2, 3))
    with pytest.raises(ModelError, match=r"is not the first of its 4 parts; name tiny-00001-of-00004\.gguf"):
        open_gguf(second)
    content = third.read_bytes()
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelError, match="is not part 3 of 4"):
        open_gguf(first)
    third.write_bytes(content[:-100])
    with pytest.raises(ModelError, match=r"tiny-00003-of-00004\.gguf is truncated"):
        open_gguf(first)
    third.unlink()
    with pytest.raises(ModelError, match=r"tiny-00003-of-00004\.gguf cannot be read"):
        open_gguf(first)
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelError, match="is one of 4 parts, but is not called like it"):
        open_gguf(renamed)


def test_a_source_is_opened_once_and_again_after_a_change(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    source = open_gguf(path)
    assert open_gguf(path) is source
    write_gguf(path, seed=1)
    with pytest.raises(ModelError, match="has changed while it was in use"):
        source.raw("token_embd.weight")
    changed = open_gguf(path)
    assert changed is not source
    np.testing.assert_array_equal(
        to_float32(changed.raw("token_embd.weight")), weights(1)["model.embed_tokens.weight"]
    )


@pytest.mark.parametrize("name", [name for name in QUANTISED if FORMATS[name].block > 1])
def test_scales_that_are_no_numbers_are_counted(name):
    """By brute force: a float16 NaN or infinity anywhere that makes a dequantised number one."""
    weight_format, generator = FORMATS[name], np.random.default_rng(5)
    data = generator.integers(0, 8, (3, weight_format.num_bytes), dtype=np.uint8)
    raw = RawTensor(data, name, (3, weight_format.block))
    assert bad_scales(raw) == 0
    found = []
    for place in range(0, weight_format.num_bytes - 1, 2):
        for bits in (0x7E00, 0xFC00):
            broken = data.copy()
            broken[1, place : place + 2] = [bits & 0xFF, bits >> 8]
            with np.errstate(all="ignore"):
                values = to_float32(raw._replace(data=broken))
            is_bad = not np.isfinite(values).all()
            assert bad_scales(raw._replace(data=broken)) == is_bad, place
            found.append(is_bad)
    assert any(found) or name == "MXFP4"  # its scales are powers of two, all finite
