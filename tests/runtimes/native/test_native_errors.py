"""What the native runtime refuses: one line that names the fault and the remedy. And what "auto" means."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import eyas.runtimes.native as native
from eyas.engine.interfaces import TargetCall
from eyas.errors import ConfigError, ModelError
from eyas.runtimes import choose_runtime, load_runtime
from eyas.runtimes.native import load_native_runtime, unsupported
from tiny import VOCAB, write_llama


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("errors") / "model")


@pytest.fixture
def model(original, tmp_path):
    """A model that a test may break."""
    return shutil.copytree(original, tmp_path / "model")


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def refused(directory, **options):
    with pytest.raises((ModelError, ConfigError)) as caught:
        load_native_runtime(directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("option", ["dtype", "draft_dtype"])
def test_unknown_precisions(original, option):
    message = refused(original, **{option: "float64"})
    assert "'float64'" in message
    assert all(name in message for name in (option, "float32", "bfloat16", "int8"))


def test_unknown_precisions_of_keys_and_values(original):
    for kv_dtype in ("int8", "float16", ""):
        with pytest.raises(ConfigError, match=r"kv_dtype is .*it is auto, float32, bfloat16, q8_0"):
            load_native_runtime(original, kv_dtype=kv_dtype)
    with pytest.raises(ConfigError, match=r"kv_dtype is 'float32', but on torch .*--runtime native"):
        load_runtime("torch", original, name="a", kv_dtype="float32")


@pytest.mark.parametrize(
    ("dtype", "auto"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "bfloat16")]
)
def test_keys_and_values_have_the_precision_that_was_asked_for(original, dtype, auto):
    assert load_native_runtime(original, dtype=dtype).target.kv_dtype == auto
    for kv_dtype in ("float32", "bfloat16", "q8_0"):
        runtime = load_native_runtime(original, dtype=dtype, kv_dtype=kv_dtype)
        assert runtime.target.kv_dtype == kv_dtype


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "sse2"])
def test_an_instruction_set_that_is_missing(original, monkeypatch, name):
    monkeypatch.setenv("EYAS_ISA", name)
    message = refused(original)
    assert f"EYAS_ISA is {name!r}" in message
    assert "portable" in message


def test_an_instruction_set_that_is_there(original, monkeypatch):
    monkeypatch.setenv("EYAS_ISA", "portable")
    runtime = load_native_runtime(original)
    assert runtime.engine.isa == "portable"
    assert runtime.target.dtype == "float32", "auto is bfloat16 only where vectors widen it"


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_out_of_bounds(original, threads):
    assert f"threads is {threads}" in refused(original, threads=threads)


def test_an_unknown_family(model):
    edit_config(model, model_type="mamba")
    message = refused(model)
    assert "'mamba'" in message
    assert "llama, mistral, olmo2, phi3, qwen2, qwen3" in message
    assert "--runtime torch" in message


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"head_dim": 7}, "heads of 7"),
        ({"head_dim": 258}, "heads of 258"),
        ({"num_key_value_heads": 3}, "kv heads"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": ...}, "dynamic"),
        ({"rope_parameters": {"rope_type": "mystery"}}, "mystery"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ"),
        ({"hidden_act": "relu"}, "relu"),
        ({"intermediate_size": 60_000}, "vectors of 60000 numbers"),
    ],
)
def test_configs_that_cannot_be_honoured(model, changes, word):
    edit_config(model, **changes)
    message = refused(model)
    assert word in message
    assert "--runtime torch" in message
    assert unsupported(model) == message
    assert choose_runtime(model) == ("torch", message.removesuffix("; use --runtime torch."))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": ...},
        {"rms_norm_eps": ...},
        {"num_attention_heads": 0},
        {"num_hidden_layers": "two"},
        {"rope_parameters": {"rope_type": "linear"}},
        {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 0.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": float("nan")}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": -5.0}},
        {"rms_norm_eps": float("inf")},
        {"num_hidden_layers": 1e999},
        {"num_attention_heads": -4, "num_key_value_heads": -2, "head_dim": -8},
        {"max_position_embeddings": 2**31},
        {"max_position_embeddings": 0},
        {"model_type": "mistral", "sliding_window": -5},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["full_attention"] * 3},
        {"layer_types": "full_attention"},
        {"layer_types": ["chunked_attention"] * 2},
    ],
    ids=str,
)
def test_configs_that_lack_something(model, changes):
    edit_config(model, **changes)
    assert "config.json" in refused(model)


def test_a_window_wider_than_the_context_is_none(model):
    edit_config(model, model_type="mistral", sliding_window=2**33)
    load_native_runtime(model)


def test_weights_that_are_integers(model):
    edit_weights(model, lambda weights: weights.update({"model.norm.weight": np.ones(32, dtype=np.int32)}))
    assert "model.norm.weight has unsupported dtype I32; expected BF16" in refused(model)


@pytest.mark.parametrize("hidden_size", [0, -8])
def test_sizes_that_are_none(model, hidden_size):
    edit_config(model, hidden_size=hidden_size, head_dim=8)
    refused(model)


def test_no_model_or_half_a_model(model, tmp_path):
    assert "config.json" in refused(tmp_path / "nothing")
    with pytest.raises(ModelError):
        choose_runtime(tmp_path / "nothing")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(model)
    weights.unlink()
    assert "model.safetensors" in refused(model)
    (model / "config.json").write_text("{")
    assert "config.json" in refused(model)


def test_missing_misshapen_and_unknown_tensors(model):
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(model, lambda weights: weights.pop(name))
    assert f"lacks {name}" in refused(model)
    edit_weights(model, lambda weights: weights.update({name: np.zeros((3, 4), dtype="f4")}))
    message = refused(model)
    assert f"{name} of shape (3, 4)" in message
    assert "(48, 32)" in message
    edit_weights(model, lambda weights: weights.update({name: np.zeros((48, 32), dtype="f4")}))
    load_native_runtime(model)
    side = "model.layers.1.mlp.side_proj.weight"
    edit_weights(model, lambda weights: weights.update({side: np.zeros(2, dtype="f4")}))
    assert side in refused(model)


def test_old_checkpoints_may_store_frequencies(model):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(model, lambda weights: weights.update({name: np.zeros(4, dtype="f4")}))
    load_native_runtime(model)


def test_weights_of_a_type_that_numpy_lacks(model):
    path = model / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.norm.weight"]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert "F8_E4M3" in refused(model)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.mlp.gate_proj.weight",
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(model, name, dtype, fault):
    def spoil(weights):
        weights[name].flat[5] = fault

    edit_weights(model, spoil)
    message = refused(model, dtype=dtype)
    assert name in message
    assert "not finite" in message


def test_what_the_context_cannot_hold_changes_nothing(original):
    runtime = load_native_runtime(original, dtype="float32")
    cache, limit = runtime.new_cache(), runtime.target.context_limit
    prompt = np.arange(limit) % VOCAB
    runtime.forward([TargetCall(cache, prompt[:-1], last_only=True)])
    cache.commit(range(limit - 1))
    [wanted] = runtime.forward([TargetCall(cache, prompt[-1:])])
    wanted = wanted.logits(0)
    cache.commit([])
    with pytest.raises(ValueError, match="last position"):
        runtime.forward([TargetCall(cache, prompt[-2:])])
    [rows] = runtime.forward([TargetCall(cache, prompt[-1:])])
    np.testing.assert_array_equal(rows.logits(0), wanted)


def test_token_ids_outside_the_vocabulary_and_foreign_caches(original):
    runtime = load_native_runtime(original, dtype="float32")
    coarse = load_native_runtime(original, dtype="bfloat16")
    for cache, token in ((runtime.new_cache(), VOCAB), (runtime.new_cache(), -1), (coarse.new_cache(), 1)):
        with pytest.raises(ValueError, match=r"vocabulary|another network"):
            runtime.forward([TargetCall(cache, np.array([token]))])


def test_an_installation_without_the_module(original, monkeypatch):
    monkeypatch.setattr(native, "is_built", lambda: False)
    with pytest.raises(ConfigError) as caught:
        load_runtime("native", original, name="tiny")
    message = str(caught.value)
    assert "\n" not in message
    assert "compiler" in message
    assert "--runtime torch" in message
    assert choose_runtime(original) == ("torch", "this installation has no native runtime")


def test_an_unknown_runtime(original):
    with pytest.raises(ConfigError, match="native"):
        load_runtime("cuda", original, name="tiny")


@pytest.mark.parametrize(
    ("dtype", "runtime"),
    [
        ("auto", "native"),
        ("float32", "native"),
        ("bfloat16", "native"),
        ("int8", "native"),
        ("float64", "torch"),
        ("float16", "torch"),
    ],
)
def test_auto_is_native_where_it_can_serve(original, dtype, runtime):
    choice = choose_runtime(original, dtype)
    assert choice.name == runtime
    assert choice.reason == (None if runtime == "native" else f"native does not compute in {dtype}")


def test_other_devices_are_for_torch(original):
    assert choose_runtime(original, "float32", "cuda").name == "torch"
    with pytest.raises(ConfigError, match="device is 'cuda', but native computes on the cpu"):
        load_runtime("native", original, name="tiny", device="cuda")
    with pytest.raises(ConfigError, match="'cuda:99' cannot be used"):
        load_runtime("auto", original, name="tiny", device="cuda:99")


def test_auto_loads_what_it_chose(original):
    target = load_runtime("auto", original, name="tiny", dtype="int8", threads=1).target
    assert (target.runtime, target.dtype, target.threads) == ("native", "int8", 1)
    assert load_runtime("auto", original, name="tiny", dtype="float64").target.runtime == "torch"


def test_auto_says_why_it_is_not_native(original, caplog):
    unchanged = load_runtime("auto", original, name="tiny", threads=1)
    assert unchanged.target.runtime_reason is None
    assert not caplog.records
    loaded = load_runtime("auto", original, name="tiny", dtype="float64")
    [record] = caplog.records
    message = record.getMessage()
    assert message == "eyas: runtime torch, since native does not compute in float64"
    assert loaded.target.runtime_reason in message
