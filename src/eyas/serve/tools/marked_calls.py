"""Calls between two markers in a notation that is no JSON; each is read when it is whole."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from eyas.serve.tools.calls import CallPart

Schemas = Mapping[str, Mapping[str, Any]]  # of each function's parameters
Parse = Callable[[str], tuple[str, dict[str, Any]] | None]


class MarkedCall:
    """Collects the text up to a marker and parses it.

    Args:
        end: the marker. Within a quoted text it is text.
        parse: name and arguments of a call; None where it is none.
        quote: stands before and after each text, if the notation has one.
    """

    def __init__(self, end: str, parse: Parse, quote: str = "") -> None:
        self.is_over = False
        self.rest = ""
        self._end = end
        self._parse = parse
        self._quote = quote
        self._text = ""

    def push(self, sign: str) -> list[CallPart]:
        """See `CallReader`."""
        self._text += sign
        if not self._text.endswith(self._end):
            return []
        if self._quote and self._text.count(self._quote) % 2:
            return []
        self._text = self._text.removesuffix(self._end)
        return self.finish()

    def finish(self) -> list[CallPart]:
        """See `CallReader`."""
        self.is_over = True
        call = self._parse(self._text)
        if call is None:
            self.rest = self._text
            return []
        name, arguments = call
        return [CallPart(name, json.dumps(arguments, ensure_ascii=False))]


def parse_gemma(text: str, quote: str) -> tuple[str, dict[str, Any]] | None:
    """Gemma's notation: `call:f{city:<escape>Oslo<escape>,days:3}`, texts between two quotes."""
    head = re.match(r"\s*call:([\w.-]+)\s*(?=\{)", text)
    if head is None:
        return None
    try:
        arguments, end = _gemma_value(text, head.end(), quote)
    except (ValueError, IndexError):
        return None
    return (head[1], arguments) if isinstance(arguments, dict) and not text[end:].strip() else None


def _gemma_value(text: str, at: int, quote: str) -> tuple[Any, int]:
    """A value, and where it ends."""
    if text.startswith(quote, at):
        start = at + len(quote)
        end = text.index(quote, start)
        return text[start:end], end + len(quote)
    if text[at] == "{":
        pairs = {}
        at += 1
        while text[at] != "}":
            colon = text.index(":", at)
            key = text[at:colon].strip(", \n").replace(quote, "")
            pairs[key], at = _gemma_value(text, colon + 1, quote)
        return pairs, at + 1
    if text[at] == "[":
        items = []
        at += 1
        while text[at] != "]":
            if text[at] in ", \n":
                at += 1
                continue
            item, at = _gemma_value(text, at, quote)
            items.append(item)
        return items, at + 1
    bare = re.compile(r"[^,{}\[\]]*").match(text, at)
    assert bare is not None, "it may be empty"
    return _plain(bare[0].strip()), bare.end()


def parse_qwen3_coder(text: str, schemas: Schemas) -> tuple[str, dict[str, Any]] | None:
    """Qwen3-Coder's notation: `<function=f>`, in it `<parameter=city>` and a text; the schema tells types."""
    function = re.search(r"<function=([^>]+)>(.*?)(?:</function>|$)", text, re.DOTALL)
    if function is None:
        return None
    properties = schemas.get(function[1], {}).get("properties", {})
    found = re.findall(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", function[2], re.DOTALL)
    return function[1], {
        name: value if properties.get(name, {}).get("type", "string") == "string" else _plain(value)
        for name, value in found
    }


def _plain(text: str) -> Any:
    """A number, true, false, null or other JSON; otherwise the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "None" else text
