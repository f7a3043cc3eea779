"""Every family's GGUF files say what its folders say: the same description, the same weights."""

from dataclasses import replace

import gguf
import numpy as np
import pytest

from eyas.errors import ModelError
from eyas.models.families import open_tensors, read_family, read_spec
from eyas.models.formats import to_float32
from gguf_files import write_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.05, 1.1, 1.3, 2.0, 2.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
    "partial_rotary_factor": 0.75,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama-biases": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-head-dim": lambda: transformers.LlamaConfig(**SIZES, head_dim=24, tie_word_embeddings=True),
    "llama3": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-linear": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen2-yarn": lambda: transformers.Qwen2Config(**SIZES, rope_parameters=YARN),
    "qwen2-yarn-options": lambda: transformers.Qwen2Config(
        **SIZES, rope_parameters={**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25}
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=24),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=7
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=7
    ),
    "gemma3-scaled": lambda: transformers.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 7},
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=7,
        rope_parameters=GEMMA3_ROPE,
    ),
    "phi3": lambda: transformers.Phi3Config(**SIZES, sliding_window=9, original_max_position_embeddings=128),
    "phi3-longrope": lambda: transformers.Phi3Config(
        **SIZES, rope_parameters=LONGROPE, original_max_position_embeddings=32, tie_word_embeddings=True
    ),
    "smollm3": lambda: transformers.SmolLM3Config(**{**SIZES, "num_hidden_layers": 5}),
    "granite": lambda: transformers.GraniteConfig(
        **SIZES,
        attention_multiplier=0.015625,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=8.0,
    ),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
}


def save(config, directory):
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.25)
    model.save_pretrained(directory)
    return directory


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


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "mistral"])
def test_transformers_reads_the_file_s_config_alike(name, folder, tmp_path):
    """The torch runtime computes with a config made of the metadata."""
    directory = folder(name)
    _, config = read_family(write_gguf(directory, tmp_path / "model.gguf"))
    original = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, experts_implementation="eager"
    )
    made = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config), dtype=torch.float64, experts_implementation="eager"
    )
    made.load_state_dict(original.state_dict())
    ids = torch.randint(0, 97, (1, 30), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        got, wanted = (model.eval()(ids, use_cache=False).logits for model in (made, original))
    assert np.ptp(wanted.numpy()) > 1, "weights too small to notice anything"
    # Factors of frequencies are stored in float32.
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 if "3" in name else 1e-9)


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
