"""Every family, rotary scaling and way of storing weights against stock transformers in float32."""

import json
import os
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguf_files
from eyas.engine.interfaces import TargetCall
from eyas.runtimes import load_runtime
from eyas.runtimes.native import load_native_runtime, unsupported

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama(**changes):
    return transformers.LlamaConfig(**{**SIZES, **changes})


def scaled(rope_type, **values):
    return llama(rope_parameters={"rope_type": rope_type, "rope_theta": 10000.0, **values})


YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
EXPERTS = {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 7}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
MULTIPLIERS = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.3,
    "logits_scaling": 0.5,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.5],
    "long_factor": [2.0, 4.0, 8.0],
    "partial_rotary_factor": 0.75,
}
CONFIGS = {
    "llama": llama,
    "llama-tied": lambda: llama(tie_word_embeddings=True),
    "llama-biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama-head-dim": lambda: llama(head_dim=20),
    "llama-one-kv-head": lambda: llama(num_key_value_heads=1, num_attention_heads=8, head_dim=10),
    "llama-own-theta": lambda: llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "mistral-window": lambda: transformers.MistralConfig(**SIZES, sliding_window=9),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen2-tied": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-windows": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen2-layer-types": lambda: transformers.Qwen2Config(
        **SIZES,
        use_sliding_window=True,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    "qwen3-biases": lambda: transformers.Qwen3Config(**SIZES, head_dim=16, attention_bias=True),
    "qwen3-tied": lambda: transformers.Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**SIZES, **EXPERTS, norm_topk_prob=True),
    "qwen3_moe-sparse": lambda: transformers.Qwen3MoeConfig(**SIZES, **EXPERTS, mlp_only_layers=[1]),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, **GEMMA, attn_logit_softcapping=5.0),
    "gemma2-biases": lambda: transformers.Gemma2Config(**SIZES, **GEMMA, attention_bias=True),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SIZES, **GEMMA),
    "gemma3-scaled": lambda: transformers.Gemma3TextConfig(
        **SIZES,
        **GEMMA,
        rope_parameters=GEMMA3_ROPE,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        final_logit_softcapping=12.0,
    ),
    "phi3": lambda: transformers.Phi3Config(**SIZES),
    "phi3-window": lambda: transformers.Phi3Config(**SIZES, sliding_window=9),
    "phi3-longrope": lambda: transformers.Phi3Config(
        **SIZES, rope_parameters=LONGROPE, original_max_position_embeddings=112, tie_word_embeddings=True
    ),
    "smollm3": lambda: transformers.SmolLM3Config(**SIZES, no_rope_layer_interval=2),
    "smollm3-windows": lambda: transformers.SmolLM3Config(
        **SIZES, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=8, attention_bias=True
    ),
    "granite": lambda: transformers.GraniteConfig(**SIZES, **MULTIPLIERS),
    "granite-biases": lambda: transformers.GraniteConfig(
        **SIZES, **MULTIPLIERS, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "olmo2-biases": lambda: transformers.Olmo2Config(**SIZES, attention_bias=True),
    "linear": lambda: scaled("linear", factor=3.0),
    "llama3": lambda: scaled("llama3", **LLAMA3),
    "llama3-gentle": lambda: scaled("llama3", **{**LLAMA3, "factor": 2.0, "high_freq_factor": 32.0}),
    "yarn": lambda: scaled("yarn", **YARN),
    "yarn-betas": lambda: scaled("yarn", **YARN, beta_fast=8.0, beta_slow=2.0),
    "yarn-attention-factor": lambda: scaled("yarn", **YARN, attention_factor=0.7),
    "yarn-mscale": lambda: scaled("yarn", **YARN, mscale=1.2, mscale_all_dim=0.8),
    "yarn-mscale-alone": lambda: scaled("yarn", **YARN, mscale=1.2),
    "yarn-whole": lambda: scaled("yarn", **YARN, truncate=False),
}
# Logits are about 10 apart; a float32 forward of either side is off by about 1e-5.
ATOL = 2e-4


def save(config, directory, dtype=torch.float32, **options):
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.25)
            elif name.endswith("bias"):
                weight.normal_(std=0.3)
            else:
                weight.normal_(mean=1.0, std=0.2)
    model.to(dtype).save_pretrained(directory, **options)
    return directory


def stock_logits(directory, token_ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor(token_ids)[None], use_cache=False).logits[0].numpy()


def own_logits(directory, token_ids, dtype="float32", kv_dtype="auto"):
    runtime = load_native_runtime(directory, dtype=dtype, kv_dtype=kv_dtype, threads=1)
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), token_ids)])
    return np.stack([rows.logits(row) for row in range(len(token_ids))])


def tokens(count, vocab=97):
    return np.random.default_rng(9).integers(0, vocab, count)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_are_stock_transformers(name, tmp_path):
    directory, token_ids = save(CONFIGS[name](), tmp_path / name), tokens(100)
    assert unsupported(directory) is None
    wanted = stock_logits(directory, token_ids)
    assert np.ptp(wanted) > 5, "weights too small to notice anything"
    np.testing.assert_allclose(own_logits(directory, token_ids), wanted, rtol=0, atol=ATOL)


def test_a_gemma_that_also_sees_pictures_is_served_as_text(tmp_path):
    text = transformers.Gemma3TextConfig(**SIZES, **GEMMA)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision)
    directory, token_ids = save(config, tmp_path / "gemma3"), tokens(60)
    assert unsupported(directory) is None
    np.testing.assert_allclose(
        own_logits(directory, token_ids), stock_logits(directory, token_ids), rtol=0, atol=ATOL
    )


@pytest.mark.parametrize("name", ["linear", "yarn", "llama3", "llama-own-theta"])
def test_old_spellings_of_rotary_configs(name, tmp_path):
    """`rope_theta` next to `rope_scaling` with `type`, as configs were before transformers 5."""
    directory, token_ids = save(CONFIGS[name](), tmp_path / name), tokens(60)
    wanted = own_logits(directory, token_ids)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(own_logits(directory, token_ids), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "llama-biases"])
def test_stored_precisions(name, dtype, tmp_path):
    directory, token_ids = save(CONFIGS[name](), tmp_path / name, getattr(torch, dtype)), tokens(40)
    wanted = stock_logits(directory, token_ids)
    np.testing.assert_allclose(own_logits(directory, token_ids), wanted, rtol=0, atol=ATOL)


def test_coarse_precisions_stay_near(tmp_path):
    """Mean error relative to the spread of logits: bfloat16 as stock bfloat16, int8 a few times that."""
    directory, token_ids = save(llama(), tmp_path / "llama"), tokens(60)
    wanted = stock_logits(directory, token_ids)
    for dtype, allowed in (("bfloat16", 0.03), ("int8", 0.1)):
        error = np.abs(own_logits(directory, token_ids, dtype) - wanted).mean() / wanted.std()
        assert 0 < error < allowed, dtype


def test_sharded_weights(tmp_path):
    whole, parts = save(llama(), tmp_path / "whole"), save(llama(), tmp_path / "parts", max_shard_size="40KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    np.testing.assert_array_equal(own_logits(parts, tokens(20)), own_logits(whole, tokens(20)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_at_odd_places_of_the_file(dtype, tmp_path):
    """The format does not promise that data are aligned."""
    directory = save(llama(), tmp_path / "llama", getattr(torch, dtype))
    wanted = own_logits(directory, tokens(20))
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    header += b" " * (1 - (len(header) + 8) % 2)  # data from an odd byte on
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    np.testing.assert_array_equal(own_logits(directory, tokens(20)), wanted)


@pytest.mark.parametrize(
    "name", ["llama3", "gemma3-scaled", "phi3-longrope", "smollm3", "granite", "qwen3_moe"]
)
def test_a_gguf_file_computes_what_the_folder_computes(name, tmp_path):
    """As it is, and quantised: then near what its dequantised weights give."""
    directory, token_ids = gguf_files.save(gguf_files.CONFIGS[name](), tmp_path / "m"), tokens(30)
    whole = gguf_files.write_gguf(directory, tmp_path / "whole.gguf")
    wanted = own_logits(directory, token_ids)
    np.testing.assert_allclose(own_logits(whole, token_ids), wanted, rtol=0, atol=ATOL)
    got = own_logits(whole, token_ids, "auto", kv_dtype="float32")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=ATOL)
    kind = gguf.GGMLQuantizationType.Q8_0
    coarse = gguf_files.write_gguf(directory, tmp_path / "coarse.gguf", kind=kind)
    wanted, got = (own_logits(coarse, token_ids, dtype) for dtype in ("float32", "auto"))
    assert 0 < np.abs(got - wanted).mean() / wanted.std() < 0.1


@pytest.mark.slow
def test_a_real_gemma_3_file():
    """Windows of 512, two rotary embeddings, norms stored with 1 added; both runtimes dequantise it."""
    file = Path(os.environ.get("EYAS_TEST_MODELS", "absent")) / "gemma-3-270m-q4_k_m.gguf"
    if not file.is_file():
        pytest.skip("no Gemma 3 in the folder EYAS_TEST_MODELS")
    token_ids = np.concatenate([[2], np.random.default_rng(0).integers(300, 200_000, 20)])
    results = []
    for runtime in ("native", "torch"):
        loaded = load_runtime(runtime, file, name="gemma", dtype="float32", threads=1)
        [rows] = loaded.forward([TargetCall(loaded.new_cache(), token_ids)])
        results.append(np.stack([rows.logits(row) for row in range(len(token_ids))]))
    assert np.ptp(results[0]) > 20
    np.testing.assert_allclose(*results, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def default_model():
    """The default model, where this machine has it or can fetch it."""
    from eyas.errors import EyasError
    from eyas.models import ensure_model

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EYAS_CACHE", raising=False)
        try:
            return ensure_model()
        except EyasError as error:
            pytest.skip(f"no default model here: {error}")


@pytest.mark.slow
@pytest.mark.network
def test_the_default_model(default_model):
    token_ids = np.arange(100, 400)
    wanted = stock_logits(default_model, token_ids)
    got = own_logits(default_model, token_ids)
    # Thirty layers of float32 on both sides; its logits span about 40.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-3)
    assert (got.argmax(axis=1) == wanted.argmax(axis=1)).all()
