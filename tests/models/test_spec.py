"""The description of a decoder: hashable, and plain where nothing scales it."""

import numpy as np

from eyas.models.spec import Norms, Rope, llama_stack

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}


def test_equal_descriptions_are_equal_and_have_one_hash():
    one, other = (llama_stack(**SIZES, num_layers=2, rope_theta=500.0) for _ in range(2))
    assert (one, hash(one), repr(one)) == (other, hash(other), repr(other))
    assert one != llama_stack(**SIZES, num_layers=2, rope_theta=501.0)


def test_an_eagle_head_lacks_its_first_and_last_norm():
    stack = llama_stack(**SIZES, num_layers=2, first_input_norm=False, final_norm=False)
    assert [layer.norms.names for layer in stack.layers] == [("mlp_norm",), ("attention_norm", "mlp_norm")]
    assert stack.final_norm is None


def test_norms_by_their_place():
    assert Norms(where="post").names == ("attention_post_norm", "mlp_post_norm")
    assert Norms(where="both").names == (
        "attention_norm",
        "attention_post_norm",
        "mlp_norm",
        "mlp_post_norm",
    )


def test_a_scaled_rope_is_not_plain():
    rope = Rope.plain(10000.0, 8)
    np.testing.assert_allclose(rope.inverse_frequencies, [1, 0.1, 0.01, 0.001])
    assert rope.is_plain
    assert not Rope(dim=8, theta=10000.0, inverse_frequencies=rope.inverse_frequencies, factor=1.1).is_plain
    halves = tuple(frequency / 2 for frequency in rope.inverse_frequencies)
    assert not Rope(dim=8, theta=10000.0, inverse_frequencies=halves).is_plain
