"""EAGLE-1/2 checkpoints: every spelling in use loads, everything else is refused in one line."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.head_export import export_head
from eyas.drafters.heads import read_config, read_head
from eyas.errors import CheckpointError
from tiny import HIDDEN, VOCAB, write_head

NORM = "layers.0.post_attention_layernorm.weight"


def edit(directory, **changes):
    """Change tensors of a head's file; None removes one. Dots are written as __."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    for name, array in changes.items():
        name = name.replace("__", ".")
        if array is None:
            del weights[name]
        else:
            weights[name] = array
    save_file(weights, path)
    return directory


def configure(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


@pytest.fixture
def head(tmp_path):
    return write_head(tmp_path / "head")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("said", [True, False, None], ids=["bias-true", "bias-false", "bias-unsaid"])
def test_the_weights_decide_about_the_bias(tmp_path, bias, layers, said):
    """Configs of published heads do not say reliably whether fc has a bias."""
    directory = write_head(tmp_path / "h", bias=bias, layers=layers)
    config = json.loads((directory / "config.json").read_text())
    config.pop("bias")
    if said is not None:
        config["bias"] = said
    (directory / "config.json").write_text(json.dumps(config))
    checkpoint = read_head(EAGLE, directory)
    assert ("fc.bias" in checkpoint.weights) is bias
    assert checkpoint.config.stack.num_layers == layers
    # Unsaid means that, whatever the target has.
    assert checkpoint.config.stack.layers[0].attention.rope.theta == 10000.0
    assert not checkpoint.config.stack.layers[0].norms.attention_input


def test_an_embedding_may_be_there(head):
    edit(head, embed_tokens__weight=np.zeros((VOCAB, HIDDEN), dtype=np.float32))
    assert "embed_tokens.weight" not in read_head(EAGLE, head).weights


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_precisions_are_read_as_float32(head, kind):
    wanted = load_file(head / "model.safetensors")["fc.weight"].astype(kind)
    edit(head, fc__weight=wanted)
    weights = read_head(EAGLE, head).weights
    assert weights["fc.weight"].dtype == np.float32
    np.testing.assert_array_equal(weights["fc.weight"], wanted.astype(np.float32))


def test_a_torch_file_is_read_without_running_code(head):
    import torch

    weights = load_file(head / "model.safetensors")
    (head / "model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, head / "pytorch_model.bin")
    np.testing.assert_array_equal(read_head(EAGLE, head).weights["fc.weight"], weights["fc.weight"])

    class Trap:
        def __reduce__(self):
            return print, ("code ran",)

    torch.save({"fc.weight": Trap()}, head / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        read_head(EAGLE, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc__weigth": np.zeros((2, 2), dtype=np.float32)}, "unknown tensor fc.weigth"),
        ({"layers__0__input_layernorm__weight": np.ones(HIDDEN, dtype=np.float32)}, "input_layernorm"),
        ({"lm_head__weight": np.ones((VOCAB, HIDDEN), dtype=np.float32)}, "unknown tensor lm_head"),
        ({NORM.replace(".", "__"): None}, "lacks " + NORM),
        ({"fc__weight": np.zeros((HIDDEN, HIDDEN), dtype=np.float32)}, "has shape"),
        ({"fc__bias": np.full(HIDDEN, np.nan, dtype=np.float32)}, "not finite"),
        ({"d2t": np.zeros(4, dtype=np.int64)}, "draft_vocab_size"),
    ],
    ids=["misspelt", "extra-norm", "own-head", "missing", "shape", "nan", "d2t-unannounced"],
)
def test_wrong_weights_are_named(head, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(EAGLE, edit(head, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 2}, "lacks layers.1"),
        ({"num_hidden_layers": 0}, "0 layers"),
        ({"hidden_size": 30}, "divide"),
        ({"intermediate_size": None}, "lacks a usable"),
        ({"draft_vocab_size": 5}, "lacks d2t"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"coupled_scale": [0.0]}, "positive"),
    ],
    ids=str,
)
def test_wrong_configs_are_named(head, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(EAGLE, configure(head, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [4, 200, -10])
def test_truncated_files_are_named(head, keep):
    path = head / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError):
        read_head(EAGLE, head)


def test_missing_files_are_named(head):
    (head / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        read_head(EAGLE, head)
    (head / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        read_config(head)


def test_offsets_give_the_draft_vocabulary(tmp_path):
    ids = [3, 4, 9, 60]
    checkpoint = read_head(EAGLE, write_head(tmp_path / "h", draft_ids=ids))
    assert checkpoint.draft_ids.tolist() == ids
    with pytest.raises(CheckpointError, match="ascending"):
        read_head(EAGLE, write_head(tmp_path / "g", draft_ids=[9, 3]))


@pytest.mark.parametrize("bias", [True, False])
def test_an_export_has_the_authors_names_and_nothing_else(tmp_path, bias):
    """And a bias of fc, which SGLang leaves random where there is none."""
    extensions = {"draft_ids": range(10), "target_fingerprint": "f" * 16, "coupled_scale": [0.5]}
    source = write_head(tmp_path / "h", bias=bias, **extensions)
    export_head(source, tmp_path / "plain", "eagle")
    plain = read_head(EAGLE, tmp_path / "plain")
    assert plain.draft_ids is None
    assert plain.fingerprint is None
    assert (
        not {"draft_vocab_size", "coupled_scale", "head_kind", "target_fingerprint"} & plain.document.keys()
    )
    assert set(plain.weights) == set(read_head(EAGLE, source).weights) | {"fc.bias"}
    assert plain.document["bias"] is True
    assert bool(plain.weights["fc.bias"].any()) is bias
    with pytest.raises(CheckpointError, match="2 layers"):
        export_head(write_head(tmp_path / "two", layers=2), tmp_path / "no", "eagle")
    with pytest.raises(CheckpointError, match="exists"):
        export_head(source, tmp_path / "plain", "eagle")


def test_an_acceptance_map_is_read(head):
    entry = {"confidence": [0, 0.5, 1], "rate_by_depth": [[0, 0.6, 0.9], [0, 0.5, 0.8]]}
    checkpoint = read_head(EAGLE, configure(head, acceptance_map={"greedy": entry}))
    assert checkpoint.config.acceptance["greedy"].rate_by_depth[1] == (0.0, 0.5, 0.8)
    assert read_head(EAGLE, configure(head, acceptance_map={})).config.acceptance == {}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"best": {}}, "unknown mode 'best'; the modes are greedy, coupled, top-k"),
        ({"greedy": {"confidence": [0, 1]}}, "rate_by_depth"),
        ({"greedy": {"confidence": [0, 1], "rate_by_depth": [[0, 2]]}}, "at most 1"),
        ([1], "unusable acceptance_map"),
    ],
    ids=["mode", "missing", "rate", "no-object"],
)
def test_a_broken_acceptance_map_is_refused(head, document, message):
    with pytest.raises(CheckpointError, match=message):
        read_head(EAGLE, configure(head, acceptance_map=document))
