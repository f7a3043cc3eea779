"""GGUF to a Hugging Face directory: weights, tokenizer, and what cannot be converted."""

import json

import gguf
import numpy as np
import pytest

from eyas.errors import ModelError
from eyas.models import Tokenizer, check_model_dir, read_tensor, tensor_places
from eyas.models.families import read_spec
from eyas.models.gguf_convert import convert_gguf
from eyas.models.weights import BFLOAT16
from tiny_gguf import HEADS, KV_HEADS, LAYERS, SIZE, TEMPLATE, permuted, tokens, weights, write_gguf


@pytest.fixture
def converted(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(write_gguf(tmp_path / "tiny.gguf"), folder)
    return folder


def read_all(folder):
    return {name: read_tensor(*place) for name, place in tensor_places(folder).items()}


def rounded(array):
    """Float32 values rounded to bfloat16."""
    return array.astype(BFLOAT16).astype(np.float32)


def test_weights_are_the_rounded_originals(converted):
    check_model_dir(converted)
    stored, wanted = read_all(converted), weights()
    assert stored.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(stored[name], rounded(array), err_msg=name)


def test_quantised_weights_are_the_rounded_dequantised_ones(tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", kind=kind), tmp_path)
    stored = read_all(tmp_path)
    for name, array in weights().items():
        if array.ndim == 2:
            heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
            # Q8_0 blocks lie along a row, so rounding and the order of rows do not touch.
            array = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
            assert heads is None or permuted(array, heads).shape == array.shape
        np.testing.assert_array_equal(stored[name], rounded(array), err_msg=name)


def test_another_family_is_converted_by_its_own_names(tmp_path):
    """Qwen 2 has biases, and llama.cpp leaves its query and key rows as they are."""
    generator = np.random.default_rng(4)
    sizes = {"q": HEADS * SIZE, "k": KV_HEADS * SIZE, "v": KV_HEADS * SIZE}
    biases = {
        (layer, part): generator.standard_normal(size).astype(np.float32)
        for layer in range(LAYERS)
        for part, size in sizes.items()
    }

    def add_biases(writer):
        for (layer, part), bias in biases.items():
            writer.add_tensor(f"blk.{layer}.attn_{part}.bias", bias)

    convert_gguf(write_gguf(tmp_path / "tiny.gguf", arch="qwen2", extra=add_biases), tmp_path)
    stored = read_all(tmp_path)
    for name, array in weights().items():
        np.testing.assert_array_equal(stored[name], rounded(array), err_msg=name)
    for (layer, part), bias in biases.items():
        name = f"model.layers.{layer}.self_attn.{part}_proj.bias"
        np.testing.assert_array_equal(stored[name], rounded(bias), err_msg=name)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])
    assert read_spec(tmp_path).layers[0].attention.bias


def test_config_says_what_the_file_says(converted):
    config = json.loads((converted / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == 50000.0
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert config["head_dim"] == SIZE
    assert config["vocab_size"] == len(tokens())


def test_transformers_computes_the_same_from_the_directory(converted, tmp_path):
    """No name is missing, tied or left over, and no shape is another."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = transformers.AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float64)
    state = {name: torch.tensor(rounded(array)) for name, array in weights().items()}
    theirs = transformers.AutoModelForCausalLM.from_config(ours.config).double()
    theirs.load_state_dict(state, strict=False)
    ids = torch.arange(5, 25)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_rounding_is_to_nearest_even_like_torch():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF, 0], dtype=np.uint32).view(np.float32)
    values = np.concatenate([values, ties])
    wanted = torch.tensor(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(rounded(values), wanted)


def test_the_tokenizer_splits_digits_and_keeps_spaces(converted):
    tokenizer = Tokenizer.load(converted)
    names = tokens()
    assert [names[i] for i in tokenizer.encode("x =    12")] == ["x", "Ġ=", "ĠĠĠĠ", "1", "2"]
    assert tokenizer.encode("hello<|im_end|>", parse_special=True) == [names.index("hello"), 2]
    assert 2 not in tokenizer.encode("hello<|im_end|>")
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.is_special(1)
    assert not tokenizer.is_special(5)
    assert tokenizer.stop_token_ids == (2,)
    assert tokenizer.vocab_size == len(names)
    assert json.loads((converted / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])
    assert ids[0] == 1
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|im_start|>user\nhello<|im_end|><|im_start|>assistant\n"
    )


def test_a_bos_is_added_where_the_file_asks_for_one(tmp_path):
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", extra=lambda w: w.add_add_bos_token(True)), tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("hello")[0] == 1
    assert tokenizer.encode("hello", add_special=False)[0] != 1


REFUSED = {
    "unknown GGUF architecture 'mystery'; known are": {"arch": "mystery"},
    "tokenizer is of the kind 'bert'": {"model": "bert"},
    "pre-tokenizer 'mystery'": {"pre": "mystery"},
    "llama.embedding_length": {"hidden": 0},
    "merges do not fit": {"merges": ["x yz"]},
    "not all different": {"tokens": [*tokens()[:-1], "x"]},
    "yarn_log_multiplier of 0.1": {
        "extra": lambda w: (
            w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
            w.add_rope_scaling_yarn_log_mul(0.1),
        ),
    },
    "dim_of_nothing": {
        "extra": lambda w: w.add_tensor("dim_of_nothing", np.ones(8, dtype=np.float32)),
    },
    "values are not as wide": {"extra": lambda w: w.add_value_length(8)},
    "blk.0.attn_q.bias": {
        "extra": lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(64, dtype=np.float32)),
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_converted_is_named(message, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", **REFUSED[message])
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ModelError) as caught:
        convert_gguf(path, folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("keep", [0, 3, 100, 20_000, -100])
def test_a_truncated_file_is_an_error(keep, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"is truncated|is no GGUF file"):
        convert_gguf(path, tmp_path)


def test_numbers_that_are_not_finite_are_an_error(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-4] + np.float32("nan").tobytes())
    with pytest.raises(ModelError, match="not finite"):
        convert_gguf(path, tmp_path)
