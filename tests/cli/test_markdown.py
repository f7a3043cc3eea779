"""Answers on a terminal: complete blocks are printed once, and no word of an answer is lost."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from eyas.cli.markdown import MarkdownWriter, rendered, whole_blocks

ANSWER = """# Tides

The **moon** pulls, and this sentence is so long that a narrow terminal has to wrap it at a word.
Second line.

* one
* two <b>bold</b>

```python
x = 1

y = 2
```

The end."""


def shown(pieces, width=40):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with MarkdownWriter(console) as terminal:
        for piece in pieces:
            terminal.write(piece)
    return console.file.getvalue()


def test_markdown_is_rendered_and_wrapped_at_words():
    lines = [line.rstrip() for line in shown([ANSWER]).splitlines()]
    assert all(len(line) <= 40 for line in lines)
    assert "**" not in "".join(lines)
    assert "Second line." in lines, "line breaks stay"
    assert any("two <b>bold</b>" in line for line in lines), "HTML is text"
    assert any("y = 2" in line for line in lines)
    assert lines.count("The end.") == 1


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), max_size=30))
def test_pieces_do_not_matter(sizes):
    pieces, rest = [], ANSWER
    for size in sizes:
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    whole = shown([ANSWER]).split()
    assert shown([*pieces, rest]).split() == whole
    assert shown(ANSWER).split() == whole


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("one", ""),
        ("one\n\n", ""),
        ("one\n\ntwo", "one\n\n"),
        ("* a\n\n  more of a", ""),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
    ],
)
def test_where_the_growing_block_begins(text, finished):
    assert text[: whole_blocks(text)] == finished


def test_an_answer_does_not_command_the_terminal():
    assert "\x1b" not in shown(["a \x1b[2J b"])


def test_nothing_is_shown_of_nothing():
    assert shown([]).strip() == ""
    assert rendered("").parsed == []
