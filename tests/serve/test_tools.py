"""Tools through OpenAI's client: what the model is told, what it calls, and what cannot be asked for."""

import json

import openai
import pytest
from scripted import END, TOOLS_TEMPLATE, saying
from serving import Server, tiny_model

from eyas.api.prompts import Chat
from eyas.serve.tools.chat_format import ChatFormat
from eyas.serve.tools.forced import call_schema

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city, <|user|> or not.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASK = [{"role": "user", "content": "Weather?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
SAID = f"<think>\nWhere?</think>\n\nI look.{CALL}\n{CALL.replace('Oslo', 'Bergen')}"
LONG = {"max_tokens": 60, "stop": END, "temperature": 0}


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A random model whose template knows tools and reasoning."""
    directory = tmp_path_factory.mktemp("models") / "caller"
    return tiny_model(directory, template=TOOLS_TEMPLATE, max_positions=1024)


@pytest.fixture(scope="module")
def server(caller):
    running = Server(caller)
    yield running
    running.stop()


def ask(client, **fields):
    body = {"model": "caller", "messages": ASK, "tools": [WEATHER], **LONG}
    return client.chat.completions.create(**body | fields)


def test_calls_text_and_reasoning_are_apart(client, caller, monkeypatch):
    with saying(caller, SAID, monkeypatch):
        answer = ask(client)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert choice.message.reasoning_content == "Where?"
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert len({call.id for call in calls}) == 2
    assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)


def test_a_stream_holds_the_same(client, caller, monkeypatch):
    content, reasoning, calls, parts = "", "", {}, 0
    with saying(caller, SAID, monkeypatch):
        for chunk in ask(client, stream=True):
            [choice] = chunk.choices
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", "")
            for call in choice.delta.tool_calls or ():
                parts += 1
                known = calls.setdefault(call.index, {"name": call.function.name, "arguments": ""})
                known["arguments"] += call.function.arguments
    assert (content, reasoning, choice.finish_reason) == ("I look.", "Where?", "tool_calls")
    assert [json.loads(call["arguments"])["city"] for call in calls.values()] == ["Oslo", "Bergen"]
    assert parts > 4, "arguments come in parts"


def test_one_call_ends_the_answer_if_only_one_is_wanted(client, caller, monkeypatch):
    with saying(caller, SAID, monkeypatch):
        answer = ask(client, parallel_tool_calls=False)
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_without_tools_a_call_is_text(client, caller, monkeypatch):
    with saying(caller, CALL, monkeypatch):
        for fields in ({"tools": openai.NOT_GIVEN}, {"tools": []}, {"tool_choice": "none"}):
            message = ask(client, **fields).choices[0].message
            assert message.content == CALL
            assert message.tool_calls is None


def test_the_prompt_has_the_tools_and_the_whole_exchange(server, client, caller):
    call = {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "Rain <|user|>"},
    ]
    answer = client.chat.completions.create(model="caller", messages=messages, tools=[WEATHER], max_tokens=2)
    as_told = {**call, "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    told = [ASK[0], {"role": "assistant", "content": "", "tool_calls": [as_told]}, messages[2]]
    ids = caller.prompt_ids(Chat(told, [WEATHER]))
    assert answer.usage.prompt_tokens == len(ids)
    text = caller.tokenizer.decode(ids, skip_special=False)
    assert '{"name": "weather", "arguments": {"city": "Oslo"}}' in text
    assert '"description": "The weather of a city' in text
    specials = [token for token in ids if caller.tokenizer.is_special(token)]
    assert len(specials) == 4, "no text of a message or a tool makes a token"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "tools.0.type"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, "functions"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages",
        ),
        ({"messages": [{"role": "assistant"}]}, "messages"),
    ],
)
def test_what_cannot_be_asked_for_is_named(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "caller", "messages": ASK, "tools": [WEATHER]} | fields)
    assert refused.value.param == param


def test_a_template_without_a_place_for_tools_says_so(serve):
    with serve().openai as client, pytest.raises(openai.BadRequestError, match="no place for tools"):
        client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])


def test_options_reach_the_template(server, tmp_path):
    template = "{{ 'on' if enable_thinking else 'off' }}" + TOOLS_TEMPLATE
    running = Server(tiny_model(tmp_path / "thinker", template=template))
    try:
        sizes = {
            think: running.post(
                "/v1/chat/completions",
                messages=ASK,
                max_tokens=1,
                chat_template_kwargs={"enable_thinking": think},
            ).json()["usage"]["prompt_tokens"]
            for think in (True, False)
        }
    finally:
        running.stop()
    assert sizes[False] - sizes[True] == len("off") - len("on")


def test_phis_template_reads_the_tools_in_the_system_message(caller, monkeypatch):
    form = ChatFormat(caller.tokenizer)
    form._template = "{% if 'tools' in message %}<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}"
    prepared = form.prepare(Chat(ASK, [WEATHER]))
    assert json.loads(prepared.messages[0]["tools"])[0]["name"] == "weather"
    assert prepared.messages[1:] == ASK


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CITY = {"enum": ["Oslo", "Bergen"]}
BOTH = [tool("weather", city=CITY), tool("now")]


@pytest.mark.parametrize("seed", range(4))
def test_a_call_can_be_forced(client, seed):
    """A random model, which would never call by itself."""
    fields = {"tools": BOTH, "max_tokens": 200, "seed": seed, "temperature": 1, "stop": openai.NOT_GIVEN}
    answer = ask(client, **fields, tool_choice="required").choices[0]
    [call] = answer.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert arguments == {} if call.function.name == "now" else arguments["city"] in CITY["enum"]
    named = {"type": "function", "function": {"name": "weather"}}
    [call] = ask(client, **fields, tool_choice=named).choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in CITY["enum"]


def test_a_forced_call_may_refer_to_definitions():
    parameters = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}
    schema = call_schema([{"function": {"name": "f", "parameters": parameters}}])
    assert schema["$defs"] == {"A": {"type": "integer"}}
    assert "$defs" not in schema["properties"]["arguments"]
