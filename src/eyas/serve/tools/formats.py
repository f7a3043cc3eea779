"""How each family of models writes tool calls and reasoning: a row a format, known by the chat template."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eyas.serve.tools.calls import CallReader
from eyas.serve.tools.json_calls import JsonCalls
from eyas.serve.tools.marked_calls import MarkedCall, Schemas, parse_gemma, parse_qwen3_coder
from eyas.serve.tools.mistral_calls import MistralCalls

Reader = Callable[[Schemas], CallReader]  # a fresh reader, given the parameters of each function


def _known(schemas: Schemas, end: str = "") -> CallReader:
    """JSON is a call only if it names a function that there is."""
    return JsonCalls(end, known=schemas)


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family writes calls.

    Attributes:
        name: of the family.
        sign: what its chat templates hold, and no other's.
        begins: markers behind which calls stand, each with what reads them.
        is_bare: an answer that begins with `{` may be a call, too.
        inner: further control tokens that a reader needs to see.
    """

    name: str
    sign: str
    begins: Mapping[str, Reader]
    is_bare: bool = False
    inner: tuple[str, ...] = ()

    @property
    def control_names(self) -> tuple[str, ...]:
        """Control tokens that the text of an answer has to show."""
        return (*self.begins, *self.inner)

    def reader(self, marker: str, schemas: Schemas) -> CallReader:
        """What reads the calls behind a marker."""
        return self.begins.get(marker, _known)(schemas)


@dataclass(frozen=True, slots=True)
class ThinkFormat:
    """How a family marks its reasoning."""

    begin: str
    end: str


# The first row whose sign a template holds is its format.
TOOL_FORMATS = (
    ToolFormat(
        "gemma-4",
        "<|tool_call>",
        {"<|tool_call>": lambda _: MarkedCall("<tool_call|>", partial(parse_gemma, quote='<|"|>'), '<|"|>')},
        inner=("<tool_call|>", '<|"|>'),
    ),
    ToolFormat(
        "functiongemma",
        "<start_function_call>",
        {
            "<start_function_call>": lambda _: MarkedCall(
                "<end_function_call>", partial(parse_gemma, quote="<escape>"), "<escape>"
            )
        },
        inner=("<end_function_call>", "<escape>"),
    ),
    ToolFormat(
        "mistral",
        "[TOOL_CALLS]",
        {"[TOOL_CALLS]": lambda _: MistralCalls()},
        inner=("[ARGS]", "[CALL_ID]"),
    ),
    ToolFormat(
        "phi",
        "<|tool|>",
        {"<|tool_call|>": lambda _: JsonCalls("<|/tool_call|>"), "functools": lambda _: JsonCalls()},
        inner=("<|/tool_call|>",),
    ),
    ToolFormat("granite", "<|tool_call|>", {"<|tool_call|>": lambda _: JsonCalls()}),
    ToolFormat(
        "qwen3-coder",
        "<function=",
        {
            "<tool_call>": lambda schemas: MarkedCall(
                "</tool_call>", partial(parse_qwen3_coder, schemas=schemas)
            )
        },
        inner=("</tool_call>",),
    ),
    # Qwen2.5-Coder was told to write <tool_call>, but often writes a code block, or the JSON alone.
    ToolFormat(
        "hermes",
        "<tool_call>",
        {"<tool_call>": lambda _: JsonCalls("</tool_call>"), "```json": partial(_known, end="```")},
        is_bare=True,
        inner=("</tool_call>",),
    ),
    ToolFormat("llama", "Environment: ipython", {"<|python_tag|>": _known}, is_bare=True),
)
THINK_FORMATS = (
    ThinkFormat("<think>", "</think>"),
    ThinkFormat("[THINK]", "[/THINK]"),
    ThinkFormat("<|channel>thought", "<channel|>"),
)


def tool_format(template: str) -> ToolFormat | None:
    """The format of a chat template's calls; None where it is none of the table."""
    return next((row for row in TOOL_FORMATS if row.sign in template), None)


def think_format(template: str) -> ThinkFormat | None:
    """How a chat template marks reasoning; None where it marks none."""
    return next((row for row in THINK_FORMATS if row.end in template), None)


def schemas_of(tools: Sequence[Mapping[str, Any]]) -> Schemas:
    """The parameters of each function, by its name."""
    return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
