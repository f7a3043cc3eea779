"""Responses to chats, in any format: text, reasoning and tool calls apart."""

from dataclasses import dataclass, field, replace

from eyas.engine.cycle import Piece
from eyas.serve.replies import Reply
from eyas.serve.tools.answer import AnswerParser, Parts
from eyas.serve.tools.calls import CallPart


@dataclass
class Said:
    """One answer to a chat: text, reasoning and calls apart; and what the last piece added to them."""

    parser: AnswerParser
    content: str = ""
    reasoning: str = ""
    calls: list[CallPart] = field(default_factory=list)
    latest: Parts = field(default_factory=Parts)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        parts = self.parser.push(piece.text)
        if piece.finish_reason is not None:
            parts += self.parser.flush()
        self._keep(parts)

    def add_one_call(self, piece: Piece) -> bool:
        """Take the next piece up to the end of the first call; returns whether that has come."""
        parts = self.parser.push(piece.text)
        is_over = self.parser.num_calls > 1 or (self.parser.num_calls == 1 and not self.parser.is_calling)
        if is_over:
            parts = Parts(parts.content, parts.reasoning, [call for call in parts.calls if call[0] == 0])
        elif piece.finish_reason is not None:
            parts += self.parser.flush()
        self._keep(parts)
        return is_over

    def _keep(self, parts: Parts) -> None:
        self.latest = parts
        self.content += parts.content
        self.reasoning += parts.reasoning
        for index, part in parts.calls:
            if index == len(self.calls):
                self.calls.append(CallPart(part.name, call_id=part.call_id))
            self.calls[index].arguments += part.arguments


class SaidReply(Reply):
    """A response to a chat, whatever its format."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.said = [Said(parser) for parser in self.parsers or map(AnswerParser, [None] * len(self.choices))]

    def add(self, index: int, piece: Piece) -> Piece:
        """Take the next piece of choice `index`; an answer that calls ends with the reason "tool_calls"."""
        said = self.said[index]
        if self.asked is not None and self.asked.is_one_call:
            if said.add_one_call(piece):
                piece = replace(piece, finish_reason="stop")
        else:
            said.add(piece)
        piece = super().add(index, piece)
        if piece.finish_reason == "stop" and said.calls:
            self.choices[index].finish_reason = "tool_calls"
        return piece
