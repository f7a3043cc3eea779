"""What a chat template says about tools and reasoning: what it is given, and how answers are read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eyas.api.prompts import Chat
from eyas.models import Tokenizer
from eyas.serve.errors import ApiError
from eyas.serve.tools.answer import AnswerParser
from eyas.serve.tools.forced import FORCED
from eyas.serve.tools.formats import schemas_of, think_format, tool_format

TAIL = 8  # tokens at the end of a prompt that may hold the begin of a thought
TOOLS_IN_MESSAGE = "message['tools']"  # Phi-4-mini's template reads them there


class ChatFormat:
    """The format of one model.

    Args:
        tokenizer: of the model, with its template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template
        self.tools = tool_format(self._template)
        self.think = think_format(self._template)

    @property
    def takes_tools(self) -> bool:
        """Whether the model can be given tools, and its calls can be read."""
        return "tools" in self._template and self.tools is not None

    def prepare(self, chat: Chat) -> Chat:
        """The prompt as the template takes it.

        Raises:
            ApiError: it has tools, and the template has no place for them or a form that is not known here.
        """
        shown = () if self.think is None else (self.think.begin, self.think.end)
        if not chat.tools:
            return replace(chat, shown=shown)
        if "tools" not in self._template:
            raise ApiError(
                "this model's chat template has no place for tools; leave them out, or serve a model that "
                "has learned to call functions.",
                param="tools",
                code="unsupported",
            )
        if self.tools is None:
            raise ApiError(
                "this model writes tool calls in a form that this server does not know; leave tools out.",
                param="tools",
                code="unsupported",
            )
        messages = chat.messages
        if TOOLS_IN_MESSAGE in self._template:
            messages = _with_tools(messages, chat.tools)
        options = (
            {"xml_tools": list(chat.tools), **chat.options} if "xml_tools" in self._template else chat.options
        )
        return replace(chat, messages=messages, options=options, shown=(*shown, *self.tools.control_names))

    def parser(
        self, tools: Sequence[Mapping[str, Any]], prompt_ids: Sequence[int], *, is_forced: bool = False
    ) -> AnswerParser:
        """A parser of one answer; a forced one is a call from its first token on."""
        if is_forced:
            return AnswerParser(None, FORCED, schemas_of(tools))
        is_thinking = False
        if self.think is not None:
            end = self._tokenizer.decode(prompt_ids[-TAIL:], skip_special=False).rstrip()
            is_thinking = end.endswith(self.think.begin)
        return AnswerParser(
            self.think, self.tools if tools else None, schemas_of(tools), is_thinking=is_thinking
        )


def _with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Messages whose first one is a system message that holds the tools, as JSON."""
    described = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    first, rest = (messages[0], messages[1:]) if messages[0]["role"] == "system" else (None, messages)
    system = first or {"role": "system", "content": "You are a helpful assistant with some tools."}
    return [{**system, "tools": described}, *rest]
