"""What an answer copies is followed, behind changes too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.copies import FORGOTTEN, CopyFinder

texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@given(text=texts, first=st.integers(1, 60), cuts=st.lists(st.integers(1, 60), max_size=8))
def test_it_does_not_matter_how_many_tokens_come_at_a_time(text, first, cuts):
    first = min(first, len(text))
    whole, pieces = CopyFinder(), CopyFinder()
    whole(text[:first], 20)
    for cut in sorted({first, *(cut for cut in cuts if first < cut < len(text))}):
        pieces(text[:cut], 20)
    assert pieces(text, 20) == whole(text, 20)


ORIGINAL = [*range(10, 20), 7, 8, *range(20, 40), 7, 8, 70, 71, 72]


def edited(*answer):
    """What is found behind an answer that rewrites the original, token by token."""
    find, text = CopyFinder(), [*ORIGINAL, 1]
    for token in answer:
        text.append(token)
        found = find(text, 4)
    return [*found.token_ids]


@pytest.mark.parametrize(
    ("answer", "next_tokens"),
    [
        pytest.param([99], [17, 18, 19, 7], id="replaced: guessed"),
        pytest.param([99, 98], [], id="two new tokens: nothing is known"),
        pytest.param([99, 98, 16], [17, 18, 19, 7], id="inserted"),
        pytest.param([99, 17], [18, 19, 7, 8], id="replaced"),
        pytest.param([19], [7, 8, 20, 21], id="deleted"),
        pytest.param([99, 19, 7, 8], [20, 21, 22, 23], id="not the last occurrence"),
        pytest.param([99, 7], [8, 20, 21, 22], id="one token, which is nearer here"),
    ],
)
def test_a_copy_goes_on_behind_a_change(answer, next_tokens):
    assert edited(*range(10, 16), *answer) == next_tokens


def test_without_a_copy_the_last_occurrence_counts():
    assert edited(13, 14, 99, 7, 8) == [70, 71, 72, 1]


def test_a_long_match_elsewhere_wins_over_the_neighbourhood():
    elsewhere = [50, 51, 52, 53, 54, 55, 56, 17, 60, 61, 62, 63]
    find, text = CopyFinder(), [*elsewhere, *ORIGINAL, 1]
    for token in [*range(10, 16), *elsewhere[:8]]:
        text.append(token)
        found = find(text, 3)
    assert [*found.token_ids] == [60, 61, 62]


def test_a_place_is_forgotten():
    new = range(100, 100 + FORGOTTEN)
    assert edited(*range(10, 16), *new[:-1], 17) == [18, 19, 7, 8]
    assert edited(*range(10, 16), *new, 17) == []


def test_an_answer_begins_as_a_copy_of_its_prediction():
    prediction, prompt = [40, 41, 42, 43, 44, 45, 46, 47], [1, 2, 3]
    find = CopyFinder([], prediction, len(prompt))
    assert [*find([*prompt, 40], 3).token_ids] == [41, 42, 43]
    assert [*find([*prompt, 40, 41, 99], 3).token_ids] == [43, 44, 45]  # one token replaced
    assert [*find([*prompt, 40, 41, 99, 44], 2).token_ids] == [45, 46]
    other = CopyFinder([], prediction, len(prompt))
    assert [*other([*prompt, 50], 3).token_ids] == [41, 42, 43]
    assert [*other([*prompt, 50, 51], 3).token_ids] == []
