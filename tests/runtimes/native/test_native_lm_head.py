"""Rows that join an LM head: the same bits as a head that is packed as a whole, in every format."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_nets import ISAS, engine
from tests.reference.blocks import random_blocks

from eyas import _native
from eyas.models.formats import formats_of
from eyas.models.mixes import DRAFT_FORMATS
from eyas.models.weights import BFLOAT16
from eyas.runtimes.native.matrices import as_native, make_matrix, numbers_format, unpacked

VOCAB, INPUTS = 150, 256
OWN = np.arange(0, VOCAB, 3)
FORMATS = (*formats_of("native"), *DRAFT_FORMATS.values())
SAMPLER = {
    "temperature": 0.8,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "filters": [],
    "bias": [],
    "seed": 5,
    "choice": 0,
    "prompt_ids": [1, 2],
    "num_prompt_tokens": 3,
    "vocab_size": VOCAB,
    "withheld": [],
    "min_new_tokens": 0,
}


def table(stored, seed=0):
    """Rows as a file holds them, and the format of their blocks."""
    generator = np.random.default_rng(seed)
    if stored == "Q4_K":
        return random_blocks(stored, VOCAB, INPUTS, generator), stored
    rows = generator.normal(size=(VOCAB, INPUTS)).astype(np.float32)
    return (rows.astype(BFLOAT16) if stored == "bfloat16" else rows), None


class Heads:
    """Heads over one table, whose own rows are those of `OWN`."""

    def __init__(self, weight_format, stored, isa=None, threads=1, transform=(1.0, 0.0)):
        self.rows, kind = table(stored)
        self.numbers = unpacked(self.rows, stored)
        self.format, self.engine, self.transform = weight_format, engine(threads, isa), transform
        made = numbers_format(weight_format, INPUTS)
        self.source = _native.RowSource(as_native(self.rows), kind, made)
        self.own = make_matrix(self.numbers[OWN], weight_format, "own rows")

    def first(self):
        return _native.LMHead(self.engine, [self.own], *self.transform, OWN, self.source)

    def whole(self, ids):
        """A head that never grew: `ids` behind the own ones."""
        more = np.array(sorted({*ids} - {*OWN.tolist()}), dtype=np.int64)
        added = [make_matrix(self.numbers[more], self.format, "rows")] if len(more) else []
        return _native.LMHead(self.engine, [self.own, *added], *self.transform, np.concatenate((OWN, more)))

    def results(self, head, tokens=3):
        x = np.random.default_rng(7).normal(size=(tokens, INPUTS)).astype(np.float32)
        sampler = _native.Sampler(self.engine, **SAMPLER)
        answers = [(2, [4, 5], None)] * tokens
        found = [*head.top_k(x, 20), *head.coupled(x, 9, sampler, answers, 0.9), head.token_ids]
        return [*found, np.stack([head.logits(token) for token in range(tokens)])]


def grown(head, *steps):
    for ids in steps:
        head = head.plus(np.array(ids, dtype=np.int64)) or head
    return head


def check_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "Q4_K"])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_head_that_grew_has_the_bits_of_a_whole_one(weight_format, stored, isa):
    heads = Heads(weight_format, stored, isa)
    steps = [100, 1, 100, 3], [2], [149, 4, 1], range(40, 110), [0, 9]
    whole = heads.whole(token for step in steps for token in step)
    check_same(heads.results(grown(heads.first(), *steps)), heads.results(whole))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=40), min_size=1, max_size=8),
    tokens=st.integers(1, 14),
    weight_format=st.sampled_from(["float32", "int8", "Q3_K"]),
    threads=st.sampled_from([1, 2]),
    transform=st.sampled_from([(1.0, 0.0), (0.7, 9.0)]),
)
def test_rows_may_come_in_any_order(steps, tokens, weight_format, threads, transform):
    heads = Heads(weight_format, "float32", None, threads, transform)
    ids = [token for step in steps for token in step]
    ours = heads.results(grown(heads.first(), *steps), tokens)
    check_same(ours, heads.results(heads.whole(ids), tokens))


@pytest.mark.parametrize("weight_format", ["int8", "bfloat16", "Q6_K"])
def test_heads_that_grow_from_one_do_not_disturb_each_other(weight_format):
    heads = Heads(weight_format, "float32")
    root = grown(heads.first(), [7, 5])
    left, right = grown(root, [10, 1]), grown(root, [1, 8, 140])
    further = grown(left, [2, 8])
    for head, ids in (
        (further, [7, 5, 10, 1, 2, 8]),
        (root, [7, 5]),
        (right, [7, 5, 1, 8, 140]),
        (left, [7, 5, 10, 1]),
    ):
        check_same(heads.results(head), heads.results(heads.whole(ids)))


def test_nothing_new_is_no_new_head():
    head = Heads("int8", "float32").first()
    assert head.plus(np.array([], dtype=np.int64)) is None
    assert head.plus(np.array([0, 3, 147])) is None
    more = head.plus(np.array([1, 4]))
    assert more.plus(np.array([4, 0, 1])) is None
    assert (head.size, more.size) == (len(OWN), len(OWN) + 2)


def test_the_logits_of_the_last_forward_go_with_the_memory():
    head = Heads("int8", "float32").first()
    head.forward(np.zeros((2, INPUTS), dtype=np.float32))
    assert head.plus(np.array([0])) is None
    assert head.logits(1).shape == (len(OWN),)
    head.plus(np.array([1]))
    with pytest.raises(ValueError, match="last forward"):
        head.logits(1)


def test_wrong_rows_are_refused():
    heads = Heads("int8", "float32")
    for wrong in (-1, VOCAB):
        with pytest.raises(ValueError, match="vocabulary"):
            heads.first().plus(np.array([1, wrong]))
    with pytest.raises(ValueError, match="rows to add"):
        heads.whole([1]).plus(np.array([1]))
    with pytest.raises(ValueError, match="ascending"):
        _native.LMHead(heads.engine, [heads.own], token_ids=OWN[::-1].copy(), more=heads.source)
    with pytest.raises(ValueError, match="id per column"):
        _native.LMHead(heads.engine, [heads.own], token_ids=OWN[1:])
    narrow = _native.RowSource(np.ones((4, 32), dtype=np.float32), None, "int8")
    with pytest.raises(ValueError, match="same inputs"):
        _native.LMHead(heads.engine, [heads.own], token_ids=OWN, more=narrow)
    for weight_format in ("float16", "Q4_K"):
        with pytest.raises(ValueError, match="blocks divide"):
            _native.RowSource(np.ones((4, 32), dtype=np.float32), None, weight_format)
    with pytest.raises(ValueError, match="format of files"):
        _native.RowSource(np.ones((4, 32), dtype=np.float32), "int8", "int8")


@pytest.mark.parametrize("weight_format", ["int8", "Q4_K"])
def test_a_row_that_the_format_cannot_hold_is_told_and_not_kept(weight_format):
    heads = Heads(weight_format, "float32")
    heads.rows[4, 9] = np.inf
    head = grown(heads.first(), [7])
    with pytest.raises(OverflowError, match="cannot hold"):
        head.plus(np.array([2, 4]))
    check_same(heads.results(grown(head, [8, 2])), heads.results(heads.whole([7, 8, 2])))
