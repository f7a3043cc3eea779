"""Prompt lookup against its rules as their sources state them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from eyas.api.options import GenerationOptions
from eyas.drafters.pld import PldOptions, PromptLookup
from eyas.engine.interfaces import DraftContext, DraftFiles
from eyas.errors import ConfigError
from fake import make_request

options = st.builds(
    PldOptions,
    pld_rule=st.sampled_from(["transformers", "reference"]),
    pld_max_ngram=st.sampled_from([None, 1, 2, 4]),
    pld_tokens=st.sampled_from([1, 2, 5, 10]),
)


def context(options, stops=()):
    request = make_request([0], vocab_size=8)
    return DraftContext(
        prompt_ids=[0],
        sampler=request.sampler,
        tree=request.tree,
        options=options,
        stop_token_ids=frozenset(stops),
    )


def session_for(options, stops=()):
    drafter = PromptLookup.load(None, DraftFiles(head=lambda: pytest.fail("it needs no head")))
    session = drafter.open()
    session.begin(context(options, stops))
    return session


def drafted(tree):
    assert tree.parents.tolist() == list(range(-1, tree.num_draft_tokens)), "a chain"
    return tree.token_ids[1:].tolist()


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    first=st.integers(1, 40),
    options=options,
    max_depth=st.sampled_from([0, 1, 3, 99]),
)
def test_the_growing_index_finds_what_a_scan_finds(tokens, first, options, max_depth):
    session = session_for(options)
    for end in range(min(first, len(tokens)), len(tokens) + 1):
        expected = reference.prompt_lookup(
            tokens[:end], options.pld_rule, options.max_ngram, options.pld_tokens
        )
        assert drafted(session.propose(tokens[:end], max_depth)) == expected[:max_depth]


def test_the_reference_takes_ten_or_nothing_and_transformers_what_there_is():
    long, short = [*range(10, 20), 10], [*range(13, 20), 13]
    strict = session_for(PldOptions(pld_rule="reference"))
    assert drafted(strict.propose(long, 99)) == [*range(11, 20), 10]
    assert drafted(strict.propose([*long, 11], 99)) == [*range(12, 20), 10, 11]
    assert drafted(session_for(PldOptions(pld_rule="reference")).propose(short, 99)) == []
    assert drafted(session_for(PldOptions()).propose(short, 99)) == [*range(14, 20), 13]


def test_the_earliest_occurrence_wins_and_the_longer_ngram_first():
    text = [1, 2, 3, 9, 2, 4, 1, 2]
    assert drafted(session_for(PldOptions(pld_tokens=1)).propose(text, 99)) == [3]
    assert drafted(session_for(PldOptions(pld_tokens=1)).propose([5, 2, 7, *text], 99)) == [3]
    assert drafted(session_for(PldOptions(pld_tokens=1, pld_max_ngram=1)).propose([5, 2, 7, *text], 99)) == [
        7
    ]


def test_nothing_is_proposed_at_or_below_a_stop_token():
    text = [1, 4, 5, 6, 7, 1]
    assert drafted(session_for(PldOptions(), stops=[6]).propose(text, 99)) == [4, 5]
    assert drafted(session_for(PldOptions(), stops=[4]).propose(text, 99)) == []


def test_nothing_found_is_plain_decoding():
    """No dummy token: the pass is that of the root alone."""
    assert drafted(session_for(PldOptions()).propose([1, 2, 3], 99)) == []


def test_an_answer_starts_with_an_empty_index():
    session = session_for(PldOptions())
    session.propose([1, 2, 3, 1], 99)
    session.begin(context(PldOptions()))
    assert drafted(session.propose([3, 1], 99)) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pld_rule": "latest"}, "pld_rule is 'latest', but it must be 'transformers' or 'reference'"),
        ({"pld_tokens": 0}, "pld_tokens is 0"),
        ({"pld_max_ngram": 0}, "pld_max_ngram is 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        GenerationOptions.from_names(given)


def test_each_rule_has_its_own_longest_ngram():
    assert PldOptions().max_ngram == 2
    assert PldOptions(pld_rule="reference").max_ngram == 3
    assert PldOptions(pld_rule="reference", pld_max_ngram=1).max_ngram == 1
