"""Products, layers and rows of logits against NumPy in float64, on every instruction set of the machine."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_nets import ISAS, KINDS, SHAPES, engine, net, quantised, reference, to_bfloat16

from eyas import _native
from eyas.errors import ModelError
from eyas.runtimes.native.matrices import make_matrix

quick = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
INT8_INPUTS = 64  # of a row that share a scale
sizes = st.one_of(st.integers(1, 8), st.integers(1, 140), st.sampled_from([31, 32, 33, 63, 64, 65, 96, 128]))
every_isa = pytest.mark.parametrize("isa", ISAS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def product(kind, isa, weight, rows, bias=None):
    matrix = make_matrix(weight, kind, "a matrix", bias)
    return _native.Linear(engine(1, isa), matrix).forward([rows])


def check(kind, got, weight, rows, bias):
    """Products of the rounded values, within the bound of any order of summation."""
    if kind == "int8":
        weight, rows = quantised(weight), quantised(rows, INT8_INPUTS)
    elif kind == "bfloat16":
        weight, rows = to_bfloat16(weight), to_bfloat16(rows)
    weight, rows = weight.astype(np.float64), rows.astype(np.float64)
    extra = 0 if bias is None else bias
    wanted = rows @ weight.T + extra
    bound = (weight.shape[1] + 4) * 2.0**-23 * (np.abs(rows) @ np.abs(weight).T + np.abs(extra)) + 1e-36
    assert (np.abs(got - wanted) <= bound).all()


@every_isa
@every_kind
@quick
@given(
    count=st.integers(1, 70),
    outputs=sizes,
    inputs=sizes,
    biased=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_are_numpys(isa, kind, count, outputs, inputs, biased, seed):
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(outputs, inputs)).astype(np.float32)
    rows = (generator.normal(size=(count, inputs)) * 10.0 ** generator.integers(-3, 4)).astype(np.float32)
    bias = generator.normal(size=outputs).astype(np.float32) if biased else None
    check(kind, product(kind, isa, weight, rows, bias), weight, rows, bias)


@every_isa
@pytest.mark.parametrize("inputs", [1, 4, 37, 64, 130, 1025])
def test_int8_sums_are_exact_and_do_not_saturate(isa, inputs):
    """Whole numbers up to 127, so that every scale is 1; the largest of both signs sum to over 16 bits."""
    generator = np.random.default_rng(0)
    weight, rows = (generator.integers(-127, 128, (count, inputs)).astype("f4") for count in (41, 13))
    weight[:4], rows[:4] = [[127], [-127], [127], [-127]], [[127], [127], [-127], [-127]]
    weight[4:, 0] = 127
    rows[4:, ::32] = -127
    bias = generator.integers(-5, 6, 41).astype("f4")
    np.testing.assert_array_equal(
        product("int8", isa, weight, rows, bias), rows @ weight.T.astype("f8") + bias
    )


@every_isa
@every_kind
def test_zeros_and_rows_of_denormals(isa, kind):
    generator = np.random.default_rng(1)
    weight = generator.normal(size=(33, 21)).astype(np.float32)
    weight[5] = 0
    weight[6] *= np.float32(1e-42)
    rows = np.stack([np.zeros(21), *(generator.normal(size=(4, 21)) * [[1e-44], [1e-40], [1e-37], [1]])])
    got = product(kind, isa, weight, rows.astype(np.float32))
    assert np.isfinite(got).all()
    assert not got[0].any()
    assert np.abs(got[:4]).max() < 1e-34
    check(kind, got[4:], weight, rows[4:].astype(np.float32), None)


@every_isa
def test_float32_keeps_denormals(isa):
    """Whoever changed the thread's mode before: ours is set for each call."""
    weight, rows = np.eye(5, dtype=np.float32), np.full((1, 5), 1e-40, dtype=np.float32)
    np.testing.assert_array_equal(product("float32", isa, weight, rows), rows)


@every_isa
@every_kind
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_gets_into_every_output(isa, kind, fault):
    rows = np.ones((3, 40), dtype=np.float32)
    rows[1, 17] = fault
    got = product(kind, isa, np.full((20, 40), 0.5, dtype=np.float32), rows)
    assert not np.isfinite(got[1]).any()
    assert np.isfinite(got[[0, 2]]).all()


@every_kind
@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_counted(kind, fault):
    weight = np.ones((7, 5), dtype=np.float32)
    weight[3, 2] = weight[6, 4] = fault
    with pytest.raises(ModelError, match=r"the fc holds 2 weights"):
        make_matrix(weight, kind, "the fc")


@every_isa
def test_bfloat16_weights_pack_as_their_float32(isa):
    weight = to_bfloat16(np.random.default_rng(2).normal(size=(45, 19)))
    bits = (weight.view(np.uint32) >> 16).astype(np.uint16)
    for kind in KINDS:
        for ours, theirs in zip(_native.pack(bits, kind), _native.pack(weight, kind), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@every_isa
@pytest.mark.parametrize("name", list(SHAPES))
def test_layers_are_their_definition(isa, name):
    """Gated products, norms, rotary embedding, grouped attention, windows: float32 to 1e-4 of the size."""
    token_ids = np.random.default_rng(3).integers(0, SHAPES[name].vocab, 70)
    features, logits = reference(name, token_ids)
    network = net(name, "float32", isa)
    got_features, got_logits = network.forward(network.new_cache(), token_ids)
    np.testing.assert_allclose(got_features, features, rtol=0, atol=1e-4 * np.abs(features).max())
    np.testing.assert_allclose(got_logits, logits, rtol=0, atol=1e-4 * np.abs(logits).max())


@every_isa
@pytest.mark.parametrize(("kind", "allowed"), [("bfloat16", 0.1), ("int8", 0.2)])
@pytest.mark.parametrize("name", ["plain", "windows", "head-norms"])
def test_coarse_layers_are_near_their_definition(isa, kind, allowed, name):
    """Two or three layers of rounding: a bound on the mean error, relative to the logits' spread."""
    token_ids = np.random.default_rng(3).integers(0, SHAPES[name].vocab, 40)
    _, logits = reference(name, token_ids)
    network = net(name, kind, isa)
    _, got = network.forward(network.new_cache(), token_ids)
    assert np.abs(got - logits).mean() < allowed * logits.std()


def test_softmax_of_huge_scores_is_a_maximum():
    """No norm bounds the first layer of an EAGLE head: its scores may be billions."""
    network = net("plain", "bfloat16")
    rows = np.random.default_rng(4).normal(size=(40, 40)).astype(np.float32) * np.float32(1e8)
    assert np.isfinite(network.stack.forward(network.new_cache(), rows)).all()


def head_of(columns, isa=None, parts=None):
    """A head whose logits are its inputs: exact in float32."""
    eye = np.eye(columns, dtype=np.float32)
    pieces = np.split(eye, parts) if parts is not None else [eye]
    return _native.LMHead(engine(1, isa), [make_matrix(piece, "float32", "one") for piece in pieces])


def best(row, k):
    return np.lexsort((np.arange(len(row)), -row))[:k]


tied_rows = st.integers(1, 150).flatmap(
    lambda n: st.lists(
        st.floats(-30, 30, width=32).map(lambda x: round(x * 2) / 2), min_size=n, max_size=n
    ).map(lambda row: np.array([row], dtype=np.float32))
)


@every_isa
@quick
@given(rows=tied_rows, k=st.sampled_from([1, 2, 10, 63, 64, 65, 150]), data=st.data())
def test_best_entries_and_their_log_probabilities(isa, rows, k, data):
    """Ties to the lower column, in one part or several; the sum goes over all columns."""
    columns = rows.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, columns - 1)), max_size=3)) if columns > 1 else ())
    wanted = best(rows[0], k)
    sum_ = np.logaddexp.reduce(rows[0].astype(np.float64))
    for parts in (None, cuts):
        head = head_of(columns, isa, parts)
        found, log_probs = head.top_k(rows, k)
        np.testing.assert_array_equal(found[0], wanted)
        np.testing.assert_allclose(log_probs[0], rows[0, wanted] - sum_, rtol=0, atol=1e-5)
        assert (log_probs <= 0).all()
        assert head.argmax(0) == wanted[0]
        np.testing.assert_array_equal(head.logits(0), rows[0])


@every_isa
@pytest.mark.parametrize("at", [0, 15, 16, 31, 40])
@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_one_logit_that_is_no_number_is_found(isa, at, fault):
    # A weight row of that value: an input of it would spoil the other columns too.
    weight = np.full((41, 1), 0.5, dtype=np.float32)
    data, *_ = _native.pack(weight, "float32")
    values = data.view(np.float32).copy()
    values[at // 32 * 32 + at % 32] = fault
    head = _native.LMHead(engine(1, isa), [_native.Matrix("float32", 41, 1, values.view(np.uint8))])
    rows = np.ones((2, 1), dtype=np.float32)
    assert head.top_k(rows, 3) is None
    assert np.isnan(fault) == (head.argmax(1) == -1)
