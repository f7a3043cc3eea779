"""An EAGLE head that drafts all levels of a tree in one call: the bits are those of the single calls."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_nets import LIMIT, SHAPES, net

from eyas import _native
from eyas.drafters.tree_builder import ExpectedChain, TreeRules
from eyas.runtimes.native.matrices import make_matrix

NETS = [("eight-to-one", "float32"), ("plain", "bfloat16"), ("windows", "int8"), ("gemma2", "int8")]


@dataclass
class Head:
    """A random head on a network of `native_nets`, whose stack serves as the head's."""

    name: str
    kind: str
    pieces: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def __post_init__(self):
        self.net, shape = net(self.name, self.kind), SHAPES[self.name]
        self.hidden, self.vocab = shape.hidden, shape.vocab
        weight = self.rng.normal(size=(self.hidden, 2 * self.hidden)).astype(np.float32)
        bias = self.rng.normal(size=self.hidden).astype(np.float32)
        self.fc = [
            make_matrix(np.ascontiguousarray(part), self.kind, "fc", None if number else bias)
            for number, part in enumerate(np.split(weight, self.pieces, axis=1))
        ]
        self.linears = [_native.Linear(self.net.engine, matrix) for matrix in self.fc]
        self.together = _native.EagleHead(self.net.target, self.fc, self.net.stack)
        ids = np.arange(0, self.vocab, 2) if self.pieces == 2 else None  # a draft vocabulary
        rows = self.rng.normal(size=(self.vocab if ids is None else len(ids), self.hidden)).astype(np.float32)
        self.lm_head = _native.LMHead(
            self.net.engine, [make_matrix(rows, self.kind, "a head")], token_ids=ids
        )

    def sampler(self, **changes):
        config = {
            "temperature": 0.8,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "filters": [],
            "bias": [],
            "seed": 5,
            "choice": 0,
            "prompt_ids": [1, 2],
            "num_prompt_tokens": 3,
            "vocab_size": self.vocab,
            "withheld": [],
            "min_new_tokens": 0,
        }
        return _native.Sampler(self.net.engine, **(config | changes))

    def predict(self, cache, token_ids, features, parents):
        inputs = [self.net.target.embed(token_ids), features]
        if self.pieces == 1:
            inputs = self.linears[0].forward(inputs)
        else:
            first, second = (linear.forward([x]) for linear, x in zip(self.linears, inputs, strict=True))
            inputs = first + second
        return self.net.stack.forward(cache, inputs, parents)

    def grow_by_levels(self, builder, cache, token_ids, features, k, sampler=None, length=0, scales=()):
        below = self.predict(cache, token_ids, features, None)[-1:]
        cache.commit(range(len(token_ids)))
        first, depth = None, 1
        while True:
            if sampler is None:
                children, log_probs = self.lm_head.top_k(below, k)
            else:
                answers = [(length + depth - 1, [], None)] * len(below)
                scale = scales[min(depth, len(scales)) - 1]
                children, log_probs = self.lm_head.coupled(below, k, sampler, answers, scale)
            found = builder.step(children, log_probs)
            if found is None:
                return depth
            tokens, rows = found
            above = np.full(len(rows), -1) if first is None else first + rows
            first = cache.num_pending
            below = self.predict(cache, tokens, below[rows], above)
            depth += 1


@pytest.fixture(scope="module", params=[(*made, pieces) for made in NETS for pieces in (1, 2)], ids=str)
def head(request):
    return Head(*request.param)


@settings(max_examples=25)
@given(
    waiting=st.integers(1, 5),
    top_k=st.integers(1, 5),
    width=st.sampled_from([1, 3, 7, 70]),
    depth=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    sampling=st.sampled_from([None, {}, {"filters": [("top_k", 9.0)]}]),
    chain=st.sampled_from([ExpectedChain(), ExpectedChain([4, 7, 9], [0.9, 0.8, 0.3])]),
    terminal=st.sampled_from([(), range(0, 60, 3)]),
)
def test_one_call_is_many(head, waiting, top_k, width, depth, seed, sampling, chain, terminal):
    """Trees, log values, passes, and what the caches hold."""
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, head.vocab, waiting)
    features = rng.normal(size=(waiting, head.hidden)).astype(np.float32)
    sampled = () if sampling is None else (4, [0.7, 1.3])
    found = []
    for at_once in (True, False):
        cache = head.net.stack.new_cache(LIMIT)
        head.predict(cache, token_ids, features, None)
        cache.commit(range(waiting))  # not the first cycle
        builder = TreeRules(top_k, terminal).builder(depth, chain)
        coupling = () if sampling is None else (head.sampler(**sampling), *sampled)
        if at_once:
            given = (builder, cache, head.lm_head, token_ids, features, width)
            passes = head.together.grow(*given, *coupling)
        else:
            passes = head.grow_by_levels(builder, cache, token_ids, features, width, *coupling)
        tree, pending = builder.finish(1, 20), cache.num_pending
        last = np.array([pending - 1])  # sees the rows above it: -1 is the prefix
        more = head.predict(cache, token_ids[:1], features[:1], last)
        cache.commit(())
        more = np.concatenate((more, head.predict(cache, token_ids[:1], features[:1], None)))
        found.append((*tree, more, np.array([passes, pending, cache.length])))
    for one, many in zip(*found, strict=True):
        np.testing.assert_array_equal(one, many)
    assert found[0][-1][0] >= 1


def test_broken_logits_are_told(head):
    builder, cache = TreeRules(2).builder(3), head.net.stack.new_cache(LIMIT)
    features = np.full((1, head.hidden), np.nan, dtype=np.float32)
    given = (builder, cache, head.lm_head, np.array([3]), features, 2)
    assert head.together.grow(*given) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": np.array([10**6])}, "vocabulary"),
        ({"token_ids": np.array([1, 2])}, "a feature before each token"),
        ({"k": 0}, "at least one child"),
        ({"sampler": {"presence_penalty": 1.0}, "scales": [1.0]}, "does not edit"),
        ({"sampler": {"vocab_size": 9}, "scales": [1.0]}, "ids of the sampler's vocabulary"),
        ({"sampler": {}}, "scales"),
        ({"sampler": {}, "scales": [0.0]}, "scales"),
    ],
    ids=str,
)
def test_wrong_input_is_refused(head, change, message):
    cache = head.net.stack.new_cache(LIMIT)
    given = {
        "builder": TreeRules(2).builder(3),
        "cache": cache,
        "lm_head": head.lm_head,
        "token_ids": np.array([3]),
        "features": np.zeros((1, head.hidden), dtype=np.float32),
        "k": 2,
    } | change
    if "sampler" in given:
        given["sampler"] = head.sampler(**given["sampler"])
    with pytest.raises(ValueError, match=message):
        head.together.grow(**given)
    assert cache.num_pending == 0


def test_embeddings_go_to_stacks_that_read_them_and_no_others(head):
    cache, features = head.net.stack.new_cache(LIMIT), np.zeros((2, head.hidden), dtype=np.float32)
    with pytest.raises(ValueError, match="embeddings for a stack that reads them"):
        head.net.stack.forward(cache, features, None, features)
    with pytest.raises(ValueError, match="matrices, or a stack that reads embeddings"):
        _native.EagleHead(head.net.target, [], head.net.stack)


def test_a_context_that_ends_is_refused_before_the_pass(head):
    cache = head.net.stack.new_cache(3)
    features = np.zeros((2, head.hidden), dtype=np.float32)
    given = (cache, head.lm_head, np.array([3, 4]), features, 2)
    with pytest.raises(ValueError, match="last position"):
        head.together.grow(TreeRules(2).builder(5), *given)
    assert (cache.length, cache.num_pending) == (2, 2)  # the pairs, and the one level that fits
