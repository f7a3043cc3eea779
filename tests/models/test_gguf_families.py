"""Every family's GGUF files say what its folders say: the same description, the same weights."""

from dataclasses import replace

import gguf
import numpy as np
import pytest

from eyas.engine.interfaces import TargetCall
from eyas.errors import ModelError
from eyas.models.families import open_tensors, read_spec
from eyas.models.formats import to_float32
from eyas.runtimes import load_runtime
from gguf_files import CONFIGS, SIZES, save, write_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a case's model, made on first use."""
    root = tmp_path_factory.mktemp("folders")

    def find(name):
        directory = root / name
        return directory if directory.exists() else save(CONFIGS[name](), directory)

    return find


def without_ropes(spec):
    """A description apart from its family's name and its rotary embeddings, and these."""
    layers = tuple(replace(layer, attention=replace(layer.attention, rope=None)) for layer in spec.layers)
    rest = replace(spec, family="", stack=replace(spec.stack, layers=layers))
    return rest, [layer.attention.rope for layer in spec.layers]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_file_says_what_the_folder_says(name, folder, tmp_path):
    directory = folder(name)
    file = write_gguf(directory, tmp_path / "model.gguf")
    spec, original = read_spec(file), read_spec(directory)
    (rest, ropes), (wanted_rest, wanted_ropes) = without_ropes(spec), without_ropes(original)
    assert rest == wanted_rest
    for rope, wanted in zip(ropes, wanted_ropes, strict=True):
        assert (rope is None) == (wanted is None)
        if rope is not None:
            assert rope.dim == wanted.dim
            assert rope.factor == pytest.approx(wanted.factor, rel=1e-6)
            np.testing.assert_allclose(rope.inverse_frequencies, wanted.inverse_frequencies, rtol=1e-6)
    tensors, originals = open_tensors(file, spec), open_tensors(directory, original)
    assert list(tensors) == list(originals)
    for each in originals:
        got, wanted = tensors.floats(each), originals.floats(each)
        # Gemma's norms lie in files with 1 added, which rounds.
        atol = 1e-7 if name.startswith("gemma") and "norm" in each else 0
        np.testing.assert_allclose(got, wanted, rtol=0, atol=atol, err_msg=each)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_torch_runtime_computes_from_a_file_what_transformers_does_from_the_folder(
    name, folder, tmp_path
):
    directory, token_ids = folder(name), np.random.default_rng(5).integers(0, 97, 30)
    stock = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, experts_implementation="eager"
    )
    with torch.inference_mode():
        wanted = stock(torch.from_numpy(token_ids)[None], use_cache=False).logits[0].numpy()
    runtime = load_runtime("torch", write_gguf(directory, tmp_path / "model.gguf"), name="a", dtype="float64")
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), token_ids)])
    got = np.stack([rows.logits(row) for row in range(len(token_ids))])
    assert np.ptp(wanted) > 1, "weights too small to notice anything"
    # Factors of frequencies are stored in float32; some softmaxes are float32 whatever the dtype.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2", "qwen3_moe"])
def test_parts_of_quantised_tensors_stay_quantised(name, folder, tmp_path):
    """Blocks lie along rows: rows of a fused tensor, and rows in another order, are copies of bytes."""
    kind, directory = gguf.GGMLQuantizationType.Q8_0, folder(name)
    file = write_gguf(directory, tmp_path / "model.gguf", kind=kind)
    tensors = open_tensors(file, read_spec(file))
    originals = open_tensors(directory, read_spec(directory))
    for each in originals:
        raw = tensors.raw(each)
        if len(raw.shape) > 1:
            wanted = gguf.quants.dequantize(gguf.quants.quantize(originals.floats(each), kind), kind)
            assert raw.format == "Q8_0"
            np.testing.assert_array_equal(to_float32(raw), wanted, err_msg=each)


def test_the_largest_gemmas_scale_by_another_size(tmp_path):
    """Files lack the scale; 46 layers are Gemma 2 27B, 62 are Gemma 3 27B."""
    for make, layers in ((transformers.Gemma2Config, 46), (transformers.Gemma3TextConfig, 62)):
        sizes = {**SIZES, "num_hidden_layers": layers, "hidden_size": 32, "intermediate_size": 8}
        config = make(**sizes, head_dim=4, query_pre_attn_scalar=32 // 4)
        directory = save(config, tmp_path / str(layers))
        spec = read_spec(write_gguf(directory, tmp_path / f"{layers}.gguf"))
        assert spec == read_spec(directory)
        assert spec.layers[0].attention.scale == 8**-0.5


def test_a_pattern_of_windows_in_the_file_counts(folder, tmp_path):
    pattern = [False, True, True]
    path = write_gguf(
        folder("gemma3"), tmp_path / "model.gguf", extra=lambda w: w.add_sliding_window_pattern(pattern)
    )
    spec = read_spec(path)
    assert [layer.attention.window for layer in spec.layers] == [0, 7, 7]
    assert spec.layers[0].attention.rope.theta == 1e6
    assert spec.layers[1].attention.rope.theta == 1e4


REFUSED = {
    "mixtures of experts": ("llama", lambda w: w.add_expert_count(8)),
    "rotates 8 of 16": ("qwen2", lambda w: w.add_rope_dimension_count(8)),
    "sliding window, as OLMo 3": ("olmo2", lambda w: w.add_sliding_window(64)),
    "'longrope', and its factors are missing": (
        "qwen2",
        lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE),
    ),
    "rope_freqs.weight, which has shape (5,)": (
        "llama",
        lambda w: w.add_tensor("rope_freqs.weight", np.ones(5, dtype=np.float32)),
    ),
    "scaled twice": (
        "llama-linear",
        lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32)),
    ),
    "yarn_ext_factor of 0.5": ("qwen2-yarn", lambda w: w.add_rope_scaling_yarn_ext_factor(0.5)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_config_says_is_refused_by_name(message, folder, tmp_path):
    name, extra = REFUSED[message]
    path = write_gguf(folder(name), tmp_path / "model.gguf", extra=extra)
    with pytest.raises(ModelError) as caught:
        read_spec(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
