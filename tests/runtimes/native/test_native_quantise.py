"""Quantising: the gguf library's bytes where it quantises too, else errors as small as the rules give."""

import hashlib
import json
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas import _native
from reference import quantised as reference

GOLDEN = Path(__file__).parents[2] / "golden" / "blocks.json"
PLAIN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SEARCHED = (*reference.FACTORS, *reference.LINES)
FORMATS = (*PLAIN, *SEARCHED, "MXFP4")
every_format = pytest.mark.parametrize("name", FORMATS)
quick = settings(deadline=None, max_examples=50)


def quantise(weights, name, threads=1):
    blocks, bad = _native.quantise(np.ascontiguousarray(weights), name, threads)
    assert bad == 0
    return blocks


def dequantise(blocks, name):
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])


def draws(kind, shape, seed=0):
    """Weights as networks have them, and worse."""
    generator = np.random.default_rng(seed)
    weights = {
        "normal": lambda: generator.standard_normal(shape),
        "laplace": lambda: generator.laplace(size=shape),
        "heavy": lambda: generator.standard_t(3, shape),
        "shifted": lambda: generator.standard_normal(shape) + 2,
        "positive": lambda: generator.gamma(2, size=shape),
        "uneven": lambda: generator.standard_normal(shape) * np.exp(generator.standard_normal(shape[1])),
    }[kind]()
    return (0.02 * weights).astype(np.float32)


KINDS = ("normal", "laplace", "heavy", "shifted", "positive", "uneven")


def rms(errors):
    return np.sqrt(np.square(errors, dtype=np.float64).mean())


# ---- the rules ----


@pytest.mark.parametrize("name", [*PLAIN, "MXFP4"])
@quick
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-6, 3), kind=st.sampled_from(KINDS))
def test_bytes_are_the_gguf_librarys(name, seed, power, kind):
    weights = draws(kind, (3, 96), seed) * np.float32(10.0**power)
    weights[0, :32] = 0
    weights[1, :32] = weights[1, 0]
    weights[2, ::7] = 0
    wanted = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(quantise(weights, name), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SEARCHED)
def test_errors_are_those_of_the_published_rules(name, kind):
    """In float32 a search now and then ends beside the one in float64, at an error that is about as small."""
    weights = draws(kind, (16, 512))
    ours = rms(dequantise(quantise(weights, name), name) - weights)
    published = rms(reference.quantised(weights, name) - weights)
    assert ours == pytest.approx(published, rel=1e-2)


@pytest.mark.parametrize("kind", ["normal", "laplace"])
@pytest.mark.parametrize("name", SEARCHED)
def test_errors_are_near_the_least_possible(name, kind):
    """The least squares of unrounded scales; the rules favour large weights, which costs some of that."""
    weights = draws(kind, (8, 512))
    ours = rms(dequantise(quantise(weights, name), name) - weights)
    assert ours <= (1.3 if name == "Q2_K" else 1.15) * rms(reference.brute_force(weights, name) - weights)


# ---- every format ----


@every_format
def test_a_block_is_as_large_as_ggufs(name):
    block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert quantise(draws("normal", (2, 512)), name).shape == (2, 512 // block * num_bytes)
    with pytest.raises(ValueError, match="divide into the format's blocks"):
        _native.quantise(np.zeros((2, 256 + block // 2), dtype=np.float32), name)


@every_format
def test_rows_are_quantised_apart_by_any_number_of_threads(name):
    weights = draws("heavy", (37, 256))
    blocks = quantise(weights, name)
    for threads in (2, 5, 64):
        np.testing.assert_array_equal(quantise(weights, name, threads), blocks)
    np.testing.assert_array_equal(quantise(weights[11:12], name), blocks[11:12])


@every_format
def test_bfloat16_is_quantised_as_the_same_numbers_in_float32(name):
    weights = draws("normal", (5, 256)).astype(ml_dtypes.bfloat16)
    blocks, _ = _native.quantise(weights.view(np.uint16), name)
    np.testing.assert_array_equal(blocks, quantise(weights.astype(np.float32), name))


@every_format
def test_zeros_stay_zeros(name):
    assert not dequantise(quantise(np.zeros((2, 256), dtype=np.float32), name), name).any()


@every_format
@quick
@given(power=st.integers(-44, 4), kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_numbers_of_every_size_stay_near(name, power, kind, seed):
    """Scales below the smallest half become 0, those near it are coarse, and nothing overflows."""
    weights = np.clip(draws(kind, (1, 256), seed) * 10.0**power, -65504, 65504).astype(np.float32)
    values = dequantise(quantise(weights, name), name)
    assert np.isfinite(values).all()
    assert (
        np.abs(values - weights).max() <= 2 * np.abs(weights).max() + 2.0**-23
    )  # two of the smallest halves


@every_format
def test_weights_that_no_block_holds_are_counted(name):
    weights = draws("normal", (4, 256))
    weights[0, 3], weights[1, 5:7], weights[3, 255] = np.nan, [np.inf, -np.inf], 65536
    assert _native.quantise(weights, name)[1] == 4
    weights[3] = 65504
    assert _native.quantise(weights, name)[1] == 3


@every_format
def test_the_bytes_are_the_same_on_every_machine(name):
    """Weights made without a library's functions, whose last digits differ between machines."""
    generator = np.random.default_rng(8)
    whole = generator.integers(-(2**20), 2**20, (3, 16, 512)).prod(axis=0, dtype=np.int64)
    weights = (whole.astype(np.float64) / 2.0**62).astype(np.float32)
    digest = hashlib.sha256(quantise(weights, name).tobytes()).hexdigest()[:16]
    assert digest == json.loads(GOLDEN.read_text())[name]


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="a format that nothing is quantised to"):
        _native.quantise(np.zeros((1, 256), dtype=np.float32), "Q8_K")
