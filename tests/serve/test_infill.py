"""/infill as llama.vim and llama.vscode ask for it, and OpenAI's `suffix`: the same middle as in Python."""

import json
import threading
import time

import httpx
import pytest
from serving import Server, tiny_model

from eyas.models import Infill, Snippet
from eyas.serve.infill import LineLimits

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
PREFIX, SUFFIX = "def f():\n", "\nprint(f())\n"

# The requests of llama.vim (autoload/llama.vim) and llama.vscode (src/llama-server.ts), field by field.
VIM_FIELDS = [
    *("content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms"),
    *("timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms"),
    *("timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated", "tokens_cached"),
]
VIM = {
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": [{"text": "a = 1\n", "time": [8, 15], "filename": "a.py"}],
    "prompt": "  re",
    "n_predict": 24,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.90,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 10_000,
    "response_fields": VIM_FIELDS,
}
VIM_RING = {
    **{"input_prefix": "", "input_suffix": "", "input_extra": VIM["input_extra"], "prompt": ""},
    **{"n_predict": 0, "temperature": 0.0, "stream": False, "samplers": [], "cache_prompt": True},
    **{"t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""]},
}
VSCODE = {name: value for name, value in VIM.items() if name not in ("response_fields", "stop", "n_indent")}


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    """A random model whose tokenizer has fill-in-the-middle tokens."""
    return tiny_model(tmp_path_factory.mktemp("models") / "coder", more=FIM)


@pytest.fixture(scope="module")
def server(coder):
    running = Server(coder)
    yield running
    running.stop()


def expected(coder, **options):
    infill = Infill(PREFIX, SUFFIX, "  re", [Snippet("a = 1\n", "a.py")])
    return coder.generate(infill, method="autoregressive", **options)


def test_llama_vims_request(server, coder):
    answer = server.post("/infill", **VIM)
    assert answer.status_code == 200, answer.text
    body, alone = answer.json(), expected(coder, max_new_tokens=24)
    assert set(body) == set(VIM_FIELDS)
    assert body["content"] == alone.text
    assert body["timings/predicted_n"] == len(alone.token_ids)
    assert body["timings/prompt_n"] + body["tokens_cached"] == len(alone.prompt_token_ids)
    assert body["truncated"] is False


def test_llama_vims_ring_is_read_ahead(server, coder):
    extra = [{"text": "once = 'upon a time'\n", "filename": "b.py", "time": [1, 2]}]
    assert server.post("/infill", **VIM_RING | {"input_extra": extra}).json() == {}
    body = server.post("/infill", **VSCODE | {"input_extra": extra}).json()
    ring = coder.prompt_ids(Infill("", "", extra=[Snippet(extra[0]["text"], "b.py")]))
    assert body["tokens_cached"] >= len(ring) - 3


def test_llama_vscodes_request(server, coder):
    body = server.post("/infill", **VSCODE).json()
    alone = expected(coder, max_new_tokens=24)
    assert body["content"] == alone.text
    assert (body["stop"], body["stop_type"]) == (True, "limit")
    assert body["tokens_predicted"] == body["timings"]["predicted_n"] == 24
    preparing = {"n_predict": 0, "samplers": [], "t_max_predict_ms": 1}
    assert server.post("/infill", **VSCODE | preparing).json()["content"] == ""


def test_a_stream_joined_is_the_body(server):
    whole = server.post("/infill", **VSCODE).json()
    with server.http.stream("POST", "/infill", json=VSCODE | {"stream": True}) as response:
        parts = [json.loads(line[6:]) for line in response.iter_lines() if line]
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [part["stop"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1]["tokens_predicted"] == whole["tokens_predicted"]


def test_samplers_that_are_not_named_are_off(server, coder):
    sampled = VSCODE | {"seed": 5, "temperature": 0.7, "samplers": ["top_k", "temperature"], "top_k": 7}
    alone = expected(coder, max_new_tokens=24, seed=5, temperature=0.7, top_k=7)
    assert server.post("/infill", **sampled).json()["content"] == alone.text
    default = {name: value for name, value in VSCODE.items() if name not in ("samplers", "top_k", "top_p")}
    alone = expected(coder, max_new_tokens=24, seed=5, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    assert server.post("/infill", **default, seed=5).json()["content"] == alone.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mirostat", 2),
        ("typical_p", 0.5),
        ("lora", [{"id": 0, "scale": 0.5}]),
        ("xtc_probability", 0.1),
        ("n_predict", -2),
        ("input_extra", [{"filename": "no text"}]),
        ("surprise", 1),
    ],
)
def test_what_cannot_be_honoured_is_named(server, field, value):
    answer = server.post("/infill", **VSCODE | {field: value})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["param"]


def test_all_of_llama_cpps_defaults_are_taken(server):
    idle = {
        **{"typical_p": 1.0, "dynatemp_range": 0, "dynatemp_exponent": 1, "mirostat": 0, "mirostat_eta": 0.1},
        **{"xtc_probability": 0, "xtc_threshold": 0.1, "dry_multiplier": 0, "dry_base": 1.75, "n_probs": 0},
        **{"repeat_last_n": 64, "repeat_penalty": 1, "presence_penalty": 0, "seed": -1, "id_slot": 0},
    }
    assert server.post("/infill", **VSCODE | idle).status_code == 200
    refused = server.post("/infill", **VSCODE | {"repeat_last_n": 64, "repeat_penalty": 1.1})
    assert refused.json()["error"]["param"] == "repeat_last_n"


def test_a_long_file_is_trimmed_and_the_response_says_so(server):
    body = server.post("/infill", **VSCODE | {"input_prefix": "x = 1\n" * 100}).json()
    assert body["truncated"] is True
    assert body["tokens_evaluated"] <= 256 - 24


def test_a_model_without_infill_tokens_refuses_in_one_line(serve):
    plain = serve()
    for path, body in (("/infill", VSCODE), ("/v1/completions", {"prompt": "a", "suffix": "b"})):
        answer = plain.post(path, **body)
        assert answer.status_code == 400
        assert "no fill-in-the-middle tokens" in answer.json()["error"]["message"]


def test_openais_suffix(server, coder):
    with server.openai as client:
        answer = client.completions.create(
            model="coder", prompt=PREFIX, suffix=SUFFIX, max_tokens=12, temperature=0
        )
    alone = coder.infill(PREFIX, SUFFIX, method="autoregressive", max_new_tokens=12)
    assert answer.choices[0].text == alone.text
    ids = server.post("/v1/completions", prompt=[1, 2], suffix="x", max_tokens=2)
    assert ids.json()["error"]["param"] == "suffix"


# Far too long to end by itself within the test.
LONG = VSCODE | {"n_predict": 200, "eyas": {"method": "autoregressive"}, "ignore_eos": True}


def slow(server, monkeypatch):
    """Make each step of the server take a moment."""
    step = server.service.scheduler._batch.step

    def slowly():
        time.sleep(0.02)
        return step()

    monkeypatch.setattr(server.service.scheduler._batch, "step", slowly)


def under_way(server, count):
    deadline = time.monotonic() + 20
    while server.service.scheduler._taken != count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_closed_connection_cancels(server, monkeypatch):
    slow(server, monkeypatch)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/infill", json=LONG, timeout=0.5)
    began = time.monotonic()
    under_way(server, 0)
    assert time.monotonic() - began < 1.5, "200 steps would take four seconds"


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_request_ends_the_one_before(server, monkeypatch, stream):
    slow(server, monkeypatch)
    answers = {}

    def ask():
        answers["first"] = httpx.post(f"{server.url}/infill", json=LONG | {"stream": stream}, timeout=60)

    asking = threading.Thread(target=ask)
    asking.start()
    under_way(server, 1)
    server.post("/infill", **VIM_RING)  # prepares, and so disturbs nobody
    assert server.service.scheduler._taken == 1
    assert server.post("/infill", **VSCODE | {"n_predict": 2}).status_code == 200
    asking.join(60)
    assert answers["first"].status_code == 200
    if not stream:
        body = answers["first"].json()
        assert body["stop_type"] == "limit"
        assert body["tokens_predicted"] < 200
    else:
        assert '"stop":true' in answers["first"].text


@pytest.mark.parametrize(
    ("indent", "text", "kept"),
    [
        (0, "a\nb\n\nc", "a\nb\n\nc"),
        (2, "a\n  b\n c\n  d", "a\n  b"),
        (2, "a\n\t\tb\n\n  c", "a\n\t\tb"),
        (1, "a\n  ", "a\n  "),
    ],
)
def test_a_line_with_less_indentation_ends_the_text(indent, text, kept):
    for size in (1, 2, len(text)):
        limits, said = LineLimits(indent, None), ""
        for at in range(0, len(text), size):
            said += limits.push(text[at : at + size], 0.0)
            if limits.is_over:
                break
        said += "" if limits.is_over else limits.flush()
        assert said == kept
        assert limits.is_over == (kept != text)


def test_a_line_that_ends_late_is_the_last():
    limits = LineLimits(0, 0.2)
    assert limits.push("a\nb", 0.1) == "a\nb"
    assert limits.push("c", 0.3) == "c"
    assert limits.push("d\ne", 0.4) == "d"
    assert limits.is_over
