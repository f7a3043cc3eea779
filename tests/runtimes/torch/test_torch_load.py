"""What the torch runtime refuses, in one line that names it."""

import functools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import SIZES, save_model

from eyas.engine.interfaces import TargetCall
from eyas.errors import ConfigError, ModelError
from eyas.runtimes.torch import load_torch_runtime
from eyas.runtimes.torch.load import resolve_dtype

SMALL = {"vocab_size": 89, "hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

REFUSED = {
    "alibi": (lambda: transformers.BloomConfig(**SMALL, n_layer=2, n_head=4), "ALiBi"),
    "falcon-alibi": (
        lambda: transformers.FalconConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4, alibi=True),
        "ALiBi",
    ),
    "recurrent": (
        lambda: transformers.MambaConfig(**SMALL, num_hidden_layers=2, state_size=4),
        "recurrent",
    ),
    "recurrent-mixed": (
        lambda: transformers.RecurrentGemmaConfig(
            **{**SIZES, "num_attention_heads": 4}, attention_window_size=8
        ),
        "recurrent",
    ),
    "local-attention": (
        lambda: transformers.GPTNeoConfig(
            **SMALL, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
        ),
        "local attention",
    ),
}


@pytest.fixture
def copied(model_dirs, tmp_path):
    """A copy of the Llama that a test may break."""
    return shutil.copytree(model_dirs("llama"), tmp_path / "copy")


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def refused(directory, **options):
    with pytest.raises((ModelError, ConfigError)) as caught:
        load_torch_runtime(directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", list(REFUSED))
def test_families_that_cannot_see_a_tree_are_refused_by_name(case, tmp_path):
    config, reason = REFUSED[case]
    message = refused(save_model(config(), tmp_path / case))
    assert reason in message
    assert config().model_type in message


def test_an_encoder_decoder_is_refused(tmp_path):
    transformers.T5Config(vocab_size=89, d_model=32, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    assert "encoder-decoder" in refused(tmp_path)


def test_the_probe_finds_what_no_config_says(model_dirs, monkeypatch):
    """A family whose mask we would get wrong: here, one that ignores every mask but its own."""
    forward = transformers.LlamaModel.forward

    def own_mask(self, *args, attention_mask=None, **kwargs):
        return forward(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(transformers.LlamaModel, "forward", own_mask)
    message = refused(model_dirs("llama"))
    assert "'llama'" in message
    assert "a tree" in message


def test_the_probe_names_what_a_models_code_raises(model_dirs, monkeypatch):
    def broken(self, *args, **kwargs):
        raise TypeError("unexpected position_ids")

    monkeypatch.setattr(transformers.LlamaModel, "forward", broken)
    assert "TypeError" in refused(model_dirs("llama"))


def test_the_probe_finds_a_wrong_window(model_dirs, monkeypatch):
    from eyas.runtimes.torch import masks

    def far(placement, window):
        return placement.positions[:, None] - placement.key_positions[None, :] <= window

    monkeypatch.setattr(masks, "_near", far)
    assert "a tree" in refused(model_dirs("mistral"), dtype="float64")


def test_the_probe_leaves_the_window_as_it_was(model_dirs):
    runtime = load_torch_runtime(model_dirs("gemma3"), dtype="float64")
    assert runtime.model.config.sliding_window == 6
    assert runtime.mask_plan.windows == {"full_attention": None, "sliding_attention": 6}


def test_logits_beyond_an_lm_head_leave_plain_decoding(model_dirs, monkeypatch):
    forward = transformers.LlamaForCausalLM.forward

    @functools.wraps(forward)
    def squared(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * output.logits.abs()
        return output

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", squared)
    runtime = load_torch_runtime(model_dirs("llama"), dtype="float64")
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.array([1, 2]))])
    assert np.isfinite(rows.logits(1)).all()
    with pytest.raises(ModelError, match="use method 'pld'"):
        runtime.lm_head()


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        pytest.param({"rope_type": "dynamic", "factor": 2.0}, 96, id="dynamic"),
        pytest.param(
            {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 48,
            },
            48,
            id="longrope",
        ),
    ],
)
def test_scalings_by_length_end_where_they_begin(rope, limit, tmp_path):
    parameters = {"rope_theta": 10000.0, **rope}
    directory = save_model(transformers.LlamaConfig(**SIZES, rope_parameters=parameters), tmp_path / "rope")
    target = load_torch_runtime(directory, dtype="float64").target
    assert target.context_limit == limit
    assert rope["rope_type"] in target.context_reason


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_other_limits_are_those_of_the_config(family, model_dirs):
    target = load_torch_runtime(model_dirs(family)).target
    assert target.context_limit == 96
    assert (target.family, target.vocab_size, target.hidden_size) == (family, 89, 32)


def test_dtypes():
    assert resolve_dtype("float64", torch.device("cpu")) == torch.float64
    assert resolve_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"'int3'.*bfloat16"):
        resolve_dtype("int3", torch.device("cpu"))


def test_the_target_says_its_dtype(model_dirs):
    for dtype in ("float32", "bfloat16", "float16"):
        assert load_torch_runtime(model_dirs("qwen2"), dtype=dtype).target.dtype == dtype


def test_options_that_cannot_be_honoured(model_dirs):
    assert "0" in refused(model_dirs("llama"), threads=0)
    assert "'nowhere'" in refused(model_dirs("llama"), device="nowhere")


def test_a_directory_without_a_model(tmp_path):
    assert "config.json" in refused(tmp_path)


def test_a_broken_config(copied):
    (copied / "config.json").write_text("{")
    refused(copied)
    (copied / "config.json").write_text('{"model_type": "nobody"}')
    assert "nobody" in refused(copied)


def test_no_weights_or_only_pickled_ones(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "safetensors" in refused(copied)


def test_truncated_weights(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(copied)


def test_weights_that_are_missing_left_over_or_misshapen(copied):
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(copied, lambda weights: weights.pop(name))
    assert f"lacks {name}" in refused(copied)

    def grow(weights):
        weights[name] = torch.zeros(48, 32, dtype=torch.float64)
        weights["model.layers.1.mlp.side_proj.weight"] = torch.zeros(2)

    edit_weights(copied, grow)
    assert "side_proj" in refused(copied)
    edit_config(copied, intermediate_size=40)
    assert "shape" in refused(copied)


def test_without_transformers_the_remedy_is_named(model_dirs, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'eyas[torch]'" in refused(model_dirs("llama"))


def test_importing_the_runtime_imports_no_framework():
    code = "import sys, eyas.runtimes.torch; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
