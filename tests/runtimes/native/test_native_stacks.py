"""Stacks whose formats, caches and taps are mixed: each part computes what it computes by itself."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from native_nets import ISAS, KINDS, OPTIONS, SHAPES, Reference, engine, net, same_bits, weights
from tests.reference.blocks import LAYOUTS

from eyas import _native
from eyas.models.spec import Embedding, GatedMLP, LMHead, ModelSpec, MoE, llama_stack
from eyas.runtimes.native.matrices import MATRICES, interleave, make_matrix
from eyas.runtimes.native.support import missing

every_isa = pytest.mark.parametrize("isa", ISAS)
pairs_of_kinds = pytest.mark.parametrize("kinds", list(product(KINDS, repeat=2)), ids="-".join)
HIDDEN, INNER, WIDTH = 40, 32, 32
TOKENS = np.random.default_rng(8).integers(0, 61, 20)


def matrices(seed=0):
    """Rows of a layer's matrices by name."""
    generator = np.random.default_rng(seed)
    sizes = {"qkv": (3 * WIDTH, HIDDEN), "output": (HIDDEN, WIDTH), "down": (HIDDEN, INNER)}
    rows = {name: generator.normal(size=size).astype("f4") for name, size in sizes.items()}
    return rows | {"gate_up": interleave(*generator.normal(size=(2, INNER, HIDDEN)).astype("f4"))}


def stack(isa, rows, kinds, layers=1):
    """Layers of these matrices without norms and rotation, so that a product reads what stands before it."""
    packed = {name: make_matrix(rows[name], kind, name) for name, kind in zip(MATRICES, kinds, strict=True)}
    shape = _native.StackShape(hidden=HIDDEN, heads=4, kv_heads=4, head_dim=8, ropes=[], kv_dtype="float32")
    return _native.Stack(engine(1, isa), shape, [_native.Layer(**packed, rope=-1)] * layers)


def linear(isa, rows, kind, x):
    return _native.Linear(engine(1, isa), make_matrix(rows, kind, "a matrix")).forward([x])


def run(network, x):
    return network.forward(network.new_cache(99), x)


@every_isa
@pairs_of_kinds
def test_the_matrices_of_attention_have_formats_of_their_own(isa, kinds):
    """A first token attends to itself: its values are the heads' output, to the last bit."""
    rows = matrices() | {"down": np.zeros((HIDDEN, INNER), dtype="f4")}
    x = np.random.default_rng(1).normal(size=(1, HIDDEN)).astype("f4")
    values = linear(isa, rows["qkv"], kinds[0], x)[:, 2 * WIDTH :]
    wanted = x + linear(isa, rows["output"], kinds[1], np.ascontiguousarray(values))
    assert same_bits(run(stack(isa, rows, (*kinds, "int8", "float32")), x), wanted)


@every_isa
@pairs_of_kinds
def test_the_matrices_of_an_mlp_have_formats_of_their_own(isa, kinds):
    """The gated products are read where the residual stream is 0; then the layer is x + down(gated)."""
    rows = matrices() | {"output": np.zeros((HIDDEN, WIDTH), dtype="f4")}
    x = np.random.default_rng(2).normal(size=(30, HIDDEN)).astype("f4")
    x[:, : HIDDEN - INNER], x[:, HIDDEN - INNER :] = x[:, : HIDDEN - INNER] * 5, 0
    reading = rows | {"down": np.eye(HIDDEN, INNER, INNER - HIDDEN, dtype="f4")}
    gated = run(stack(isa, reading, ("int8", "bfloat16", kinds[0], "float32")), x)[:, HIDDEN - INNER :]
    assert np.abs(gated).max() > 0.1
    wanted = x + linear(isa, rows["down"], kinds[1], np.ascontiguousarray(gated))
    assert same_bits(run(stack(isa, rows, ("int8", "bfloat16", *kinds)), x), wanted)


@every_isa
def test_layers_have_formats_of_their_own(isa):
    """Mixed layers in one stack are the stacks of each, one after the other."""
    mixed, coarse = ("int8", "float32", "bfloat16", "int8"), ("bfloat16", "int8", "int8", "bfloat16")
    x = np.random.default_rng(3).normal(size=(9, HIDDEN)).astype("f4") * np.float32(0.01)
    first, second = stack(isa, matrices(1), mixed), stack(isa, matrices(2), coarse)
    wanted = run(second, run(first, x))
    shape = _native.StackShape(hidden=HIDDEN, heads=4, kv_heads=4, head_dim=8, ropes=[], kv_dtype="float32")
    layers = [
        _native.Layer(
            **{
                name: make_matrix(matrices(seed)[name], kind, name)
                for name, kind in zip(MATRICES, kinds, strict=True)
            },
            rope=-1,
        )
        for seed, kinds in ((1, mixed), (2, coarse))
    ]
    assert same_bits(run(_native.Stack(engine(1, isa), shape, layers), x), wanted)


@every_isa
@pytest.mark.parametrize(
    ("kind", "own"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "bfloat16")]
)
def test_keys_and_values_have_a_type_of_their_own(isa, kind, own):
    auto, same = net("windows", kind, isa), net("windows", kind, isa, kv_dtype=own)
    other = net("windows", kind, isa, kv_dtype="bfloat16" if own == "float32" else "float32")
    features, logits = (part for part in auto.forward(auto.new_cache(), TOKENS))
    for ours, theirs in zip(same.forward(same.new_cache(), TOKENS), (features, logits), strict=True):
        assert same_bits(ours, theirs)
    others, _ = other.forward(other.new_cache(), TOKENS)
    assert not same_bits(others, features)
    np.testing.assert_allclose(others, features, rtol=0, atol=0.1 * np.abs(features).max())
    with pytest.raises(ValueError, match="another network"):
        other.forward(auto.new_cache(), TOKENS)


def test_narrow_caches_are_small():
    """Bytes of a number: 4, 2, and 1 with a scale of 2 bytes per 32."""
    kinds = ("float32", "bfloat16", "q8_0")
    sizes = [net("wide-heads", "float32", kv_dtype=kv_dtype).prefill(TOKENS).bytes for kv_dtype in kinds]
    np.testing.assert_allclose(np.array(sizes) / sizes[0] * 4, [4, 2, 1 + 2 / 32])


@every_isa
@pytest.mark.parametrize("name", ["plain", "both-norms", "multiplier", "gemma2"])
@pytest.mark.parametrize("threads", [1, 2])
def test_taps_are_what_enters_a_layer_and_change_nothing(isa, name, threads):
    network, layers = net(name, "float32", isa, threads), len(SHAPES[name].windows)
    plain, _ = network.target.forward([(network.new_cache(), TOKENS, None, False)])
    states, _ = Reference(name, len(TOKENS)).run(TOKENS)
    taps = [layers, 0, 1, 1]
    features, tapped = network.target.forward([(network.new_cache(), TOKENS, None, False)], taps)
    assert same_bits(features, plain)
    for tap, got in zip(taps, tapped, strict=True):
        np.testing.assert_allclose(got, states[tap], rtol=0, atol=1e-4 * np.abs(states[tap]).max())


def test_taps_of_a_prompt_longer_than_a_pass():
    """600 tokens go through in passes of 256; taps are those of the same tokens in small pieces."""
    network, tokens = net("gemma2"), np.random.default_rng(5).integers(0, 61, 600)
    _, [whole] = network.target.forward([(network.new_cache(), tokens, None, True)], [2])
    cache, pieces = network.new_cache(), []
    for start in range(0, 600, 100):
        _, [piece] = network.target.forward([(cache, tokens[start : start + 100], None, True)], [2])
        cache.commit(list(range(100)))
        pieces.append(piece)
    assert same_bits(whole, np.concatenate(pieces))


@pytest.mark.parametrize("tap", [-1, 3, 2**31 - 1])
def test_a_tap_at_no_layer_is_refused_before_work(tap):
    network = net("plain")
    cache = network.new_cache()
    with pytest.raises(ValueError, match="a tap at one of the layers"):
        network.target.forward([(cache, TOKENS, None, False)], [tap])
    assert cache.num_pending == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope": 1}, "a rotary embedding of the stack's"),
        ({"rope": -2}, "a rotary embedding of the stack's"),
        ({"activation": "relu"}, "silu, gelu or gelu_tanh"),
        ({"window": -1}, "at least 0"),
        ({"softcap": -1.0}, "at least 0"),
        ({"mlp_post_norm": np.ones(39, dtype="f4")}, "as wide as"),
        ({"query_norm": np.ones(32, dtype="f4")}, "as wide as"),
        ({"key_norm": np.ones(8, dtype="f4"), "wide_norms": True}, "as wide as"),
    ],
)
def test_layers_that_do_not_fit_are_refused(changes, message):
    packed = {name: make_matrix(rows, "float32", name) for name, rows in matrices().items()}
    shape = _native.StackShape(hidden=HIDDEN, heads=4, kv_heads=4, head_dim=8, ropes=[], kv_dtype="float32")
    with pytest.raises(ValueError, match=message):
        _native.Stack(engine(), shape, [_native.Layer(**packed, **({"rope": -1} | changes))])


def mixture(experts=3, **changes):
    """The weights of equal experts, as a layer takes them."""
    packed = {name: make_matrix(rows, "float32", name) for name, rows in matrices().items()}
    router = np.random.default_rng(7).normal(size=(experts, HIDDEN)).astype("f4")
    given = {
        "router": make_matrix(router, "float32", "router"),
        "gate_up": [packed["gate_up"]] * experts,
        "down": [packed["down"]] * experts,
        "top_k": 2,
    }
    return _native.Mixture(**given | changes), packed


@every_isa
def test_equal_experts_are_the_mlp_that_each_of_them_is(isa):
    """Weights that sum to 1 leave what all chosen experts give, whichever were chosen."""
    experts, packed = mixture()
    shape = _native.StackShape(hidden=HIDDEN, heads=4, kv_heads=4, head_dim=8, ropes=[], kv_dtype="float32")
    outer = {"qkv": packed["qkv"], "output": packed["output"], "rope": -1}
    x = np.random.default_rng(3).normal(size=(9, HIDDEN)).astype("f4")
    dense, mixed = (
        run(_native.Stack(engine(1, isa), shape, [_native.Layer(**outer, **mlp)]), x)
        for mlp in ({"gate_up": packed["gate_up"], "down": packed["down"]}, {"mixture": experts})
    )
    np.testing.assert_allclose(mixed, dense, rtol=0, atol=1e-4 * np.abs(dense).max())


def test_mixtures_that_do_not_fit_are_refused():
    rows = matrices()
    narrow = make_matrix(rows["down"][:, :16], "float32", "down")
    coarse = make_matrix(rows["down"], "bfloat16", "down")
    for changes in ({"top_k": 0}, {"top_k": 4}, {"gate_up": []}, {"down": [], "gate_up": []}):
        with pytest.raises(ValueError, match=r"one of the experts|at least one expert"):
            mixture(**changes)
    shape = _native.StackShape(hidden=HIDDEN, heads=4, kv_heads=4, head_dim=8, ropes=[], kv_dtype="float32")
    for changes, message in (
        ({"router": make_matrix(rows["qkv"], "float32", "router")}, "a router to the experts"),
        ({"down": [narrow] * 3}, "experts of one size"),
        ({"down": [make_matrix(rows["down"], "float32", "down")] * 2 + [coarse]}, "experts of one size"),
    ):
        experts, packed = mixture(**changes)
        layer = _native.Layer(qkv=packed["qkv"], output=packed["output"], mixture=experts, rope=-1)
        with pytest.raises(ValueError, match=message):
            _native.Stack(engine(), shape, [layer])
    with pytest.raises(ValueError, match="an MLP or a mixture"):
        _native.Layer(qkv=packed["qkv"], output=packed["output"], rope=-1)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
@every_isa
def test_a_number_that_is_none_gets_through_every_function(isa, fault):
    """Caps and activations must not turn it into a number."""
    for name in ("gelu", "gelu-tanh", "softcap", "logits", "gemma2", "mixture"):
        network = net(name, "float32", isa)
        rows = weights(SHAPES[name])["embedding"][TOKENS].copy()
        rows[3, 0] = fault
        got = run(network.stack, rows)
        assert not np.isfinite(got[3:]).any()
        network.head.forward(got)
        assert network.head.argmax(3) == -1


def test_the_table_of_formats():
    assert _native.weight_formats() == ["float32", "bfloat16", "float16", "int8", *LAYOUTS]
    with pytest.raises(ValueError, match="an unknown weight format"):
        _native.pack(np.ones((2, 2), dtype="f4"), "int3")


def test_what_the_engine_does_not_compute_is_said_by_name():
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2}

    def model(stack):
        return ModelSpec(
            family="a", context_limit=99, embedding=Embedding(vocab_size=61), stack=stack, head=LMHead()
        )

    spec = llama_stack(**sizes, head_dim=8)
    first, second = spec.layers
    assert all(
        missing(model(stack)) is None for stack in (spec, *(shape.stack for shape in OPTIONS.values()))
    )
    wide_experts = MoE(experts=4, top_k=2, expert=GatedMLP(size=60_000))
    wider = replace(second.attention, heads=8)
    for layer, message in (
        (replace(second, mlp=wide_experts), "vectors of 60000 numbers"),
        (replace(second, attention=wider), "differ in their attention heads"),
        (replace(second, mlp=GatedMLP(size=60_000)), "vectors of 60000 numbers"),
    ):
        assert message in missing(model(replace(spec, layers=(first, layer))))
    for dim in (7, 258):
        assert f"heads of {dim}" in missing(model(llama_stack(**sizes, head_dim=dim)))
