"""A draft network in int8 reads all its inputs, however different their weights are."""

import numpy as np
import pytest

from eyas.runtimes.native import is_built, load_native_runtime

pytestmark = pytest.mark.skipif(not is_built(), reason="the native runtime is not built")


@pytest.fixture
def runtime(model_dirs):
    return load_native_runtime(model_dirs("llama"), dtype="float32", draft_dtype="int8")


@pytest.mark.parametrize("ratio", [2.0, 360.0])
def test_both_halves_of_a_linear_layer_count(runtime, ratio):
    """Before, a ratio of 360 left nothing of the smaller half: the output did not depend on the features."""
    rng, hidden = np.random.default_rng(0), runtime.target.hidden_size
    weight = rng.standard_normal((hidden, 2 * hidden)).astype(np.float32)
    weight[:, :hidden] *= ratio
    bias = rng.standard_normal(hidden).astype(np.float32)
    small, large = rng.standard_normal((2, 5, hidden)).astype(np.float32)
    layer = runtime.linear(weight, bias)
    zero = np.zeros_like(small)
    np.testing.assert_allclose(layer(zero, zero), np.tile(bias, (5, 1)), atol=1e-6)
    for inputs, columns in (((small, zero), slice(0, hidden)), ((zero, large), slice(hidden, None))):
        wanted = (inputs[0] + inputs[1]) @ weight[:, columns].T
        error = layer(*inputs) - bias - wanted
        assert np.sqrt(np.square(error).mean() / np.square(wanted).mean()) < 0.05
    got = layer(np.concatenate((small, large), axis=1))  # joined already
    np.testing.assert_allclose(got, layer(small, large), rtol=1e-6)
    block = runtime.res_block(weight, bias, (weight, bias))
    assert block(zero, large).shape == (5, hidden)
