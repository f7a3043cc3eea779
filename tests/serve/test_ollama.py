"""Ollama's own client against a running server, and the lines that it reads."""

import json

import ollama
import pytest
from scripted import END, TOOLS_TEMPLATE, saying
from serving import Server, tiny_model

from eyas.models import Infill

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
ASK = [{"role": "user", "content": "Name a river."}]
SHORT = {"num_predict": 12, "temperature": 0}
MODEL = "caller:latest"  # as Ollama's clients write names


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A random model that knows tools, reasoning and infilling."""
    directory = tmp_path_factory.mktemp("models") / "caller"
    return tiny_model(directory, template=TOOLS_TEMPLATE, more=FIM, max_positions=1024)


@pytest.fixture(scope="module")
def server(caller):
    running = Server(caller)
    yield running
    running.stop()


@pytest.fixture
def client(server):
    with ollama.Client(host=server.url) as opened:
        yield opened


def test_a_chat_is_plain_decodings_answer(client, caller):
    alone = caller.generate(ASK, method="autoregressive", max_new_tokens=12)
    answer = client.chat(MODEL, ASK, options=SHORT)
    assert answer.message.content == alone.text
    assert (answer.done, answer.done_reason, answer.model) == (True, "length", "caller")
    assert (answer.prompt_eval_count, answer.eval_count) == (len(alone.prompt_token_ids), 12)
    assert answer.total_duration >= answer.prompt_eval_duration > 0
    *parts, last = client.chat(MODEL, ASK, options=SHORT, stream=True)
    assert "".join(part.message.content for part in parts) == alone.text
    assert [part.done for part in parts] == [False] * len(parts)
    assert (last.done, last.message.content, last.eval_count) == (True, "", 12)


def test_lines_are_the_default(server):
    response = server.post("/api/chat", model="caller", messages=ASK, options=SHORT)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["done"] for line in response.text.splitlines()][-1] is True


def test_a_body_need_not_be_declared_as_json_unless_a_page_sends_it(server):
    body = json.dumps({"model": "caller", "messages": ASK, "options": SHORT, "stream": False})
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl -d sends it
    assert server.http.post("/api/chat", content=body, headers=form).status_code == 200
    page = form | {"origin": "https://page.example"}
    assert server.http.post("/api/chat", content=body, headers=page).status_code == 400
    assert server.http.post("/v1/chat/completions", content=body, headers=form).status_code == 400


def test_defaults_and_names_are_ollamas(client, caller):
    options = {"seed": 3, "num_predict": 12, "repeat_penalty": 1.3, "num_ctx": 4096, "stop": ["zz"]}
    alone = caller.generate(
        ASK,
        method="autoregressive",
        max_new_tokens=12,
        **{"seed": 3, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3},
    )
    assert client.chat(MODEL, ASK, options=options).message.content == alone.text


def test_texts_raw_with_a_system_message_and_to_fill_in(client, caller):
    plain = {"method": "autoregressive", "max_new_tokens": 12}
    system = [{"role": "system", "content": "Be brief."}, *ASK]
    answer = client.generate(MODEL, "Name a river.", system="Be brief.", options=SHORT)
    assert answer.response == caller.generate(system, **plain).text
    raw = client.generate(MODEL, "The sea", raw=True, options=SHORT)
    assert raw.response == caller.generate("The sea", raw=True, **plain).text
    filled = client.generate(MODEL, "def f():", suffix="\nend", options=SHORT)
    assert filled.response == caller.generate(Infill("def f():", "\nend"), **plain).text
    streamed = client.generate(MODEL, "The sea", raw=True, options=SHORT, stream=True)
    assert "".join(part.response for part in streamed) == raw.response


SAID = (
    '<think>\nHm.</think>\n\nI look.<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
)


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: its name
    """
    return f"Rain in {city}"


def test_calls_and_thoughts(client, caller, monkeypatch):
    options = {"num_predict": 60, "stop": [END], "temperature": 0}
    with saying(caller, SAID, monkeypatch):
        message = client.chat(MODEL, ASK, tools=[weather], think=True, options=options).message
        parts = list(client.chat(MODEL, ASK, tools=[weather], options=options, stream=True))
    for content, thinking, calls in (
        (message.content, message.thinking, message.tool_calls),
        (
            "".join(part.message.content for part in parts),
            "".join(part.message.thinking or "" for part in parts),
            [call for part in parts for call in part.message.tool_calls or ()],
        ),
    ):
        assert (content, thinking) == ("I look.", "Hm.")
        [call] = calls
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "Oslo"})
    again = [*ASK, message, {"role": "tool", "tool_name": "weather", "content": weather("Oslo")}]
    assert client.chat(MODEL, again, tools=[weather], options=SHORT).done


def test_log_probabilities(client, caller):
    answer = client.chat(MODEL, ASK, options=SHORT, logprobs=True, top_logprobs=2)
    expected = caller.generate(ASK, method="autoregressive", max_new_tokens=12, logprobs=2).logprobs
    assert [entry.logprob for entry in answer.logprobs] == [row["logprob"] for row in expected]
    assert all(len(entry.top_logprobs) == 2 for entry in answer.logprobs)


def test_what_clients_ask_of_a_model(client, server):
    [model] = client.list().models
    assert model.model == "caller"
    assert model.size > 0
    assert len(model.digest) == 64
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "insert", "tools", "thinking"]
    assert shown.modelinfo["llama.context_length"] == 1024
    assert "tool_call" in shown.template
    [running] = client.ps().models
    assert running.context_length == 1024
    assert server.http.get("/api/version").json()["version"].split(".")[0] == "0"
    assert server.http.head("/").status_code == 200, "Ollama's command asks so whether a server is there"
    assert server.post("/api/generate", model="caller").json()["done_reason"] == "load"
    assert server.post("/api/chat", model="caller").json()["done_reason"] == "load"


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("chat", {"model": "other"}, "not served here"),
        ("chat", {"options": {"mirostat": 2}}, "mirostat is not supported"),
        ("chat", {"options": {"temperature": -1}}, "temperature"),
        ("chat", {"options": {"repeat_last_n": 64, "repeat_penalty": 1.1}}, "repeat_last_n"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "images"),
        ("generate", {"prompt": "x", "context": [1, 2]}, "context"),
        ("generate", {"prompt": "x", "raw": True, "system": "y"}, "system"),
        ("generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        ("chat", {"options": {"n": 2}}, "n is not an option"),
        ("chat", {"options": {"eyas": {"trace": True}}}, "no place for a trace"),
        ("embed", {"input": "x"}, "no embeddings"),
        ("pull", {}, "Not Found"),
    ],
)
def test_errors_are_messages(server, path, fields, message):
    body = {"model": "caller"} | ({"messages": ASK} if path == "chat" else {}) | fields
    response = server.post(f"/api/{path}", **body)
    assert response.status_code >= 400
    assert message in response.json()["error"]


def test_the_client_raises_the_message(client):
    with pytest.raises(ollama.ResponseError, match="not served here") as refused:
        client.chat("other", ASK)
    assert refused.value.status_code == 404
