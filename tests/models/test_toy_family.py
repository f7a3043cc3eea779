"""A family that eyas does not ship, in one file: it loads on every runtime and equals its transformers twin.

EXAONE 4 (arXiv 2507.11407) combines what no family here does: norms of each block's output with norms of
each head's queries and keys, and windows in every layer but those without positions.
"""

from dataclasses import replace

import numpy as np
import pytest

from eyas.engine.interfaces import TargetCall
from eyas.models import families as registry
from eyas.models.families import families, read_spec, register_family
from eyas.models.families.common import DRAFT, HUGGING_FACE, Config, decoder
from eyas.models.spec import ModelSpec, Norms, StackSpec
from eyas.models.tensors import stack_shapes
from eyas.runtimes import choose_runtime, load_runtime
from eyas.runtimes.native import is_built, unsupported
from pages import ROOT, blocks

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = HUGGING_FACE.with_parts(
    attention_post_norm="post_attention_layernorm", mlp_post_norm="post_feedforward_layernorm"
)


def spec(config: Config) -> ModelSpec:
    windows = config.windows()
    return decoder(
        config,
        windows=windows,
        ropes=[config.rope() if window else None for window in windows],
        norms=Norms(where="post", eps=config.norm_eps),
        query_key_norm="head",
    )


SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 7,
    "sliding_window_pattern": 3,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOKENS = np.random.default_rng(9).integers(0, 97, 60)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Known in this file only."""
    monkeypatch.setattr(registry, "_FAMILIES", dict(families()))
    register_family("exaone4", tensors=NAMES)(spec)


def save(config, directory):
    """A random model, its weights large enough that every operation matters."""
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.25)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save(transformers.Exaone4Config(**SIZES), tmp_path_factory.mktemp("toy"))


def twin_logits(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor(TOKENS)[None], use_cache=False).logits[0].numpy()


def test_its_description_says_what_the_config_says(directory):
    described = read_spec(directory)
    assert [layer.attention.window for layer in described.layers] == [7, 7, 0]
    assert [layer.attention.rope is None for layer in described.layers] == [False, False, True]
    layer = described.layers[0]
    assert (layer.mlp.activation, layer.norms.where, layer.norms.offset) == ("silu", "post", 0.0)
    assert (layer.attention.query_key_norm, described.head.tied) == ("head", False)


RUNTIMES = [("torch", "float64")] + ([("native", "float32")] if is_built() else [])


@pytest.mark.parametrize(("runtime", "dtype"), RUNTIMES)
def test_logits_are_the_twins(directory, runtime, dtype):
    check_logits(directory, runtime, dtype)


def test_the_documented_family_is_the_shipped_one():
    [source] = blocks(ROOT / "docs/add-a-family.md", "python")
    assert source == (ROOT / "src/eyas/models/families/olmo2.py").read_text()


def check_logits(directory, runtime, dtype):
    """A runtime's logits are those of transformers."""
    loaded = load_runtime(runtime, directory, name="toy", dtype=dtype, threads=1)
    [rows] = loaded.forward([TargetCall(loaded.new_cache(), TOKENS)])
    got, wanted = np.stack([rows.logits(row) for row in range(len(TOKENS))]), twin_logits(directory)
    assert np.ptp(wanted) > 5, "weights too small to notice anything"
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.skipif(not is_built(), reason="no compiled module")
def test_auto_takes_native(directory):
    assert unsupported(directory) is None
    assert choose_runtime(directory) == ("native", None)


@pytest.mark.skipif(not is_built(), reason="no compiled module")
def test_a_draft_of_such_layers_is_the_same_on_both_runtimes(directory):
    """Draft layers have the same description; those on torch have no windows."""
    target = read_spec(directory)
    layers = tuple(replace(layer, attention=replace(layer.attention, window=0)) for layer in target.layers)
    stack = StackSpec(hidden_size=48, layers=layers, final_norm=target.stack.final_norm)
    generator = np.random.default_rng(3)
    weights = {
        name: generator.normal(scale=0.25, size=shape).astype(np.float32)
        for name, shape in DRAFT.shapes(stack_shapes(stack)).items()
    }
    inputs = generator.normal(size=(9, 48)).astype(np.float32)
    results = []
    for runtime in ("native", "torch"):
        loaded = load_runtime(
            runtime, directory, name="toy", dtype="float32", draft_dtype="float32", threads=1
        )
        drafted = loaded.decoder_stack(stack, weights)
        rows = inputs if runtime == "native" else torch.from_numpy(inputs)
        results.append(np.asarray(drafted.forward(drafted.new_cache(), rows)))
    np.testing.assert_allclose(*results, rtol=0, atol=1e-4)
