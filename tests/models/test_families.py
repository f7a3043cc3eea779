"""Families are found by name, described strictly, and can come from outside."""

import importlib.metadata
import json
import sys

import pytest

from eyas.errors import ModelError
from eyas.models import families as registry
from eyas.models.families import families, find_family, find_gguf_family, read_spec, register_family
from eyas.models.families.common import Config, decoder
from eyas.models.spec import ModelSpec
from eyas.models.tensors import model_shapes

LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


def read(directory, **changes):
    document = {key: value for key, value in (LLAMA | changes).items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(document))
    return read_spec(directory)


def test_the_families_by_name():
    assert list(families()) == ["llama", "mistral", "qwen2", "qwen3"]
    assert find_family({"model_type": "qwen2"}).name == "qwen2"
    assert find_gguf_family("llama").name == "llama"
    with pytest.raises(ModelError, match="unknown model family 'mamba'; known are llama, mistral"):
        find_family({"model_type": "mamba"})
    with pytest.raises(ModelError, match="unknown model family 'None'"):
        find_family({})
    with pytest.raises(ModelError, match="unknown GGUF architecture 'bert'; known are llama, qwen2"):
        find_gguf_family("bert")


def test_shapes_of_a_model(tmp_path):
    shapes = model_shapes(read(tmp_path, attention_bias=True, tie_word_embeddings=True))
    assert shapes["embedding.weight"] == (97, 48)
    assert "lm_head.weight" not in shapes
    assert shapes["layers.2.key.weight"] == (16, 48)
    assert shapes["layers.2.output.bias"] == (48,)
    assert "layers.0.gate.bias" not in shapes
    assert len(shapes) == 2 + 3 * 13


def test_windows_of_families(tmp_path):
    def windows(**changes):
        return [layer.attention.window for layer in read(tmp_path, sliding_window=9, **changes).layers]

    assert windows() == [0, 0, 0]
    assert windows(model_type="mistral") == [9, 9, 9]
    assert windows(model_type="qwen2") == [0, 0, 0]
    assert windows(model_type="qwen2", use_sliding_window=True, max_window_layers=1) == [0, 9, 9]
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(model_type="mistral", layer_types=types) == [9, 0, 9]


def test_equal_configs_have_equal_descriptions(tmp_path):
    assert read(tmp_path) == read(tmp_path, rope_theta=10000.0, hidden_act="silu")
    assert read(tmp_path) != read(tmp_path, rope_theta=500.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 2**31 - 1},
        {"partial_rotary_factor": 1e9},
        {"partial_rotary_factor": -0.5},
        {"partial_rotary_factor": 0.01},
        {"rope_parameters": 5},
        {"hidden_size": ...},
        {"vocab_size": "many"},
        {"sliding_window": -1},
        {"rms_norm_eps": "nan"},
    ],
    ids=str,
)
def test_impossible_entries_are_named_in_one_line(changes, tmp_path):
    with pytest.raises(ModelError) as caught:
        read(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_package_can_bring_a_family(tmp_path, monkeypatch):
    (tmp_path / "brought_family.py").write_text(
        "from eyas.models.families import register_family\n"
        "from eyas.models.families.common import decoder\n"
        "register_family('brought')(decoder)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_FAMILIES", dict(families()))
    points = importlib.metadata.EntryPoints(
        [importlib.metadata.EntryPoint("brought", "brought_family", "eyas.families")]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    registry._discover.cache_clear()
    try:
        assert "brought" in families()
        assert read(tmp_path, model_type="brought").family == "brought"
    finally:
        registry._discover.cache_clear()
        sys.modules.pop("brought_family", None)


def test_two_families_cannot_have_one_name():
    def spec(config: Config) -> ModelSpec:
        return decoder(config)

    families()
    with pytest.raises(AssertionError, match="two families are called 'llama'"):
        register_family("llama")(spec)
