"""The compiled sampler against `eyas.engine.sampling.Sampler`, the reference: the same ids with every
processor."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from native_nets import ISAS, engine

from eyas import _native
from eyas.engine.sampling import Sampler, SamplingConfig, keep_top_k, keep_top_p, log_softmax
from eyas.engine.tree import DraftTree
from eyas.engine.verification import Verifier, accept_same_ids
from eyas.runtimes.native.matrices import make_matrix
from eyas.runtimes.native.rows import NativeRows
from eyas.runtimes.native.samplers import NativeSamplers, answer
from fake import parent_lists

quick = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
every_isa = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def logit_rows(draw, smallest=2):
    """Rows of many shapes: flat, peaked, rounded so that entries tie, wide."""
    size = draw(st.one_of(st.integers(smallest, 24), st.sampled_from([63, 64, 65, 200, 1000])))
    spread = draw(st.sampled_from([0.01, 1.0, 4.0, 30.0, 1000.0]))
    row = np.random.default_rng(draw(seeds)).normal(scale=spread, size=size)
    if draw(st.booleans()):
        row = np.round(row / spread * 4) * spread / 4
    return row.astype(np.float32)


@st.composite
def samplers(draw, vocab, temperatures=(0.0, 0.3, 0.7, 1.0, 2.5)):
    tokens = st.lists(st.integers(0, vocab - 1), max_size=8)
    config = SamplingConfig(
        temperature=draw(st.sampled_from(temperatures)),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 5, 40, 10**12])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.3, 0.9, 0.999])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.8, 1.3])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 0.5, -0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.25, -0.25])),
        logit_bias=draw(
            st.dictionaries(st.integers(0, vocab - 1), st.sampled_from([-100.0, 2.0, 7.5]), max_size=3)
        ),
    )
    return Sampler(
        config,
        prompt_ids=draw(tokens),
        vocab_size=vocab,
        seed=draw(seeds),
        choice=draw(st.integers(0, 3)),
        withheld=draw(st.sets(st.integers(0, vocab - 1), max_size=min(2, vocab - 1))),
        min_new_tokens=draw(st.sampled_from([0, 0, 3])),
    )


def on_the_edge(sampler, logits, generated, columns=None):
    """Whether a filter's edge is so near an entry that two ways of rounding may differ."""
    config = sampler.config
    if config.is_greedy:
        return False
    row = np.array(logits, dtype=np.float64)
    sampler._edit(row, np.asarray(generated, dtype=np.int64), columns)
    row = keep_top_k(row / config.temperature, config.top_k)
    if not np.isfinite(row).any():  # every id is withheld
        return False
    if config.top_p < 1:
        alive = np.sort(row[np.isfinite(row)])
        if (np.abs(np.cumsum(np.exp(log_softmax(alive))) - (1 - config.top_p)) < 1e-12).any():
            return True
        row = keep_top_p(row, config.top_p)
    probs = np.exp(log_softmax(row))
    return config.min_p > 0 and bool((np.abs(probs / probs.max() - config.min_p) < 1e-12).any())


class Twin:
    """The compiled sampler behind a head whose logits are its input; two threads share its work."""

    def __init__(self, sampler, isa=None, ids=None):
        size = sampler.vocab_size if ids is None else len(ids)
        self.sampler, self.ids = sampler, ids
        one = make_matrix(np.eye(size, dtype="f4"), "float32", "one")
        self.head = _native.LMHead(engine(2, isa), [one], token_ids=ids)
        self.twin = NativeSamplers(engine(2, isa)).compiled(sampler)

    def choose(self, logits, generated):
        self.head.forward(logits[None])
        [token] = self.head.choose([0], [self.twin], [answer(self.sampler, generated)])
        return token

    def coupled(self, logits, generated, k, scale):
        ready = [answer(self.sampler, generated)]
        [token_ids], [log_probs] = self.head.coupled(logits[None], k, self.twin, ready, scale)
        if self.ids is None:
            return token_ids, log_probs
        columns = np.argsort(self.ids)
        return columns[np.searchsorted(self.ids, token_ids, sorter=columns)], log_probs


@every_isa
@quick
@given(row=logit_rows(), data=st.data())
def test_ids_are_the_references(isa, row, data):
    sampler = data.draw(samplers(len(row)))
    twin = Twin(sampler, isa)
    for _ in range(4):
        generated = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=6), label="generated")
        assume(not on_the_edge(sampler, row, generated))
        assert twin.choose(row, generated) == sampler.choose(row.astype(np.float64), generated)


class Allowing:
    """A grammar that allows some ids, by the answer's length."""

    def __init__(self, size, seed, share):
        self.size, self.seed, self.share = size, seed, share

    def allowed(self, generated):
        rng = np.random.default_rng([self.seed, len(generated)])
        found = rng.random(self.size) < self.share
        found[rng.integers(self.size)] = True
        return found

    def mask(self, generated):
        return np.packbits(self.allowed(generated), bitorder="little")

    def restrict(self, row, generated, columns):
        allowed = self.allowed(generated)
        row[~(allowed if columns is None else allowed[columns])] = -np.inf

    def require(self, generated):
        assert self.allowed(generated).any()


@st.composite
def restricted(draw, vocab, temperatures=(0.0, 0.3, 1.0, 2.5)):
    """Samplers with a grammar."""
    sampler = draw(samplers(vocab, temperatures))
    sampler.min_new_tokens = 0  # nothing may be left otherwise
    sampler.grammar = Allowing(vocab, draw(seeds), draw(st.sampled_from([0.0, 0.02, 0.5, 0.95])))
    return sampler


@every_isa
@quick
@given(row=logit_rows(), data=st.data())
def test_ids_under_a_grammar_are_the_references(isa, row, data):
    sampler = data.draw(restricted(len(row)))
    twin = Twin(sampler, isa)
    for _ in range(4):
        generated = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=6), label="generated")
        masked = np.where(sampler.grammar.allowed(generated), row.astype(np.float64), -np.inf)
        assume(not on_the_edge(sampler, masked, generated))
        token = twin.choose(row, generated)
        assert token == sampler.choose(row.astype(np.float64), generated)
        assert sampler.grammar.allowed(generated)[token]


@every_isa
@quick
@given(row=logit_rows(), k=st.sampled_from([1, 3, 10]), data=st.data())
def test_drafts_under_a_grammar_are_the_best_that_it_allows(isa, row, k, data):
    """Without a temperature too, where there is no noise; of a draft vocabulary maybe none."""
    vocab = len(row) + data.draw(st.sampled_from([0, 30]), label="ids that are left out")
    sampler = data.draw(restricted(vocab))
    ids = np.sort(np.random.default_rng(data.draw(seeds)).permutation(vocab)[: len(row)])
    generated = data.draw(st.lists(st.integers(0, vocab - 1), max_size=6), label="generated")
    masked = np.where(sampler.grammar.allowed(generated)[ids], row.astype(np.float64), -np.inf)
    assume(not on_the_edge(sampler, masked, generated, ids))
    scores = sampler.scores(row.astype(np.float64), generated, columns=ids)
    found, log_probs = Twin(sampler, isa, ids).coupled(row, generated, k, 1.0)
    if np.isfinite(scores).any():
        check_coupled(found, log_probs, scores, 1.0)
    else:
        assert (log_probs == -np.inf).all()


@quick
@given(data=st.data(), parents=parent_lists, start=st.integers(0, 2))
def test_a_path_in_one_call_is_that_of_the_choices_one_by_one(data, parents, start):
    size = 5
    row = st.lists(st.floats(-4, 4, width=32), min_size=size, max_size=size)
    logits = np.array([data.draw(row) for _ in range(start + len(parents))], dtype="f4")
    token_ids = data.draw(st.lists(st.integers(0, size - 1), min_size=len(parents), max_size=len(parents)))
    tree = DraftTree(np.array(token_ids), np.array(parents), np.zeros(len(parents)))
    sampler = data.draw(
        st.one_of(st.just(Sampler(SamplingConfig(), prompt_ids=[1], vocab_size=size)), samplers(size))
    )
    head = _native.LMHead(engine(2), [make_matrix(np.eye(size, dtype="f4"), "float32", "one")])
    head.forward(logits)
    rows = NativeRows(logits[start:], head, start, len(parents), NativeSamplers(engine(2)), "a test's head")
    generated = [token_ids[0]]
    one_by_one = Verifier(rows, sampler, generated)
    one_by_one.follow = lambda tree: None
    wanted, found = (
        accept_same_ids(tree, one_by_one),
        accept_same_ids(tree, Verifier(rows, sampler, generated)),
    )
    assert (found.path, found.token_ids) == (wanted.path, wanted.token_ids)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_many_draws_of_a_large_vocabulary(isa, temperature, threads):
    """The float search finds the exact winner: 200 rows of 1,000 tokens."""
    generator = np.random.default_rng(1)
    sampler = Sampler(SamplingConfig(temperature=temperature), prompt_ids=[1], vocab_size=1000, seed=5)
    twin = NativeSamplers(engine(threads, isa)).compiled(sampler)
    rows = generator.normal(scale=3, size=(200, 1000)).astype("f4")
    eye = make_matrix(np.eye(1000, dtype="f4"), "float32", "one")
    head = _native.LMHead(engine(threads, isa), [eye])
    head.forward(rows)
    for position, row in enumerate(rows):
        [token] = head.choose([position], [twin], [(position, [], None)])
        assert token == sampler.choose(row.astype(np.float64), [0] * position)
        sampler.commit([0] * position)


@pytest.mark.parametrize("temperature", [1e-3, 1e-8, 1e-30, 1e-38, 1e-40, 1e-300])
def test_the_smallest_temperatures(temperature):
    """Scores leave float32's range: the choice is still the reference's, here the best."""
    row = np.array([1.0, 3.5, -2.0, 3.25], dtype="f4")
    sampler = Sampler(SamplingConfig(temperature=temperature), prompt_ids=[], vocab_size=4, seed=1)
    assert Twin(sampler).choose(row, []) == sampler.choose(row.astype(np.float64), []) == 1


@quick
@given(row=logit_rows(), seed=seeds, order=st.lists(st.integers(0, 9), min_size=2, max_size=12))
def test_the_noise_does_not_depend_on_the_order_of_positions(row, seed, order):
    """Drafting draws ahead, the walk behind it, a later turn before both."""
    sampler = Sampler(SamplingConfig(temperature=1.0), prompt_ids=[1, 0], vocab_size=len(row), seed=seed)
    twin = Twin(sampler)
    for step, length in enumerate(order):
        generated = [0] * length
        if step % 3 == 1:
            twin.coupled(row, generated, 2, 1.0)
        else:
            fresh = Sampler(sampler.config, prompt_ids=[1, 0], vocab_size=len(row), seed=seed)
            assert twin.choose(row, generated) == fresh.choose(row.astype(np.float64), generated)


def check_coupled(found, log_probs, scores, scale):
    """`scores` (M,) are the reference's; equal columns but where two are nearer than the noise is exact."""
    order = np.lexsort((np.arange(len(scores)), -scores))[: len(found)]
    able = np.isfinite(scores[order])
    assert len(set(found.tolist())) == len(found)
    np.testing.assert_array_equal(np.isfinite(log_probs), able)
    size = 1 + np.abs(scores[np.isfinite(scores)]).max() * 1e-3
    np.testing.assert_allclose(scores[found[able]], scores[order[able]], rtol=0, atol=1e-3 * size)
    gaps = np.abs(np.subtract.outer(scores[order], np.where(np.isfinite(scores), scores, 1e300)))
    gaps[np.arange(len(order)), order] = np.inf
    clear = able & (gaps.min(axis=1) > 2e-3 * size)
    np.testing.assert_array_equal(found[clear], order[clear])
    total = np.logaddexp.reduce(scores[np.isfinite(scores)] / scale)
    wanted = np.minimum(0, scores[order[able]] / scale - total)
    np.testing.assert_allclose(log_probs[able], wanted, rtol=0, atol=2e-3 * size / min(1, scale))
    assert (log_probs <= 0).all()


@every_isa
@quick
@given(
    row=logit_rows(),
    k=st.sampled_from([1, 3, 10, 80]),
    scale=st.sampled_from([0.5, 1.0, 1.7]),
    data=st.data(),
)
def test_coupled_children_are_the_best_scores(isa, row, k, scale, data):
    sampler = data.draw(samplers(len(row), (0.3, 1.0, 2.5)))
    generated = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=6), label="generated")
    assume(not on_the_edge(sampler, row, generated))
    found, log_probs = Twin(sampler, isa).coupled(row, generated, k, scale)
    assert len(found) == min(k, len(row))
    check_coupled(found, log_probs, sampler.scores(row.astype(np.float64), generated), scale)


@quick
@given(row=logit_rows(), k=st.sampled_from([1, 4, 12]), data=st.data())
def test_coupled_over_a_draft_vocabulary_in_any_order(row, k, data):
    """A prompt's own ids come behind the draft vocabulary: ids do not ascend."""
    vocab = len(row) + data.draw(st.integers(0, 40), label="ids that are left out")
    sampler = data.draw(samplers(vocab, (0.3, 1.0)))
    ids = np.random.default_rng(data.draw(seeds)).permutation(vocab)[: len(row)]
    generated = data.draw(st.lists(st.integers(0, vocab - 1), max_size=6), label="generated")
    order = np.argsort(ids)
    assume(not on_the_edge(sampler, row[order], generated, ids[order]))
    ascending = sampler.scores(row[order].astype(np.float64), generated, columns=ids[order])
    scores = np.empty(len(row))
    scores[order] = ascending
    assume(np.isfinite(scores).any())
    filters = sampler.config.top_k or sampler.config.top_p < 1
    assume(not (filters and len(set(row.tolist())) < len(row)))  # ties go to the lower column
    found, log_probs = Twin(sampler, None, ids).coupled(row, generated, k, 1.0)
    check_coupled(found, log_probs, scores, 1.0)


@quick
@given(row=logit_rows(smallest=4), k=st.sampled_from([1, 3, 10]), cut=st.floats(0.1, 0.9), seed=seeds)
def test_a_head_of_parts_is_a_head_of_one(row, k, cut, seed):
    size = len(row)
    sampler = Sampler(SamplingConfig(temperature=1.0), prompt_ids=[], vocab_size=size, seed=seed)
    eye = np.eye(size, dtype="f4")
    pieces = np.split(eye, [max(1, int(cut * size))])
    whole = _native.LMHead(engine(), [make_matrix(eye, "float32", "one")])
    parts = _native.LMHead(engine(), [make_matrix(piece, "float32", "one") for piece in pieces])
    assert (whole.size, parts.size) == (size, size)
    (columns, log_probs), (wanted_columns, wanted) = parts.top_k(row[None], k), whole.top_k(row[None], k)
    np.testing.assert_array_equal(columns, wanted_columns)
    np.testing.assert_allclose(log_probs, wanted, rtol=0, atol=1e-5 + 1e-7 * np.abs(row).max())
    assert parts.argmax(0) == whole.argmax(0)
    np.testing.assert_array_equal(parts.logits(0), whole.logits(0))
    twin = NativeSamplers(engine()).compiled(sampler)
    for ours, theirs in zip(
        parts.coupled(row[None], k, twin, [(0, [], None)], 1.0),
        whole.coupled(row[None], k, twin, [(0, [], None)], 1.0),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}])
@pytest.mark.parametrize("size", [3, 16, 50])
def test_a_logit_that_is_no_number_chooses_nothing(options, size):
    for at in {0, size // 2, size - 1}:
        row = np.ones(size, dtype="f4")
        weight = np.ones((size, 1), dtype="f4")
        data, *_ = _native.pack(weight, "float32")
        values = data.view(np.float32).copy()
        values[at // 32 * 32 + at % 32] = np.nan
        head = _native.LMHead(engine(), [_native.Matrix("float32", size, 1, values.view(np.uint8))])
        sampler = Sampler(SamplingConfig(**options), prompt_ids=[], vocab_size=size)
        twin = NativeSamplers(engine()).compiled(sampler)
        head.forward(row[:1, None])
        assert head.choose([0], [twin], [(0, [], None)]) == [-1]
        assert head.coupled(row[:1, None], 1, twin, [(0, [], None)], 1.0) is None


def test_bad_calls_are_refused():
    sampler = Sampler(SamplingConfig(temperature=1.0), prompt_ids=[], vocab_size=5)
    twin, other = (
        Twin(sampler),
        NativeSamplers(engine()).compiled(
            Sampler(SamplingConfig(temperature=1.0), prompt_ids=[], vocab_size=6)
        ),
    )
    rows = np.zeros((2, 5), dtype="f4")
    twin.head.forward(rows)
    for which, who in [
        ([2], [twin.twin]),
        ([-1], [twin.twin]),
        ([0], [other]),
        ([0, 1], [twin.twin, twin.twin]),
    ]:
        with pytest.raises(ValueError, match="token"):
            twin.head.choose(which, who, [(0, [], None)] * len(which))
    for ids in ([0, 1, 2, 3, 5], [0, 1, 2, 3, -1]):
        with pytest.raises(ValueError, match="vocabulary"):
            Twin(sampler, None, np.array(ids)).head.coupled(rows, 1, twin.twin, [(0, [], None)] * 2, 1.0)
    with pytest.raises(ValueError, match="answer per token"):
        twin.head.coupled(rows, 1, twin.twin, [(0, [], None)], 1.0)
    with pytest.raises(ValueError, match="k must"):
        twin.head.top_k(rows, 0)
    with pytest.raises(ValueError, match="last forward"):
        twin.head.logits(2)


def test_stop_tokens_outside_the_vocabulary_are_never_withheld():
    row = np.zeros(7, dtype="f4")
    sampler = Sampler(
        SamplingConfig(), prompt_ids=[1], vocab_size=7, withheld=[-1, 0, 7, 10**8], min_new_tokens=3
    )
    assert sampler.withheld.tolist() == [0]
    assert Twin(sampler).choose(row, []) == sampler.choose(row.astype(np.float64), []) == 1


def test_a_twin_goes_with_its_sampler():
    made = NativeSamplers(engine())
    sampler = Sampler(SamplingConfig(temperature=1.0), prompt_ids=[], vocab_size=5)
    assert made.compiled(sampler) is made.compiled(sampler)
    assert len(made._compiled) == 1
    del sampler
    assert len(made._compiled) == 0
