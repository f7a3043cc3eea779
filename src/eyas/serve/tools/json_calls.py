"""Calls written as JSON: `{"name": "f", "arguments": {...}}`, one or several, also within a list."""

import json
from collections.abc import Collection

from eyas.serve.tools.calls import CallPart

ARGUMENTS = ("arguments", "parameters")
BETWEEN = " \t\r\n,;[]}"  # what may stand between two calls, the brackets of a list, a doubled brace


class JsonValue:
    """Follows JSON sign by sign as deep as its brackets and strings."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._is_escaped = False

    def push(self, sign: str) -> None:
        """Take the next sign."""
        if self.in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif sign == "\\":
                self._is_escaped = True
            elif sign == '"':
                self.in_string = False
        elif sign == '"':
            self.in_string = True
        elif sign in "{[":
            self.depth += 1
        elif sign in "}]":
            self.depth -= 1


class JsonCalls:
    """Reads objects until `end`, or until something else than an object follows.

    The arguments leave as they come, once the name is known.

    Args:
        end: the marker behind the calls, if the family writes one.
        known: the only names that make a call; other objects are text. None takes any name.
    """

    def __init__(self, end: str = "", known: Collection[str] | None = None) -> None:
        self.is_over = False
        self.rest = ""
        self._end = end
        self._known = known
        self._between = ""
        self._call: _Call | None = None

    def push(self, sign: str) -> list[CallPart]:
        """See `CallReader`."""
        if self._call is None:
            self._look(sign)
            return []
        parts = self._call.push(sign)
        if self._call.is_whole:
            if not self._call.is_told:
                self.is_over, self.rest = True, self._between + self._call.text
            self._call, self._between = None, ""
        return parts

    def _look(self, sign: str) -> None:
        """Between two calls."""
        self._between += sign
        text = self._between.strip(BETWEEN)
        if text == "{":
            self._call, self._between = _Call(self._known), self._between[:-1]
            self._call.push(sign)
        elif self._end and text == self._end:
            self.is_over = True
        elif text and not self._end.startswith(text):
            self.is_over, self.rest = True, self._between

    def finish(self) -> list[CallPart]:
        """See `CallReader`. A call that was cut off stays as far as it was told."""
        if self._call is not None and not self._call.is_told:
            self.rest = self._between + self._call.text
        self.is_over = True
        return []


class _Call:
    """One object."""

    def __init__(self, known: Collection[str] | None) -> None:
        self.text = ""
        self.is_told = False  # its name has been passed on
        self.is_whole = False
        self._known = known
        self._json = JsonValue()
        self._key: object = None
        self._value = ""  # the key or value that is being read
        self._name: str | None = None
        self._arguments: str | None = None  # so far
        self._sent = 0  # signs of them that have been passed on

    def push(self, sign: str) -> list[CallPart]:
        """Take the next sign."""
        self.text += sign
        if self.text == "{{":  # Qwen2.5-Coder's template spells calls so, and the model copies it
            return []
        was_string, was_depth = self._json.in_string, self._json.depth
        self._json.push(sign)
        if was_depth > 1 or self._json.depth > 1 or was_string or self._json.in_string:
            self._value += sign
        elif sign == ":" and self._key is None:
            self._key, self._value = _loads(self._value), ""
        elif sign in ",}":
            self._end_value()
        elif was_depth and not sign.isspace():
            self._value += sign
        if self._key in ARGUMENTS and self._value.startswith(("{", "[")):
            self._arguments = self._value
        self.is_whole = self._json.depth == 0
        return self._news()

    def _end_value(self) -> None:
        value = _loads(self._value)
        if self._key == "name":
            self._name = value if isinstance(value, str) else None
        elif self._key in ARGUMENTS and self._arguments is None:
            self._arguments = value if isinstance(value, str) else "{}"
        self._key, self._value = None, ""

    def _news(self) -> list[CallPart]:
        parts = []
        if not self.is_told and self._name and (self._known is None or self._name in self._known):
            self.is_told = True
            parts.append(CallPart(self._name))
        if self.is_told:
            if self.is_whole and self._arguments is None:
                self._arguments = "{}"
            more = (self._arguments or "")[self._sent :]
            if more:
                self._sent += len(more)
                parts.append(CallPart(arguments=more))
        return parts


def _loads(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return value
