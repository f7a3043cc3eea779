"""A fingerprint names the target: the same for every spelling of it, another for every other."""

import json
import shutil

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eyas.errors import ModelError
from eyas.models import base_fingerprint, fingerprint, target_fingerprint
from eyas.models.gguf_convert import convert_gguf
from tiny_gguf import HEADS, KV_HEADS, SIZE, write_gguf


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    convert_gguf(write_gguf(tmp_path / "tiny.gguf"), folder)
    return folder


def edit(folder, name, **changes):
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(document | changes))


def test_it_is_pinned(model):
    """Heads on users' disks carry it: it may not change by accident."""
    assert target_fingerprint(model) == "9b8590c2948c46d2"


def test_another_copy_has_the_same(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    assert target_fingerprint(tmp_path / "copy") == target_fingerprint(model)


def test_what_transformers_writes_has_the_same(model, tmp_path):
    """Their config spells the rotary base in another place and adds many fields."""
    transformers = pytest.importorskip("transformers")
    stock = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
    stock.save_pretrained(tmp_path / "saved")
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "saved")
    assert target_fingerprint(tmp_path / "saved") == target_fingerprint(model)


def test_shards_have_the_same(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    stock = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
    stock.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    shutil.copy(model / "tokenizer.json", tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    assert target_fingerprint(tmp_path / "saved") == target_fingerprint(model)


def test_names_versions_and_dtypes_do_not_count(model):
    before = target_fingerprint(model)
    edit(model, "config.json", transformers_version="9", _name_or_path="elsewhere", dtype="float32")
    edit(model, "tokenizer_config.json", chat_template="other")
    assert target_fingerprint(model) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 1e6},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rms_norm_eps": 1e-6},
        {"num_attention_heads": 8},
        {"hidden_act": "gelu"},
        {"model_type": "mistral"},
    ],
)
def test_another_architecture_has_another(changes, model):
    before = target_fingerprint(model)
    edit(model, "config.json", **changes)
    assert target_fingerprint(model) != before


def test_other_weights_have_another(model, tmp_path):
    convert_gguf(write_gguf(tmp_path / "other.gguf", seed=1), other := tmp_path)
    assert target_fingerprint(other) != target_fingerprint(model)


def test_a_fine_tuned_tensor_has_another(model):
    before = target_fingerprint(model)
    path = model / "model.safetensors"
    data = np.fromfile(path, dtype=np.uint8)
    data[-2000:] ^= 1
    data.tofile(path)
    assert target_fingerprint(model) != before


def test_another_vocabulary_has_another(model):
    before = target_fingerprint(model)
    document = json.loads((model / "tokenizer.json").read_text())
    document["model"]["merges"].reverse()
    (model / "tokenizer.json").write_text(json.dumps(document))
    changed = target_fingerprint(model)
    assert changed != before
    (model / "tokenizer.json").unlink()
    assert target_fingerprint(model) not in (before, changed)


def test_no_model_has_none(tmp_path):
    with pytest.raises(ModelError):
        target_fingerprint(tmp_path)


def add_biases(writer):
    sizes = {"q": HEADS * SIZE, "k": KV_HEADS * SIZE, "v": KV_HEADS * SIZE}
    for layer in (0, 1):
        for part, size in sizes.items():
            values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.attn_{part}.bias", values)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kind": gguf.GGMLQuantizationType.Q8_0},
        {"kind": gguf.GGMLQuantizationType.Q5_1, "split": 5},
        {"kind": gguf.GGMLQuantizationType.F16, "arch": "qwen2", "extra": add_biases},
    ],
    ids=["float32", "blocks", "parts", "biases"],
)
def test_a_gguf_file_has_that_of_the_directory_made_of_it(settings, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", **settings)
    (tmp_path / "folder").mkdir()
    convert_gguf(path, tmp_path / "folder")
    assert target_fingerprint(path) == target_fingerprint(tmp_path / "folder")


def test_that_of_a_gguf_file_is_remembered_while_it_stays_as_it_is(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    found = target_fingerprint(path)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "open_stock_tensors", None)  # would be an error
        assert target_fingerprint(path) == found
    write_gguf(path, seed=1)
    assert target_fingerprint(path) != found


def test_quantisations_share_the_base_fingerprint(model, tmp_path):
    base = base_fingerprint(model)
    assert len(base) == 16
    for kind in ("F32", "Q8_0", "Q4_0"):
        file = write_gguf(tmp_path / f"{kind}.gguf", kind=gguf.GGMLQuantizationType[kind])
        assert base_fingerprint(file) == base
    assert base_fingerprint(write_gguf(tmp_path / "other.gguf", seed=1)) != base


def test_a_model_whose_norms_are_all_the_same_has_no_base_fingerprint(model):
    """Random models of tests, say: these would share one."""
    path = model / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensors[name] = np.ones_like(tensor)
    save_file(tensors, path, metadata={"format": "pt"})
    assert base_fingerprint(model) is None
