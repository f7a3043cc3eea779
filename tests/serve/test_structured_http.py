"""The form of an answer over HTTP: every client's way to ask for one, and what is refused."""

import json
import re
from typing import Annotated, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

MODEL = "tiny"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Who is there?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ana", "Bo"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GBNF = 'root ::= "yes" | "no" ("," root)?'
NAMED = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
LOOSE = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": False}}
TEXT = json.dumps(SCHEMA)
COMPACT = {"json": SCHEMA, "disable_any_whitespace": True}


class Person(BaseModel):
    name: Literal["Ana", "Bo"]
    age: Annotated[int, Field(ge=0, le=99)]
    tags: Annotated[list[Literal["a", "b"]], Field(max_length=2)]


def fits_schema(text):
    Draft202012Validator(SCHEMA).validate(json.loads(text))


def matches(pattern):
    def check(text):
        assert re.fullmatch(pattern, text)

    return check


@pytest.mark.parametrize(
    ("fields", "option", "check"),
    [
        ({"response_format": NAMED}, {"json_schema": SCHEMA}, fits_schema),
        ({"response_format": LOOSE}, {"json_schema": SCHEMA}, fits_schema),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            {"json_schema": SCHEMA},
            fits_schema,
        ),
        ({"json_schema": SCHEMA}, {"json_schema": SCHEMA}, fits_schema),
        ({"guided_json": TEXT}, {"json_schema": SCHEMA}, fits_schema),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}, fits_schema),
        (
            {"structured_outputs": COMPACT},
            {"json_schema": SCHEMA, "whitespace_pattern": ""},
            matches(r'\{"name":"(Ana|Bo)","age":[0-9]{1,2}\}'),
        ),
        ({"structured_outputs": {"regex": "[0-9]{4}"}}, {"regex": "[0-9]{4}"}, matches("[0-9]{4}")),
        ({"guided_regex": "[0-9]{4}"}, {"regex": "[0-9]{4}"}, matches("[0-9]{4}")),
        ({"regex": "[0-9]{4}"}, {"regex": "[0-9]{4}"}, matches("[0-9]{4}")),
        ({"guided_choice": ["red", "green"]}, {"choice": ["red", "green"]}, matches("red|green")),
        ({"structured_outputs": {"choice": ["red"]}}, {"choice": "red"}, matches("red")),
        ({"grammar": GBNF}, {"grammar": GBNF}, matches("(no,)*(yes|no)")),
        ({"guided_grammar": 'start: "x"~3'}, {"grammar": 'start: "x"~3'}, matches("xxx")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_each_way_to_ask(server, llm, fields, option, check, temperature):
    """Over HTTP with the server's method, and alone by plain decoding: the same text, and a valid one."""
    body = {"messages": MESSAGES, "max_tokens": 120, "temperature": temperature, "seed": 3}
    response = server.post(CHAT, **body, **fields)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    alone = llm.generate(
        MESSAGES,
        method="autoregressive",
        max_new_tokens=120,
        temperature=float(temperature),
        seed=3,
        **option,
    )
    assert choice["message"]["content"] == alone.text
    assert choice["finish_reason"] == "stop"
    check(alone.text)


def test_json_object_is_an_object_as_far_as_it_goes(server):
    body = {
        "messages": MESSAGES,
        "max_tokens": 60,
        "temperature": 0,
        "response_format": {"type": "json_object"},
    }
    first = server.post(CHAT, **body).json()["choices"][0]["message"]["content"]
    assert first.startswith("{")
    del body["response_format"]
    again = server.post(CHAT, **body, structured_outputs={"json_object": True}).json()
    assert again["choices"][0]["message"]["content"] == first
    assert not server.post(CHAT, **body).json()["choices"][0]["message"]["content"].startswith("{")


def test_the_official_clients_parse(client):
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Person, max_tokens=200, temperature=0.8, seed=2
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Person)
    assert parsed == Person.model_validate_json(answer.choices[0].message.content)


def test_the_official_client_streams_json(client):
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_format=NAMED, max_tokens=120, seed=5, stream=True
    )
    fits_schema("".join(chunk.choices[0].delta.content or "" for chunk in stream))


def test_completions_and_several_answers(server):
    body = {"prompt": "It is ", "max_tokens": 60, "temperature": 1.5, "seed": 1, "n": 3}
    choices = server.post(**body, response_format=NAMED).json()["choices"]
    for choice in choices:
        fits_schema(choice["text"])


def test_other_doors_ask_for_the_same(server):
    options = {"seed": 3, "temperature": 0, "num_predict": 120}
    ollama = {"model": "tiny", "stream": False, "options": options}
    chat = server.post("/api/chat", **ollama, messages=MESSAGES, format=SCHEMA).json()
    fits_schema(chat["message"]["content"])
    whole = server.post("/api/generate", **ollama, prompt="Who is there?", format=SCHEMA).json()
    fits_schema(whole["response"])
    text = {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}}
    body = {
        "model": "tiny",
        "input": "Who is there?",
        "text": text,
        "max_output_tokens": 120,
        "temperature": 0,
    }
    [message] = server.post("/v1/responses", **body).json()["output"]
    fits_schema(message["content"][0]["text"])


@pytest.mark.parametrize("method", ["autoregressive", "pld", "lookahead", "eagle2"])
def test_forced_tokens_are_drafted(server, method):
    body = {"messages": MESSAGES, "max_tokens": 120, "temperature": 0, "structured_outputs": COMPACT}
    answer = server.post(CHAT, **body, eyas={"method": method}).json()
    fits_schema(answer["choices"][0]["message"]["content"])
    depths = [token["depth"] for token in answer["choices"][0]["eyas"]["tokens"]]
    assert any(depths) == (method != "autoregressive")
    if method != "autoregressive":
        assert sum(depth is not None for depth in depths) > 0.4 * len(depths)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        (
            {"response_format": {"type": "xml"}},
            "response_format.type",
            "'text', 'json_object' or 'json_schema'",
        ),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format", "does not belong"),
        ({"response_format": "json"}, "response_format", "valid"),
        ({"response_format": NAMED, "regex": "a"}, None, "json_schema and regex exclude each other"),
        ({"response_format": NAMED, "guided_json": {}}, "response_format", "given twice"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, None, "exclude each other"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag", "not a field"),
        ({"structured_outputs": {"json": {}, "json_object": True}}, "structured_outputs", "exclude"),
        ({"json_schema": {"items": {"uniqueItems": True}}}, None, "at #/items/uniqueItems"),
        ({"json_schema": 5}, "json_schema", "valid"),
        ({"grammar": "root ::= x"}, None, "Rule 'x' not found"),
        ({"regex": "("}, None, "unclosed group"),
        ({"regex": "a" * 200_000}, "regex", "at most 131072 characters"),
        ({"choice": []}, "choice", "at least 1 item"),
        ({"choice": "red"}, "choice", "list"),
        ({"regex": "a", "min_tokens": 3}, None, "min_new_tokens and regex exclude each other"),
        ({"regex": "a", "ignore_eos": True}, None, "ignore_eos and regex exclude each other"),
        ({"json_schema": {}, "whitespace_pattern": "("}, None, "json_schema cannot be used"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_honoured_is_named(server, fields, param, message):
    response = server.post(CHAT, messages=MESSAGES, max_tokens=4, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert error["param"] == param


def test_other_requests_go_on_beside_a_large_grammar(server, client):
    """It is read on a thread of its own; and a broken one harms nobody."""
    large = {"enum": [f"x{at}" for at in range(5000)]}
    deep = {"type": "string"}
    for _ in range(150):
        deep = {"items": deep}
    with pytest.raises(openai.BadRequestError, match="recursion limit"):
        client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=4, extra_body={"json_schema": deep}
        )
    answer = server.post(CHAT, messages=MESSAGES, max_tokens=20, temperature=0, json_schema=large).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) in large["enum"]
