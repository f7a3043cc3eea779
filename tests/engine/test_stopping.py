"""Law L4 on text: where an answer ends, and that streamed pieces join to its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.engine.stopping import AnswerText, StoppingConfig, stop_tokens
from eyas.errors import ConfigError


class Letters:
    """Token ids are characters; id 0 is special and has no text; `wait` ids show with the next token."""

    def __init__(self, wait=()):
        self.wait, self.held = wait, ""

    def push(self, token_id):
        self.held += chr(token_id) if token_id else ""
        if token_id in self.wait:
            return ""
        text, self.held = self.held, ""
        return text

    def flush(self):
        text, self.held = self.held, ""
        return text


def run(text, config, stop_ids=(), decoder=None):
    answer = AnswerText(config, decoder or Letters(), stop_ids)
    pieces, used = [], 0
    for character in text:
        pieces.append(answer.push(ord(character)))
        used += 1
        if answer.finish_reason:
            break
    return "".join(pieces), used, answer.finish_reason, pieces


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        pytest.param("abcdef", {"max_new_tokens": 3}, ("abc", 3, "length"), id="length"),
        pytest.param("abXcd", {"stop": ("X",)}, ("ab", 3, "stop"), id="stop-string"),
        pytest.param("aab", {"stop": ("ab",)}, ("a", 3, "stop"), id="overlapping-begin"),
        pytest.param("abcab", {"stop": ("abd",)}, ("abc", 5, None), id="held-back-at-the-end"),
        pytest.param("xyz", {"stop": ("yz", "xyz")}, ("", 3, "stop"), id="earliest-start-wins"),
        pytest.param("ab\0cd", {"stop_token_ids": (0,)}, ("ab", 3, "stop"), id="stop-token"),
        pytest.param("abcd", {"stop_token_ids": (99,)}, ("abc", 3, "stop"), id="stop-token-with-text"),
        pytest.param("abX", {"stop": ("X",), "max_new_tokens": 3}, ("ab", 3, "stop"), id="stop-on-last"),
        pytest.param("abXY", {"stop": "XY"}, ("ab", 4, "stop"), id="one-string-is-not-its-letters"),
        pytest.param(
            "abc",
            {"stop": ("bc",), "stop_token_ids": (99,)},
            ("a", 3, "stop"),
            id="stop-token-in-stop-string",
        ),
    ],
)
def test_where_an_answer_ends(text, options, expected):
    assert run(text, StoppingConfig(**options))[:3] == expected


def test_the_models_own_stop_tokens_and_ignore_eos():
    assert run("abc", StoppingConfig(), stop_ids=[98])[:3] == ("ab", 2, "stop")
    assert run("abc", StoppingConfig(ignore_eos=True), stop_ids=[98])[:3] == ("abc", 3, None)
    assert stop_tokens(StoppingConfig(ignore_eos=True, stop_token_ids=(5,)), [7]) == {5}


def test_incomplete_characters_come_out_at_the_end():
    text, _, reason, pieces = run("ab", StoppingConfig(max_new_tokens=2), decoder=Letters(wait=[98]))
    assert (text, reason, pieces) == ("ab", "length", ["a", "b"])


@pytest.mark.parametrize(
    "last", [{"max_new_tokens": 2}, {"stop_token_ids": (98,)}], ids=["length", "stop-token"]
)
def test_what_comes_out_at_the_end_may_complete_a_stop_string(last):
    config = StoppingConfig(stop=("b",), **last)
    assert run("ab", config, decoder=Letters(wait=[98]))[:3] == ("a", 2, "stop")


words = st.text("ab", max_size=14)


@given(text=words, stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_completed_stop(text, stops):
    joined, used, reason, pieces = run(text, StoppingConfig(stop=tuple(stops)))
    ends = [n for n in range(1, len(text) + 1) if any(s in text[:n] for s in stops)]
    if ends:
        seen = text[: ends[0]]
        assert (used, reason) == (ends[0], "stop")
        assert joined == seen[: min(seen.find(s) for s in stops if s in seen)]
    else:
        assert reason is None
        held = text[len(joined) :]
        assert text.startswith(joined)
        assert not held or any(s.startswith(held) for s in stops)
    for index in range(len(pieces)):  # what was shown never has to be taken back
        assert text.startswith("".join(pieces[:index]))


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"min_new_tokens": -1},
        {"min_new_tokens": 9, "max_new_tokens": 3},
        {"stop": ("",)},
        {"stop_token_ids": (-1,)},
    ],
    ids=str,
)
def test_impossible_limits_are_refused(options):
    with pytest.raises(ConfigError):
        StoppingConfig(**options)
