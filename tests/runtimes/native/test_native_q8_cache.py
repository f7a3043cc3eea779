"""Keys and values in q8_0: int8 with a float16 scale per 32 numbers, rounded as docs/native.md says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_nets import ISAS, engine, same_bits

from eyas import _native
from eyas.runtimes.native.matrices import make_matrix

every_isa = pytest.mark.parametrize("isa", ISAS)
HIDDEN = 40
GROUP = 32  # numbers that share a scale
DIMS = (8, 10, 32, 34, 48, 64, 80, 128, 256)


def rounded(heads, scale_type=np.float16):
    """(..., head_dim) float32 numbers as int8 times scale, in float64."""
    parts = []
    for at in range(0, heads.shape[-1], GROUP):
        part = np.asarray(heads[..., at : at + GROUP], dtype=np.float32)
        exact = np.abs(part).max(axis=-1, keepdims=True) / np.float32(127)
        scale = exact.astype(scale_type).astype(np.float32)
        able = scale > np.float32(1e-30)
        inverse = np.where(able, np.float32(1) / np.where(able, scale, np.float32(1)), np.float32(0))
        whole = np.clip(np.rint(part * inverse), -127, 127)
        parts.append(whole.astype(np.float64) * scale.astype(np.float64))
    return np.concatenate(parts, axis=-1)


def matrices(heads, kv_heads, dim, seed=0):
    """Rows of a layer whose MLP adds nothing; the numbers of a head differ in size."""
    generator = np.random.default_rng(seed)
    width, keys = heads * dim, kv_heads * dim
    qkv = generator.normal(size=(width + 2 * keys, HIDDEN)).astype("f4")
    qkv[: width + keys] *= dim**-0.5  # scores of moderate size
    qkv *= 2.0 ** generator.integers(-3, 2, (len(qkv), 1)).astype("f4")
    return {
        "qkv": qkv,
        "output": generator.normal(size=(HIDDEN, width)).astype("f4"),
        "gate_up": np.zeros((64, HIDDEN), dtype="f4"),
        "down": np.zeros((HIDDEN, 32), dtype="f4"),
    }


def stack(isa, rows, heads, kv_heads, dim, threads=1):
    shape = _native.StackShape(
        hidden=HIDDEN, heads=heads, kv_heads=kv_heads, head_dim=dim, ropes=[], kv_dtype="q8_0"
    )
    packed = {name: make_matrix(matrix, "float32", name) for name, matrix in rows.items()}
    return _native.Stack(engine(threads, isa), shape, [_native.Layer(**packed, rope=-1)])


def linear(isa, rows, x):
    return _native.Linear(engine(1, isa), make_matrix(rows, "float32", "a matrix")).forward([x])


@every_isa
@settings(deadline=None, max_examples=20)
@given(
    dim=st.sampled_from(DIMS),
    repeat=st.integers(1, 3),
    size=st.sampled_from((1e-9, 1e-4, 1, 1e4)),
    seed=st.integers(0, 99),
)
def test_a_value_comes_back_rounded(isa, dim, repeat, size, seed):
    """A first token attends to itself: its values are the heads' output, to the last bit."""
    rows = matrices(repeat, 1, dim, seed)
    x = (np.random.default_rng(seed).normal(size=(1, HIDDEN)) * size).astype("f4")
    values = rounded(linear(isa, rows["qkv"], x)[:, -dim:]).astype("f4")
    wanted = x + linear(isa, rows["output"], np.tile(values, repeat))
    network = stack(isa, rows, repeat, 1, dim)
    assert same_bits(network.forward(network.new_cache(9), x), wanted)


@every_isa
@pytest.mark.parametrize("dim", DIMS)
def test_attention_is_that_of_rounded_queries_keys_and_values(isa, dim):
    heads, kv_heads, count = 6, 2, 70
    rows = matrices(heads, kv_heads, dim)
    x = np.random.default_rng(1).normal(size=(count, HIDDEN)).astype("f4")
    split = np.split(linear(isa, rows["qkv"], x), [heads * dim, (heads + kv_heads) * dim], axis=1)
    queries, keys, values = (part.reshape(count, -1, dim) for part in split)
    keys, values = (np.repeat(rounded(part), heads // kv_heads, axis=1) for part in (keys, values))
    scores = np.einsum("qhd,khd->hqk", rounded(queries, np.float32), keys) * dim**-0.5
    scores[:, np.triu(np.ones((count, count), dtype=bool), 1)] = -np.inf
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    wanted = x + np.einsum("hqk,khd->qhd", probs, values).reshape(count, -1) @ rows["output"].T.astype("f8")
    network = stack(isa, rows, heads, kv_heads, dim)
    found = network.forward(network.new_cache(99), x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_instruction_sets_with_fused_products_agree_in_bits():
    rows = matrices(4, 2, 64)
    x = np.random.default_rng(2).normal(size=(90, HIDDEN)).astype("f4")
    fused = [isa for isa in ISAS if isa != "portable"]
    networks = [stack(isa, rows, 4, 2, 64) for isa in fused]
    found = [network.forward(network.new_cache(99), x) for network in networks]
    assert all(same_bits(other, found[0]) for other in found[1:])


@every_isa
@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e30])
def test_what_int8_cannot_hold_is_not_a_number(isa, bad):
    """Neither a wrong answer nor a crash: the head above reports a logit that is not a number."""
    rows = matrices(2, 1, 64)
    x = np.ones((3, HIDDEN), dtype="f4")
    x[1, 5] = bad
    network = stack(isa, rows, 2, 1, 64)
    found = network.forward(network.new_cache(9), x)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


@every_isa
def test_a_key_beyond_int8_is_not_passed_over(isa):
    rows = matrices(2, 1, 64)
    rows["qkv"][128 : 128 + 64] *= 1e9
    network = stack(isa, rows, 2, 1, 64)
    assert np.isnan(network.forward(network.new_cache(20), np.ones((20, HIDDEN), dtype="f4"))).all()
