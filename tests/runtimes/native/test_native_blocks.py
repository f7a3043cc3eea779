"""Block formats (docs/laws.md, L8): their numbers are gguf's, and their products those of the definition.

To the bit, on every instruction set and however many tokens share a call.
"""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.blocks import LAYOUTS, decode, numbers, product, random_blocks

from eyas import _native

ISAS = _native.isas()
FORMATS = tuple(LAYOUTS)
ENGINES = {isa: _native.Engine(2, isa) for isa in ISAS}


def bits(array):
    return np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)


def linear(name, raw, isa):
    data, _, bad = _native.pack(raw, name)
    assert not bad
    size, num_bytes, _ = LAYOUTS[name]
    matrix = _native.Matrix(name, len(raw), raw.shape[1] // num_bytes * size, data)
    return _native.Linear(ENGINES[isa], matrix)


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_those_of_gguf(name):
    raw = random_blocks(name, 9, 768, np.random.default_rng(1))
    if name == "MXFP4":
        raw[:, 0] = np.arange(9) * 31  # from the smallest power, which is denormal
    wanted = dequantize(raw, GGMLQuantizationType[name])
    assert np.array_equal(bits(_native.unpack(raw, name)), bits(wanted))
    assert np.array_equal(numbers(decode(name, raw)), wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMATS)
def test_products_are_the_definition(name, isa):
    generator = np.random.default_rng(2)
    raw = random_blocks(name, 70, 512, generator)
    x = generator.normal(0, 1, (17, 512)).astype(np.float32)
    x[3] = 0
    x[4, 32:64] *= 1e4  # an outlier costs the 32 around it alone
    wanted = product(decode(name, raw), x)
    assert np.array_equal(bits(linear(name, raw, isa).forward([x])), bits(wanted))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(FORMATS),
    isa=st.sampled_from(ISAS),
    tokens=st.integers(1, 40),
    rows=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_tokens_product_depends_on_that_token_alone(name, isa, tokens, rows, seed):
    generator = np.random.default_rng(seed)
    layer = linear(name, random_blocks(name, rows, 256, generator), isa)
    x = generator.normal(0, 1, (tokens, 256)).astype(np.float32)
    alone = np.concatenate([layer.forward([x[t : t + 1]]) for t in range(tokens)])
    assert np.array_equal(bits(layer.forward([x])), bits(alone))


@pytest.mark.parametrize("name", FORMATS)
def test_a_matrix_takes_hardly_more_memory_than_in_its_file(name):
    raw = random_blocks(name, 64, 512, np.random.default_rng(3))
    assert _native.pack(raw, name)[0].nbytes <= 1.05 * raw.nbytes


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "MXFP4"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_scales_that_are_not_finite_are_counted(name, value):
    raw = random_blocks(name, 3, 512, np.random.default_rng(4))
    _, num_bytes, halves = LAYOUTS[name]
    for count, place in enumerate(halves, start=1):
        block = raw[count, num_bytes : 2 * num_bytes]
        block[place : place + 2] = np.array([value], dtype="<f2").view(np.uint8)
    assert _native.pack(raw, name)[2] == len(halves)


@pytest.mark.parametrize("isa", ISAS)
def test_a_token_that_is_not_finite_is_not_finite_behind_a_product(isa):
    layer = linear("Q4_K", random_blocks("Q4_K", 40, 256, np.random.default_rng(5)), isa)
    x = np.zeros((2, 256), dtype=np.float32)
    x[1, 77] = np.nan
    y = layer.forward([x])
    assert np.isnan(y[1]).all()
    assert not y[0].any()


def test_half_precision_is_multiplied_in_float32():
    generator = np.random.default_rng(6)
    weights = generator.normal(0, 1, (40, 50)).astype("<f2")
    x = generator.normal(0, 1, (5, 50)).astype(np.float32)
    data, _, bad = _native.pack(weights.view(np.uint8), "float16")
    results = [
        _native.Linear(engine, _native.Matrix("float16", 40, 50, data)).forward([x])
        for engine in ENGINES.values()
    ]
    assert not bad
    assert data.nbytes == 64 * 50 * 2
    np.testing.assert_allclose(results[0], x @ weights.astype(np.float32).T, rtol=1e-5, atol=1e-5)
    for result in results:
        assert np.array_equal(bits(result), bits(results[0]))
    weights[3, 4] = np.inf
    assert _native.pack(weights.view(np.uint8), "float16")[2] == 1
