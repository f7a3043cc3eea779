"""An answer on a terminal: Markdown, wrapped at words, block by block while it comes."""

from types import TracebackType
from typing import Self

from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

FENCES = ("```", "~~~")


class MarkdownWriter:
    """Renders text that comes in pieces; as a context, it leaves the terminal as it should be.

    A block that is complete is printed for good, so that an answer may be longer than the terminal is high.
    The one that still grows is drawn again with each piece.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(), transient=True, auto_refresh=False)
        self._text = ""  # that is not printed for good

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update("")
        self._live.stop()
        if self._text.strip():
            self._live.console.print(rendered(self._text))

    def write(self, text: str) -> None:
        """Show a further piece."""
        self._text += text.replace("\x1b", "")  # an answer does not command the terminal
        end = whole_blocks(self._text)
        if self._text[:end].strip():
            self._live.console.print(rendered(self._text[:end]), end="\n\n")
        self._text = self._text[end:]
        self._live.update(rendered(self._text), refresh=True)


def whole_blocks(text: str) -> int:
    """Where the last block begins, which may still grow: after a blank line that is not in fenced code.

    A line that is indented belongs to the block before it, as in a list.
    """
    fence, at, end, is_after_blank = "", 0, 0, False
    for line in text.splitlines(keepends=True):
        words = line.strip()
        if is_after_blank and words and not line[0].isspace():
            end = at
        if fence:
            fence = "" if words.startswith(fence) else fence
        elif words.startswith(FENCES):
            fence = words[:3]
        is_after_blank = not words and not fence
        at += len(line)
    return end


def rendered(text: str) -> Markdown:
    """Markdown in which line breaks stay and HTML is text: a chat's answer loses nothing of either."""
    made = Markdown("", code_theme="ansi_dark")
    made.parsed = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).parse(text)
    for token in made.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return made
