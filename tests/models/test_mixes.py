"""A mix's formats are those that llama.cpp's files of that name have."""

from collections import Counter

import pytest

from eyas.models.families import describe, find_family
from eyas.models.formats import FORMATS
from eyas.models.mixes import DRAFT_FORMATS, MIXES, block_format, tensor_formats
from eyas.models.tensors import model_shapes

# Shapes of real models, as GGUF's shape entries give them.
SMALL_CODER = {"layers": 24, "hidden": 896, "inner": 4864, "heads": 14, "kv_heads": 2}
CODER = {"layers": 28, "hidden": 1536, "inner": 8960, "heads": 12, "kv_heads": 2}
GEMMA = {"layers": 18, "hidden": 640, "inner": 2048, "heads": 4, "kv_heads": 1, "head_dim": 256}
LARGE_LLAMA = {"layers": 32, "hidden": 4096, "inner": 14336, "heads": 32, "kv_heads": 8}


def spec_of(layers, hidden, inner, heads, kv_heads, head_dim=None, tied=False):
    config = {
        "model_type": "qwen2",
        "vocab_size": 1000,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or hidden // heads,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
    }
    return describe(find_family(config), config)


def counts(mix, *, tied=False, **sizes):
    return Counter(tensor_formats(mix, spec_of(tied=tied, **sizes)).values())


@pytest.mark.parametrize(
    ("sizes", "tied", "wanted"),
    [
        (SMALL_CODER, False, {"Q5_0": 133, "Q8_0": 13, "Q6_K": 12, "Q4_K": 12}),
        (CODER, False, {"Q4_K": 169, "Q6_K": 29}),
        (GEMMA, True, {"Q5_0": 81, "Q4_K": 27, "Q8_0": 10, "Q6_K": 9}),
    ],
    ids=["Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B", "Gemma 3 270M"],
)
def test_q4_k_m_is_what_published_files_hold(sizes, tied, wanted):
    assert counts("q4_k_m", tied=tied, **sizes) == wanted


# Of a Llama of 32 layers with four query heads for each of the key/value heads: where a rule has more bits.
@pytest.mark.parametrize(
    ("mix", "part", "wanted"),
    [
        ("q4_k_s", "value", {"Q5_K": 4, "Q4_K": 28}),
        ("q4_k_s", "down", {"Q5_K": 4, "Q4_K": 28}),
        ("q5_k_m", "value", {"Q6_K": 16, "Q5_K": 16}),
        ("q3_k_m", "value", {"Q5_K": 2, "Q4_K": 30}),
        ("q3_k_m", "down", {"Q5_K": 2, "Q4_K": 30}),
        ("q3_k_m", "output", {"Q4_K": 32}),
        ("q3_k_l", "down", {"Q5_K": 32}),
        ("q2_k", "value", {"Q4_K": 32}),
        ("q2_k", "output", {"Q3_K": 32}),
        ("q2_k", "query", {"Q2_K": 32}),
        ("iq4_xs", "value", {"Q5_K": 32}),
        ("iq4_nl", "down", {"Q5_K": 4, "IQ4_NL": 28}),
    ],
)
def test_parts_with_more_bits(mix, part, wanted):
    formats = tensor_formats(mix, spec_of(**LARGE_LLAMA))
    assert Counter(value for name, value in formats.items() if name.endswith(f".{part}.weight")) == wanted


@pytest.mark.parametrize("mix", ["q8_0", "q3_k", "q4_k", "q5_k"])
def test_formats_for_every_matrix(mix):
    assert counts(mix, **LARGE_LLAMA) == {mix.upper(): 32 * 7 + 2}


@pytest.mark.parametrize("mix", ["q4_0", "q4_k_m", "iq4_xs", "q2_k"])
def test_the_lm_head_has_six_bits_and_a_tied_embedding_too(mix):
    apart, tied = (tensor_formats(mix, spec_of(**CODER, tied=tied)) for tied in (False, True))
    assert apart["lm_head.weight"] == tied["embedding.weight"] == "Q6_K"
    assert apart["embedding.weight"] == MIXES[mix].base
    assert "lm_head.weight" not in tied


@pytest.mark.parametrize("sizes", [SMALL_CODER, CODER, GEMMA, LARGE_LLAMA])
def test_every_matrix_gets_a_format_whose_blocks_divide_its_rows(sizes):
    spec = spec_of(**sizes)
    shapes = model_shapes(spec)
    for mix in MIXES:
        formats = tensor_formats(mix, spec)
        assert formats.keys() == {name for name, shape in shapes.items() if len(shape) == 2}
        for name, weight_format in formats.items():
            assert shapes[name][1] % FORMATS[weight_format].block == 0


def test_rows_that_no_block_divides_keep_their_format():
    assert block_format("Q4_K", 512) == "Q4_K"
    assert block_format("Q4_K", 96) == "Q5_0"
    assert block_format("Q4_K", 100) is None
    assert block_format("Q8_0", 100) is None
    spec = spec_of(layers=2, hidden=40, inner=64, heads=4, kv_heads=2, head_dim=8)
    assert tensor_formats("q4_k", spec) == {
        f"layers.{layer}.{part}.weight": "Q5_0" for layer in (0, 1) for part in ("output", "down")
    }


def test_draft_networks_have_one_format():
    assert DRAFT_FORMATS["q4_k"] == "Q4_K"
    assert "q4_k_m" not in DRAFT_FORMATS
    assert set(DRAFT_FORMATS.values()) <= FORMATS.keys()
