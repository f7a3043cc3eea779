"""EAGLE-3 heads in the layouts of other programs: each variant survives, or is refused with the reason."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eyas.drafters.eagle3 import EAGLE3
from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.find import HeadFinder
from eyas.drafters.head_export import export_head, head_layouts
from eyas.drafters.heads import read_head
from eyas.errors import CheckpointError, ConfigError, ModelError
from eyas.models.gguf_file import GGUFFile
from tiny import HIDDEN, VOCAB, write_eagle3, write_head
from tiny_gguf import write_gguf as write_target

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
TAPS = "eagle_aux_hidden_state_layer_ids"
VARIANTS = {
    "plain": {},
    "the authors' taps": {"taps": None},
    "whole vocabulary": {"draft_ids": None},
    "norm_before_fc": {"norm_before_fc": True},
    "scaled": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    "norm_before_residual": {"norm_before_residual": True},
    "3.1": {"fc_norm": True, "norm_output": True},
    "two taps": {"taps": (1, 0)},
    "two layers": {"layers": 2},
    "biases": {"bias": True},
}
# What each layout cannot hold, and words of the reason.
REFUSED = {
    ("eagle3", "norm_before_residual"): "takes the residual after the norm, and SGLang",
    ("eagle3", "two layers"): "has 2 layers, and the layout holds 1",
    ("gguf", "3.1"): "norms each hidden state",
    ("gguf", "two taps"): "reads 2 hidden states, and llama.cpp gives it 3",
    ("gguf", "two layers"): "has 2 layers, and llama.cpp runs 1",
    **{(layout, "biases"): "has fc.bias" for layout in ("eagle3", "speculators", "gguf")},
}
CASES = [(layout, name) for layout in ("eagle3", "speculators", "gguf") for name in VARIANTS]


def place_of(layout, folder):
    return folder / (f"{layout}.gguf" if layout == "gguf" else layout)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A GGUF file, whose tokenizer heads take."""
    return write_target(tmp_path_factory.mktemp("target") / "target.gguf")


@pytest.fixture
def exported(tmp_path, target):
    """Exports a head of a variant; gives it as it was and as it is read again."""

    def export(layout, **variant):
        source = write_eagle3(tmp_path / "head", coupled_scale=[0.7], **variant)
        export_head(source, place_of(layout, tmp_path), layout, str(target))
        return read_head(EAGLE3, source), read_head(EAGLE3, place_of(layout, tmp_path))

    return export


def bfloat16(array):
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize(("layout", "name"), [case for case in CASES if case not in REFUSED], ids=str)
def test_a_head_survives_every_layout(exported, layout, name):
    before, after = exported(layout, **VARIANTS[name])
    assert after.weights.keys() == before.weights.keys()
    for tensor, array in before.weights.items():
        is_exact = layout == "gguf" and array.ndim == 1  # norms of GGUF files are float32
        np.testing.assert_array_equal(after.weights[tensor], array if is_exact else bfloat16(array))
    if before.draft_ids is None:
        assert after.draft_ids is None
    else:
        assert after.draft_ids.tolist() == before.draft_ids.tolist()
    one, two = before.config, after.config
    assert two.coupled_scale == (1.0,), "eyas's own entries are left out"
    for part in ("num_taps", "norm_before_fc", "fc_norm", "norm_output", "fc_bias", "own_rows"):
        assert getattr(two, part) == getattr(one, part)
    named = (2, 1, -1) if layout == "gguf" else None  # the authors' three, of a target of 2 layers
    assert two.taps == (named if one.taps is None else one.taps)
    frequencies = [config.stack.layers[0].attention.rope.inverse_frequencies for config in (one, two)]
    np.testing.assert_allclose(*frequencies, rtol=1e-6)  # in GGUF files by float32 factors
    assert without_rope(one.stack) == without_rope(two.stack)


def without_rope(stack):
    layers = [replace(layer, attention=replace(layer.attention, rope=None)) for layer in stack.layers]
    return replace(stack, layers=tuple(layers))


@pytest.mark.parametrize(("layout", "name"), list(REFUSED), ids=str)
def test_what_a_layout_cannot_hold_is_refused_with_the_reason(exported, tmp_path, layout, name):
    with pytest.raises(CheckpointError, match=REFUSED[layout, name]) as error:
        exported(layout, **VARIANTS[name])
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["head"], "nothing is left behind"


def test_a_head_without_an_lm_head_leaves_its_draft_vocabulary_behind(exported):
    """It only selects rows of the target's."""
    _, after = exported("eagle3", own_head=False)
    assert after.draft_ids is None
    assert after.config.own_rows is None


def test_the_authors_layout_is_that_of_their_files_with_a_config_that_all_programs_read(exported, tmp_path):
    exported("eagle3", taps=(2, 14, 25))
    tensors = load_file(tmp_path / "eagle3/model.safetensors")
    layer = {f"midlayer.self_attn.{name}_proj.weight" for name in "qkvo"}
    layer |= {f"midlayer.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    layer |= {
        f"midlayer.{name}.weight" for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    }
    assert set(tensors) == layer | {"fc.weight", "norm.weight", "lm_head.weight", "d2t", "t2d"}
    assert tensors["midlayer.self_attn.q_proj.weight"].shape == (HIDDEN, 2 * HIDDEN)
    assert tensors["t2d"].dtype == np.bool_
    assert np.flatnonzero(tensors["t2d"]).tolist() == list(range(0, VOCAB, 2))
    assert tensors["d2t"].tolist() == list(range(VOCAB // 2))
    config = json.loads((tmp_path / "eagle3/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert config["model_type"] == "llama"
    assert config["tie_word_embeddings"] is False
    assert (config["draft_vocab_size"], config["target_hidden_size"]) == (VOCAB // 2, HIDDEN)
    assert config["norm_before_residual"] is False
    assert config[TAPS] == [2, 14, 25]
    assert config["eagle_config"] == {"use_aux_hidden_state": True, TAPS: [1, 13, 24]}


def test_speculators_always_say_how_the_residual_is_taken(exported, tmp_path):
    for wanted in (True, False):
        exported("speculators", norm_before_residual=wanted)
        config = json.loads((tmp_path / "speculators/config.json").read_text())
        assert config["norm_before_residual"] is wanted
        assert config["architectures"] == ["Eagle3DraftModel"]
        assert config["transformer_layer_config"]["hidden_size"] == HIDDEN
        assert config["speculators_config"]["verifier"]["name_or_path"].endswith("target.gguf")
        for path in (tmp_path / "speculators").iterdir():
            path.unlink()
        (tmp_path / "speculators").rmdir()


def test_a_gguf_file_is_what_llama_cpp_reads(exported, tmp_path, target):
    exported("gguf", norm_before_fc=True)
    reader = gguf.GGUFReader(tmp_path / "gguf.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "eagle3"
    assert fields["eagle3.target_layers"] == [0, 1, 1]
    assert fields["eagle3.target_hidden_size"] == HIDDEN
    assert fields["eagle3.norm_before_residual"] is False
    assert fields["eagle3.norm_before_fc"] is True
    wanted = {name: field.contents() for name, field in gguf.GGUFReader(target).fields.items()}
    tokenizer = {name: value for name, value in wanted.items() if name.startswith("tokenizer.")}
    assert len(tokenizer) > 5
    assert {name: fields[name] for name in tokenizer} == tokenizer
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    layer = {f"blk.0.{name}.weight" for name in ("attn_norm", "attn_norm_2", "attn_q", "attn_k", "attn_v")}
    layer |= {
        f"blk.0.{name}.weight" for name in ("attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    }
    outer = {"fc.weight", "enc.output_norm.weight", "output_norm.weight", "output.weight", "d2t"}
    assert set(tensors) == layer | outer
    assert tensors["d2t"].data.tolist() == list(range(0, VOCAB, 2)), "the target's ids themselves"
    assert tensors["d2t"].tensor_type == gguf.GGMLQuantizationType.I64
    q_proj = load_file(tmp_path / "head/model.safetensors")["layers.0.self_attn.q_proj.weight"]
    pairs = q_proj.reshape(4, 2, 4, -1).swapaxes(1, 2).reshape(q_proj.shape)  # 4 heads of 8
    stored = tensors["blk.0.attn_q.weight"].data.view(np.uint16).astype(np.uint32) << 16
    np.testing.assert_array_equal(stored.view(np.float32).reshape(q_proj.shape), bfloat16(pairs))


def published(tmp_path, config=None, tensors=None, layout="eagle3", **variant):
    """A folder as other programs write it; a change of None removes an entry or a tensor."""
    place = tmp_path / "published"
    export_head(write_eagle3(tmp_path / "head", **variant), place, layout)
    document = json.loads((place / "config.json").read_text()) | (config or {})
    kept = {name: value for name, value in document.items() if value is not None}
    (place / "config.json").write_text(json.dumps(kept))
    weights = load_file(place / "model.safetensors") | (tensors or {})
    save_file({k: v for k, v in weights.items() if v is not None}, place / "model.safetensors")
    return place


@pytest.mark.parametrize(
    ("config", "taps"),
    [
        ({}, (0, 1, 1)),
        ({TAPS: None}, (0, 1, 1)),  # SGLang's and SpecForge's: the layers before
        ({"eagle_config": None}, (0, 1, 1)),
        ({TAPS: None, "eagle_config": None}, None),
    ],
    ids=str,
)
def test_taps_are_read_from_either_spelling(tmp_path, config, taps):
    assert read_head(EAGLE3, published(tmp_path, config)).config.taps == taps


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"]
)
def test_published_heads_are_known_by_their_tensors(tmp_path, architecture):
    place = published(tmp_path, {"architectures": [architecture]})
    assert read_head(EAGLE3, place).config.num_taps == 3
    with pytest.raises(CheckpointError, match="a head of the kind 'eagle3', but one of 'eagle' is needed"):
        read_head(EAGLE, place)


def test_a_torch_file_of_the_authors_is_read(tmp_path):
    import torch
    from safetensors.torch import load_file as load_torch

    place = published(tmp_path)
    torch.save(load_torch(place / "model.safetensors"), place / "pytorch_model.bin")
    wanted = read_head(EAGLE3, place)
    (place / "model.safetensors").unlink()
    found = read_head(EAGLE3, place)
    assert found.draft_ids.tolist() == wanted.draft_ids.tolist()
    np.testing.assert_array_equal(found.weights["fc.weight"], wanted.weights["fc.weight"])


@pytest.mark.parametrize(
    ("layout", "config", "tensors", "message"),
    [
        ("eagle3", {"target_hidden_size": 64}, {}, "a target of hidden size 64 and has 32 itself"),
        ("eagle3", {"eagle_config": {"use_aux_hidden_state": False}}, {}, "use_aux_hidden_state false"),
        ("eagle3", {TAPS: None, "eagle_config": {TAPS: "all"}}, {}, "'all', but fc.weight reads 3 states"),
        ("eagle3", {}, {"t2d": np.ones(VOCAB, dtype=np.bool_)}, "d2t and t2d differ"),
        (
            "eagle3",
            {},
            {"midlayer.mlp.up_proj.bias": np.ones(48, dtype=np.float32)},
            "unknown tensor layers.0",
        ),
        ("speculators", {"norm_before_residual": None}, {}, "lacks norm_before_residual, for which vLLM"),
        ("speculators", {"embed_requires_grad": True}, {}, "embed_requires_grad true"),
        ("speculators", {"transformer_layer_config": None}, {}, "lacks transformer_layer_config"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_programs_files_are_read_strictly(tmp_path, layout, config, tensors, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(EAGLE3, published(tmp_path, config, tensors, layout))
    assert "\n" not in str(error.value)


def test_an_embedding_may_be_there_and_a_whole_vocabulary_may_be_said(tmp_path):
    table = {"embed_tokens.weight": np.zeros((VOCAB, HIDDEN), dtype=np.float32)}
    head = read_head(EAGLE3, published(tmp_path, {"draft_vocab_size": VOCAB}, table, draft_ids=None))
    assert head.draft_ids is None
    assert "embed_tokens.weight" not in head.weights


def test_gguf_files_are_read_strictly(tmp_path, target):
    with pytest.raises(CheckpointError, match="the architecture 'llama', but a head's is 'eagle3'"):
        read_head(EAGLE3, target)
    with pytest.raises(CheckpointError, match=r"is a GGUF file, but heads of the kind 'eagle' are folders"):
        read_head(EAGLE, target)
    place = tmp_path / "head.gguf"
    export_head(write_eagle3(tmp_path / "head"), place, "gguf", str(target))
    whole = place.read_bytes()
    for key in (b"eagle3.block_count", b"eagle3.embedding_length"):
        place.write_bytes(whole.replace(key, key[:-1] + b"X"))
        with pytest.raises(CheckpointError, match=f"lacks a usable '{key.decode()}'"):
            read_head(EAGLE3, place)
    place.write_bytes(whole.replace(b"enc", b"enc")[: len(whole) - 64])
    with pytest.raises(ModelError, match="truncated"):
        read_head(EAGLE3, place)
    place.write_bytes(whole.replace(b"output_norm.weight", b"output_gnom.weight"))
    with pytest.raises(CheckpointError, match=r"unknown tensor output_gnom\.weight"):
        read_head(EAGLE3, place)


def test_integers_of_a_gguf_file_do_not_reach_beyond_it(tmp_path, target):
    place = tmp_path / "head.gguf"
    export_head(write_eagle3(tmp_path / "head"), place, "gguf", str(target))
    lies = GGUFFile(place).tensors["d2t"]
    assert (lies.shape, lies.num_bytes) == ((VOCAB // 2,), 8 * (VOCAB // 2))


def test_places_and_names_that_cannot_be_exported_to(tmp_path, target):
    source = write_eagle3(tmp_path / "head")
    for layout, out, model, message in (
        ("eagle3", "head", None, "exists already"),
        ("gguf", "head.bin", str(target), r"end it in \.gguf"),
        ("gguf", "out.gguf", None, "name the target's GGUF file with --model"),
        ("gguf", "out.gguf", "org/name", "name the target's GGUF file with --model"),
        ("eagle", "out", None, "holds a head of the kind 'eagle3', but one of 'eagle' is needed"),
    ):
        with pytest.raises(CheckpointError, match=message):
            export_head(source, tmp_path / out, layout, model)
    with pytest.raises(ConfigError, match="unknown layout 'vllm'; the layouts are eagle, eagle3, specul"):
        export_head(source, tmp_path / "out", "vllm")
    other = write_head(tmp_path / "other", vocab_size=VOCAB)
    with pytest.raises(CheckpointError, match=r"fc\.weight reads 2 states"):
        export_head(other, tmp_path / "out", "eagle3")
    assert list(head_layouts()) == ["eagle", "eagle3", "speculators", "gguf"]


def test_the_vocabulary_of_the_target_has_to_be_said(tmp_path):
    source = write_eagle3(tmp_path / "head")
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": None}))
    with pytest.raises(CheckpointError, match="vocab_size None; write the target's number of tokens"):
        export_head(source, tmp_path / "out", "eagle3")


def test_a_named_head_says_its_kind(tmp_path, target):
    def kind(path):
        return HeadFinder(path, tmp_path, None).named_kind

    assert kind(None) is None
    assert kind(write_eagle3(tmp_path / "eagle3")) == "eagle3"
    assert kind(write_head(tmp_path / "eagle")) is None
    assert kind(published(tmp_path)) == "eagle3"
    export_head(tmp_path / "eagle3", tmp_path / "head.gguf", "gguf", str(target))
    assert kind(tmp_path / "head.gguf") == "eagle3"
    assert kind(target) is None
