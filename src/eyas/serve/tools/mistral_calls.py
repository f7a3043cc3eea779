"""Mistral's calls: a JSON list in older models, `name[ARGS]{...}` in newer ones."""

from eyas.serve.tools.calls import CallPart, CallReader
from eyas.serve.tools.json_calls import JsonCalls, JsonValue

ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"


class MistralCalls:
    """Reads what follows one `[TOOL_CALLS]`; the first sign tells which of the two forms it is."""

    def __init__(self) -> None:
        self.is_over = False
        self.rest = ""
        self._reader: CallReader | None = None

    def push(self, sign: str) -> list[CallPart]:
        """See `CallReader`."""
        if self._reader is None:
            if sign.isspace():
                return []
            self._reader = JsonCalls() if sign in "[{" else NamedCall()
        parts = self._reader.push(sign)
        self.is_over, self.rest = self._reader.is_over, self._reader.rest
        return parts

    def finish(self) -> list[CallPart]:
        """See `CallReader`."""
        self.is_over = True
        if self._reader is None:
            return []
        parts = self._reader.finish()
        self.rest = self._reader.rest
        return parts


class NamedCall:
    """A name and one JSON object."""

    def __init__(self) -> None:
        self.is_over = False
        self.rest = ""
        self._head = ""
        self._json: JsonValue | None = None

    def push(self, sign: str) -> list[CallPart]:
        """See `CallReader`."""
        parts = []
        if self._json is None:
            if sign != "{":
                self._head += sign
                return []
            self._json = JsonValue()
            name = self._head.removesuffix(ARGS).partition(CALL_ID)[0].strip()
            parts.append(CallPart(name))
        self._json.push(sign)
        self.is_over = self._json.depth == 0
        return [*parts, CallPart(arguments=sign)]

    def finish(self) -> list[CallPart]:
        """See `CallReader`."""
        self.is_over = True
        self.rest = self._head if self._json is None else ""
        return []
