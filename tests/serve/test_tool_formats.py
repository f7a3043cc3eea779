"""Each family's calls and reasoning, told apart in whatever pieces the text comes."""

import json

import pytest

from eyas.serve.tools.answer import AnswerParser, Parts
from eyas.serve.tools.formats import THINK_FORMATS, TOOL_FORMATS, think_format, tool_format

FORMATS = {row.name: row for row in TOOL_FORMATS}
THINK = THINK_FORMATS[0]
SCHEMAS = {
    "weather": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "now": {},
}
OSLO = ("weather", {"city": "Oslo", "days": 3})
TRICKY = ("weather", {"city": 'a "quoted" } ] </tool_call> \\ ☂\n', "days": -1.5})
NOW = ("now", {})


def call_json(call, key="arguments"):
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


def parse(text, size, *, think=None, tools=None, **settings):
    """The answer's parts when it comes in pieces of `size` signs; and the names of calls as they came."""
    parser = AnswerParser(think, tools, SCHEMAS, **settings)
    parts = Parts()
    for at in range(0, len(text), size):
        parts += parser.push(text[at : at + size])
    parts += parser.flush()
    calls = [(part.name, part.arguments) for _, part in parts.calls]
    assert [index for index, _ in parts.calls] == list(range(len(calls)))
    return parts.content, parts.reasoning, calls


WRITTEN = [
    ("hermes", f"<tool_call>\n{call_json(OSLO)}\n</tool_call>", "", [OSLO]),
    ("hermes", f"Let me see.\n<tool_call>{call_json(OSLO)}</tool_call>", "Let me see.\n", [OSLO]),
    (
        "hermes",
        f"<tool_call>\n{call_json(TRICKY)}\n</tool_call>\n<tool_call>\n{call_json(NOW)}\n</tool_call>\n",
        "",
        [TRICKY, NOW],
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"city": "Oslo", "days": 3}, "name": "weather"}</tool_call>',
        "",
        [OSLO],
    ),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [NOW]),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{}"}</tool_call>', "", [NOW]),
    ("hermes", f"```json\n{call_json(OSLO)}\n```", "", [OSLO]),
    ("hermes", f"So:\n```json\n{call_json(OSLO)}\n{call_json(NOW)}\n```\n", "So:\n", [OSLO, NOW]),
    ("hermes", call_json(OSLO), "", [OSLO]),
    ("hermes", f"<tool_call>\n{{{call_json(OSLO)}}}\n</tool_call>", "", [OSLO]),
    ("hermes", f"{{{call_json(NOW)}}}\n{{{call_json(OSLO)}}}", "", [NOW, OSLO]),
    ("llama", call_json(OSLO, "parameters"), "", [OSLO]),
    ("llama", f"<|python_tag|>{call_json(OSLO, 'parameters')}; {call_json(NOW)}", "", [OSLO, NOW]),
    ("llama", '{"type": "function", "name": "now", "parameters": {}}', "", [NOW]),
    ("mistral", f"[TOOL_CALLS][{call_json(OSLO)}, {call_json(NOW)}]", "", [OSLO, NOW]),
    (
        "mistral",
        f"[TOOL_CALLS]weather[ARGS]{json.dumps(TRICKY[1])}[TOOL_CALLS]now[ARGS]{{}}",
        "",
        [TRICKY, NOW],
    ),
    ("mistral", "I ask.[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}", "I ask.", [NOW]),
    ("phi", f"<|tool_call|>[{call_json(OSLO)}]<|/tool_call|>", "", [OSLO]),
    ("phi", f"functools[{call_json(OSLO)}]", "", [OSLO]),
    ("granite", f"<|tool_call|>[{call_json(OSLO)}]", "", [OSLO]),
    (
        "functiongemma",
        "<start_function_call>call:weather{city:<escape>Oslo<escape>,days:3}<end_function_call>",
        "",
        [OSLO],
    ),
    (
        "gemma-4",
        '<|tool_call>call:weather{city:<|"|>O{s},lo<tool_call|><|"|>,days:[1,<|"|>b<|"|>,{x:true}]}<tool_call|>',
        "",
        [("weather", {"city": "O{s},lo<tool_call|>", "days": [1, "b", {"x": True}]})],
    ),
    (
        "qwen3-coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\n42\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        [("weather", {"city": "42", "days": 3})],
    ),
]


@pytest.mark.parametrize(("name", "text", "content", "calls"), WRITTEN)
def test_calls_are_read_in_any_pieces(name, text, content, calls):
    for size in (1, 2, 3, 7, len(text)):
        said, reasoning, found = parse(text, size, tools=FORMATS[name])
        assert (said, reasoning) == (content, "")
        assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "No call, 1 < 2, <tool_cal"),
        ("hermes", '<tool_call>{"no": "name"}'),
        ("hermes", "<tool_call> plain words"),
        ("hermes", '```json\n{"name": "Danube", "length": 2850}\n```\nand ```python\nx```'),
        ("hermes", '{"name": "Danube"} is it'),
        ("llama", '{"name": "unknown", "parameters": {}}'),
        ("llama", '{"just": ["json"]}'),
        ("llama", 'As JSON: {"name": "now"}'),
        ("mistral", "[TOOL_CALLS"),
        ("functiongemma", "<start_function_call>weather in Oslo<end_function"),
    ],
)
def test_what_is_no_call_stays_text(name, text):
    for size in (1, 4, len(text)):
        assert parse(text, size, tools=FORMATS[name]) == (text, "", [])


def test_arguments_leave_as_they_come():
    parser = AnswerParser(None, FORMATS["hermes"], SCHEMAS)
    parser.push('<tool_call>{"name": "weather", ')
    parts = parser.push('"arguments": {"city": "Os')
    assert [part.arguments for _, part in parts.calls] == ['{"city": "Os']
    cut_off = parser.flush()
    assert (cut_off.content, cut_off.calls) == ("", [])


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_reasoning_is_apart(size):
    thought = "Hm <b>\n\nso"
    assert parse(f"<think>\n{thought}</think>\n\nYes", size, think=THINK) == ("Yes", thought, [])
    assert parse(f"{thought}</think>\n\nYes", size, think=THINK, is_thinking=True) == ("Yes", thought, [])
    assert parse(thought, size, think=THINK, is_thinking=True) == ("", thought, [])
    assert parse("  Yes </think>", size, think=THINK) == ("  Yes </think>", "", [])
    call = f"<think>a</think><tool_call>{call_json(NOW)}</tool_call>"
    assert parse(call, size, think=THINK, tools=FORMATS["hermes"]) == ("", "a", [("now", "{}")])


def test_a_template_tells_its_format():
    assert tool_format('... <tool_call>\n{"name"').name == "hermes"
    assert tool_format("<tool_call>\n<function=example>").name == "qwen3-coder"
    assert tool_format("{{ bos_token }}") is None
    assert think_format("{{- '<think>' }} ... </think>") == THINK
    assert think_format("plain") is None
