"""/v1/responses through OpenAI's client: items, events, and what is not stored."""

import json

import openai
import pytest
from scripted import END, TOOLS_TEMPLATE, saying
from serving import Server, tiny_model

ASK = "Name a river."
SHORT = {"max_output_tokens": 12, "temperature": 0}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
SAID = (
    '<think>\nHm.</think>\n\nI look.<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
)
LONG = {"max_output_tokens": 60, "tools": [WEATHER], "temperature": 0}


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


def test_a_text_is_plain_decodings_answer(client, caller):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]
    alone = caller.generate(messages, method="autoregressive", max_new_tokens=12)
    answer = client.responses.create(model="caller", input=ASK, instructions="Be brief.", **SHORT)
    assert answer.output_text == alone.text
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.usage.input_tokens == len(alone.prompt_token_ids)
    assert answer.usage.output_tokens == 12
    items = [{"role": "user", "content": [{"type": "input_text", "text": ASK}]}]
    again = client.responses.create(model="caller", input=items, instructions="Be brief.", **SHORT)
    assert again.output_text == alone.text


def test_the_events_of_a_stream_make_the_response(client):
    whole = client.responses.create(model="caller", input=ASK, **SHORT)
    events = list(client.responses.create(model="caller", input=ASK, stream=True, **SHORT))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    begin = ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"]
    assert kinds[: len(begin)] == begin
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert "".join(event.delta for event in events if event.type.endswith("text.delta")) == whole.output_text
    assert events[-1].response.output_text == whole.output_text


def test_the_clients_own_stream_adds_them_up(client, caller, monkeypatch):
    ending = {"max_output_tokens": 60, "temperature": 0, "extra_body": {"stop": END}}
    with (
        saying(caller, "The Danube flows.", monkeypatch),
        client.responses.stream(model="caller", input=ASK, **ending) as stream,
    ):
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "The Danube flows."


def check(output):
    thought, message, call = output
    assert (thought.type, thought.content[0].text) == ("reasoning", "Hm.")
    assert (message.type, message.content[0].text) == ("message", "I look.")
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "weather",
        {"city": "Oslo"},
    )
    assert {item.status for item in output} == {"completed"}


def test_calls_and_thoughts_are_items(client, caller, monkeypatch):
    with saying(caller, SAID, monkeypatch):
        answer = client.responses.create(model="caller", input=ASK, **LONG, extra_body={"stop": END})
        events = list(
            client.responses.create(model="caller", input=ASK, stream=True, **LONG, extra_body={"stop": END})
        )
    check(answer.output)
    check(events[-1].response.output)
    assert answer.status == "completed"
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == {"city": "Oslo"}
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == "".join(deltas)

    call = answer.output[2]
    given = [
        {"role": "user", "content": ASK},
        *answer.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"},
    ]
    next_turn = client.responses.create(model="caller", input=given, **SHORT, tools=[WEATHER])
    assert next_turn.usage.input_tokens > answer.usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, None),
        ({"extra_body": {"surprise": 1}}, "surprise"),
    ],
)
def test_what_cannot_be_honoured_is_named(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**{"model": "caller", "input": ASK} | fields)
    if param is not None:
        assert refused.value.param == param


def test_what_asks_for_nothing_is_taken(client):
    idle = {"store": False, "truncation": "disabled", "metadata": {}, "include": [], "prompt_cache_key": "k"}
    idle |= {"text": {"format": {"type": "text"}}, "tool_choice": "auto", "parallel_tool_calls": True}
    assert client.responses.create(model="caller", input=ASK, **SHORT, **idle).output_text


def test_a_call_can_be_forced(client):
    properties = {"city": {"enum": ["Oslo", "Bergen"]}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    tools = [WEATHER | {"parameters": parameters | {"additionalProperties": False}}]
    for choice in ("required", {"type": "function", "name": "weather"}):
        answer = client.responses.create(
            model="caller", input=ASK, tools=tools, tool_choice=choice, max_output_tokens=200
        )
        [call] = answer.output
        assert json.loads(call.arguments)["city"] in properties["city"]["enum"]
        assert answer.model_dump()["tool_choice"] == choice
