"""Families are found by name, described strictly, and can come from outside."""

import importlib.metadata
import json
import sys

import pytest

from eyas.errors import ModelError
from eyas.models import families as registry
from eyas.models.families import families, find_family, find_gguf_family, read_spec, register_family
from eyas.models.families.common import Config, decoder
from eyas.models.spec import GatedMLP, ModelSpec, MoE
from eyas.models.tensors import model_shapes

FAMILIES = [
    "gemma2",
    "gemma3",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
]
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
    assert list(families()) == FAMILIES
    assert find_family({"model_type": "qwen2"}).name == "qwen2"
    assert find_gguf_family("llama").name == "llama"
    with pytest.raises(ModelError, match="unknown model family 'mamba'; known are gemma2, gemma3"):
        find_family({"model_type": "mamba"})
    with pytest.raises(ModelError, match="unknown model family 'None'"):
        find_family({})
    with pytest.raises(
        ModelError, match="unknown GGUF architecture 'bert'; known are gemma2, gemma3, granite"
    ):
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


GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 9,
    "num_hidden_layers": 7,
}


def test_windows_of_families_that_alternate(tmp_path):
    def windows(model_type, **changes):
        described = read(tmp_path, model_type=model_type, **GEMMA, **changes)
        return [layer.attention.window for layer in described.layers]

    assert windows("gemma2") == [9, 0, 9, 0, 9, 0, 9]
    assert windows("gemma3_text") == [9, 9, 9, 9, 9, 0, 9]
    assert windows("gemma3_text", sliding_window_pattern=3) == [9, 9, 0, 9, 9, 0, 9]


def test_rotary_embeddings_of_gemma_3_in_both_spellings(tmp_path):
    """Before transformers 5 the entries stood side by side, and models with pictures have most of them."""
    old = {
        "rope_theta": 500.0,
        "rope_local_base_freq": 40.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
        }
    }
    one, other = (read(tmp_path, model_type="gemma3_text", **GEMMA, **entries) for entries in (old, new))
    assert one == other
    ropes = [one.layers[layer].attention.rope for layer in (4, 5)]
    assert [rope.theta for rope in ropes] == [40.0, 500.0]
    assert [rope.inverse_frequencies[0] for rope in ropes] == [1.0, 1 / 8]


def test_gemma_3_with_pictures_is_described_by_its_text_model(tmp_path):
    text = {"hidden_size": 48, "intermediate_size": 70, "num_hidden_layers": 2, "sliding_window": 9}
    document = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **text}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    described = read_spec(tmp_path)
    assert described.family == "gemma3"
    assert (described.vocab_size, described.layers[0].attention.head_dim) == (262_208, 256)
    names = families()["gemma3"].tensors
    assert (
        names.find("layers.1.query.weight").tensor == "language_model.model.layers.1.self_attn.q_proj.weight"
    )
    assert names.is_ignored("vision_tower.vision_model.embeddings.patch_embedding.weight")


def test_layers_without_positions(tmp_path):
    def rotating(**changes):
        described = read(tmp_path, model_type="smollm3", num_hidden_layers=5, **changes)
        return [layer.attention.rope is not None for layer in described.layers]

    assert rotating() == [True, True, True, False, True]
    assert rotating(no_rope_layer_interval=2) == [True, False, True, False, True]
    assert rotating(no_rope_layers=[0, 1, 1, 1, 0]) == [False, True, True, True, False]
    with pytest.raises(ModelError, match="no_rope_layers: it needs 5 numbers"):
        rotating(no_rope_layers=[0, 1])


MIXTURE = {
    "model_type": "qwen3_moe",
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
}


def test_layers_with_mixtures_of_experts(tmp_path):
    def mixtures(**changes):
        described = read(tmp_path, **MIXTURE, num_hidden_layers=4, **changes)
        return [isinstance(layer.mlp, MoE) for layer in described.layers]

    assert mixtures() == [True] * 4
    assert mixtures(decoder_sparse_step=2) == [False, True, False, True]
    assert mixtures(mlp_only_layers=[0, 2]) == [False, True, False, True]
    described = read(tmp_path, **MIXTURE)
    assert described.layers[0].mlp == MoE(experts=6, top_k=2, expert=GatedMLP(size=20))
    shapes = model_shapes(described)
    assert shapes["layers.2.router.weight"] == (6, 48)
    assert shapes["layers.2.expert_down.5.weight"] == (48, 20)
    assert "layers.2.gate.weight" not in shapes
    with pytest.raises(ModelError, match="num_experts_per_tok, which is 7"):
        read(tmp_path, **(MIXTURE | {"num_experts_per_tok": 7}))


LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}


def test_longrope_serves_the_original_context(tmp_path):
    """Beyond it the long factors would change the positions of all tokens, those before too."""
    phi = {"model_type": "phi3", "original_max_position_embeddings": 32}
    described = read(tmp_path, **phi, rope_scaling=LONGROPE)
    rope = described.layers[0].attention.rope
    assert described.context_limit == 32
    assert "longrope" in described.context_reason
    assert rope.inverse_frequencies == pytest.approx([1, 0.1 / 1.1, 0.01 / 1.2, 0.001 / 2])
    assert rope.factor == pytest.approx((1 + 2 / 5) ** 0.5)  # log 4 over log 32
    assert read(tmp_path, **phi, rope_scaling={**LONGROPE, "type": "su"}) == described
    equal = {**LONGROPE, "long_factor": LONGROPE["short_factor"]}
    assert read(tmp_path, **phi, rope_scaling=equal).context_limit == 128
    with pytest.raises(ModelError, match="short_factor: it needs 4 numbers and has 3"):
        read(tmp_path, **phi, rope_scaling={**LONGROPE, "short_factor": [1.0, 1.0, 1.0]})


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
        {"model_type": "granite", "logits_scaling": 0.0},
        {"model_type": "granite", "residual_multiplier": "much"},
        {"model_type": "gemma3", "text_config": None},
        {"model_type": "gemma2", "use_bidirectional_attention": True, "query_pre_attn_scalar": 8},
        {"model_type": "smollm3", "no_rope_layers": 3},
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
