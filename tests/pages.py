"""The pages of the documentation, and what stands in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
HISTORIES = {"log.md", "CHANGELOG.md"}  # they tell of older versions
GUIDES = [page for page in PAGES if page.name not in HISTORIES]


def blocks(page, language):
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def commands(page):
    """Every whole `eyas` command of the shell blocks and the indented blocks of a page, as its words.

    A pipe is cut, a line that ends with a backslash is joined to the next, and a shell variable counts as 1.
    """
    indented = re.findall(r"(?:^    \S.*\n)+", page.read_text(), re.M)
    text = "\n".join([*blocks(page, "sh"), *(re.sub("^    ", "", block, flags=re.M) for block in indented)])
    found = []
    for line in re.sub(r"\$\w+", "1", text.replace("\\\n", " ")).splitlines():
        for command in re.split(r"\s(?:&&|\||;|&)(?:\s|$)|do ", line):
            if command.strip().startswith("eyas "):
                found.append(shlex.split(command, comments=True)[1:])
    return found


def without_tables_of_bench(page):
    """The text of a page but for the part that `eyas bench report` writes."""
    return re.sub(r"<!-- eyas bench: -->.*<!-- /eyas bench -->", "", page.read_text(), flags=re.S)
