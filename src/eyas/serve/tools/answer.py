"""Splits an answer as it comes into reasoning, text and tool calls."""

from dataclasses import dataclass, field

from eyas.serve.tools.calls import CallPart, CallReader
from eyas.serve.tools.formats import ThinkFormat, ToolFormat
from eyas.serve.tools.marked_calls import Schemas


@dataclass
class Parts:
    """What some text of an answer added.

    Attributes:
        calls: parts of calls, each with the index of its call.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[int, CallPart]] = field(default_factory=list)

    def __iadd__(self, other: "Parts") -> "Parts":
        self.content += other.content
        self.reasoning += other.reasoning
        for index, part in other.calls:
            self.add_call(index, part)
        return self

    def add_call(self, index: int, part: CallPart) -> None:
        """Take a part of a call; arguments join those of the same call."""
        if self.calls and self.calls[-1][0] == index:
            self.calls[-1][1].arguments += part.arguments
        else:
            self.calls.append((index, part))


class AnswerParser:
    """Follows one answer.

    Args:
        think: how the model marks reasoning; None leaves it in the text.
        tools: how the model writes calls; None leaves them in the text.
        schemas: the parameters of each function that the model may call.
        is_thinking: the prompt has begun the reasoning already.
    """

    def __init__(
        self,
        think: ThinkFormat | None = None,
        tools: ToolFormat | None = None,
        schemas: Schemas | None = None,
        *,
        is_thinking: bool = False,
    ) -> None:
        self.num_calls = 0
        self._think = think
        self._tools = tools
        self._schemas = schemas or {}
        self._end_of_thought = think.end if think is not None and is_thinking else ""
        self._held = ""  # may begin a marker
        self._reader: CallReader | None = None
        self._has_opened = False  # a call or a thought
        self._is_blank = True  # no text so far, or none since then
        self._begin = ""  # the marker of the call that is being read, until there is one

    @property
    def is_calling(self) -> bool:
        """Whether a call is being read."""
        return self._reader is not None

    def push(self, text: str) -> Parts:
        """Take more text."""
        if self._think is None and self._tools is None:
            return Parts(text)
        parts = Parts()
        for sign in text:
            if self._reader is not None:
                self._read_call(sign, parts)
            else:
                self._read_text(sign, parts)
        return parts

    def flush(self) -> Parts:
        """The answer has ended; returns what was held back."""
        parts = Parts()
        if self._reader is not None:
            self._take(self._reader.finish(), parts)
            if self._reader.rest:
                self._say(self._begin + self._reader.rest, parts)
            self._reader = None
        elif self._end_of_thought:
            parts.reasoning += self._held
        else:
            self._say(self._held, parts)
        self._held = ""
        return parts

    def _read_call(self, sign: str, parts: Parts) -> None:
        assert self._reader is not None
        self._take(self._reader.push(sign), parts)
        if self._reader.is_over:
            rest, self._reader = self._reader.rest, None
            self._is_blank = True
            if (self._begin and rest) or rest.startswith("{"):  # no call after all
                self._say(self._begin + rest, parts)
            else:
                for sign in rest:
                    self._read_text(sign, parts)

    def _take(self, news: list[CallPart], parts: Parts) -> None:
        for part in news:
            self.num_calls += part.name is not None
            self._begin = ""
            parts.add_call(self.num_calls - 1, part)

    def _read_text(self, sign: str, parts: Parts) -> None:
        """Take a sign outside of calls; what may begin a marker is held back."""
        self._held += sign
        while self._held:
            marker = next((marker for marker in self._markers() if self._held == marker), None)
            if marker is not None:
                self._held = ""
                self._open(marker)
                return
            if any(marker.startswith(self._held) for marker in self._markers()):
                return
            first, self._held = self._held[0], self._held[1:]
            if self._end_of_thought:
                parts.reasoning += "" if self._is_blank and first == "\n" else first
                self._is_blank = self._is_blank and first == "\n"
            else:
                self._say(first, parts)

    def _markers(self) -> tuple[str, ...]:
        if self._end_of_thought:
            return (self._end_of_thought,)
        begins = tuple(self._tools.begins) if self._tools is not None else ()
        bare = ("{",) if self._tools is not None and self._tools.is_bare and self._is_blank else ()
        return (*begins, *bare, *((self._think.begin,) if self._think is not None else ()))

    def _open(self, marker: str) -> None:
        if marker == self._end_of_thought:
            self._end_of_thought = ""
        elif self._think is not None and marker == self._think.begin:
            self._end_of_thought = self._think.end
        elif self._tools is not None:
            self._reader = self._tools.reader(marker, self._schemas)
            if marker == "{":
                self._reader.push(marker)
            else:
                self._begin = marker
        self._has_opened = self._is_blank = True

    def _say(self, text: str, parts: Parts) -> None:
        """Text of the answer, without the white space that stands before it or between calls."""
        if self._is_blank and self._has_opened:
            text = text.lstrip()
        self._is_blank = self._is_blank and not text.strip()
        parts.content += text
