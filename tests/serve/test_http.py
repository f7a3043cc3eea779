"""Routes, limits and errors over HTTP: everything refused is refused by name, in OpenAI's format."""

import json
import logging

import pytest
from serving import token_ids

from eyas.config import options_of
from eyas.drafters.eagle2 import Eagle2Options
from eyas.engine.tree_options import TreeOptions
from eyas.serve.logs import JsonLines

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def refusal(response, status=400):
    assert response.status_code == status, response.text
    [error] = response.json().values()
    assert error["request_id"] == response.headers["x-request-id"]
    assert error.keys() == {"message", "type", "param", "code", "request_id"}
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("functions", [{"name": "f"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_schema"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("reasoning_effort", "high"),
        ("service_tier", "flex"),
        ("web_search_options", {}),
        ("surprise", 1),
        ("eyas.surprise", None),
        ("stream_options", {"include_usage": True}),
        ("top_logprobs", 2),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"99999": 1}),
        ("temperature", -0.1),
        ("temperature", "0"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", 2),
        ("n", 0),
        ("n", 17),
        ("seed", -2),
        ("seed", 2**32),
        ("max_tokens", 0),
        ("max_tokens", 257),
        ("stop", ["x"] * 17),
        ("stop", "x" * 1001),
        ("presence_penalty", 3),
        ("eyas.draft_tokens", 0),
        ("eyas.draft_tokens", 256),
        ("eyas.depth", 17),
        ("eyas.method", 3),
        ("messages", []),
        ("messages.0.role", "function"),
        ("model", 7),
    ],
)
def test_what_cannot_be_honoured_is_named(server, param, field):
    body = {"messages": MESSAGES, "max_tokens": 2, "temperature": 1}
    if param == "messages.0.role":
        body["messages"] = [{"role": field, "content": "x"}]
    elif param.startswith("eyas."):
        body["eyas"] = {param.removeprefix("eyas."): field}
    else:
        body[param] = field
    error = refusal(server.post(CHAT, **body))
    assert error["type"] == "invalid_request_error"
    if error["param"] is None:
        assert param.split(".")[-1] in error["message"]
    else:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", True),
        ("best_of", 3),
        ("logprobs", 21),
        ("prompt", []),
        ("prompt", ""),
        ("prompt", [[]]),
    ],
)
def test_completions_name_what_they_cannot_do(server, field, value):
    error = refusal(server.post(**{"prompt": "The", "max_tokens": 2} | {field: value}))
    assert field in (error["param"] or error["message"])


def test_an_option_has_openais_vllms_and_its_own_name(server):
    body = {"messages": MESSAGES, "temperature": 0, "ignore_eos": True}
    for name in ("max_tokens", "max_completion_tokens", "max_new_tokens"):
        assert server.post(CHAT, **body, **{name: 3}).json()["usage"]["completion_tokens"] == 3
    same = {"max_tokens": 3, "max_completion_tokens": 3, "max_new_tokens": None}
    assert server.post(CHAT, **body, **same).json()["usage"]["completion_tokens"] == 3
    error = refusal(server.post(CHAT, **body, max_tokens=3, max_new_tokens=4))
    assert error["message"] == "max_tokens and max_new_tokens differ; give one of them."
    assert refusal(server.post(CHAT, **body, max_new_tokens=0))["param"] == "max_new_tokens"


def test_vllms_options_of_stopping(server):
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    everything = list(range(3, 262))
    stopped = server.post(CHAT, **body, stop_token_ids=everything, min_tokens=2).json()
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] == 3
    assert refusal(server.post(CHAT, **body, stop_token_ids=[-1]))["param"].startswith("stop_token_ids")
    assert refusal(server.post(CHAT, **body, min_tokens=21))["code"] == "invalid_value"


def test_the_options_of_the_tree_are_fields_of_eyas(server):
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    plain = server.post(CHAT, **body, eyas={"method": "autoregressive"}).json()["choices"][0]["message"]
    for tree in (
        {"tree_top_k": 2, "depth": 2},
        {"rerank": False},
        {"tree": "auto"},
        {"score_precision": "model"},
    ):
        answer = server.post(CHAT, **body, eyas={"method": "eagle2", **tree}).json()
        assert answer["choices"][0]["message"] == plain
    for tree in ({"tree_top_k": 33}, {"tree": "wide"}, {"rerank": 1}):
        assert refusal(server.post(CHAT, **body, eyas=tree))["param"] == f"eyas.{next(iter(tree))}"
    schema = server.http.get("/openapi.json").json()["components"]["schemas"]
    names = [named.name for kind in (TreeOptions, Eagle2Options) for named in options_of(kind)]
    assert set(schema["EyasOptions"]["properties"]) == {"method", "trace", "parse_special", *names}


def test_fields_that_ask_for_nothing_are_taken(server):
    idle = {
        "tools": [],
        "tool_choice": "none",
        "functions": None,
        "response_format": {"type": "text"},
        "store": False,
        "metadata": None,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "service_tier": "auto",
    }
    assert server.post(CHAT, messages=MESSAGES, max_tokens=2, **idle).status_code == 200
    assert server.post(prompt=" ", max_tokens=2, echo=False, suffix=None, best_of=1).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"", "JSON body"),
        (b"[]", "the body"),
        (b'"x"', "the body"),
        (b'{"messages": "\xff"}', "not JSON (not UTF-8); send one JSON object in UTF-8"),
        (b"[" * 9000, "not JSON (nested too deeply)"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "not JSON (a number with too many digits)"),
    ],
)
def test_bodies_that_are_no_requests(server, content, message):
    headers = {"content-type": "application/json"}
    error = refusal(server.http.post(CHAT, content=content, headers=headers))
    assert message in error["message"]
    assert error["code"] == ("json_invalid" if "not JSON" in message else error["code"])


def test_ids_that_the_model_does_not_have_are_no_matter_of_its_context(server):
    for prompt in ([1, 10**6], [[1], [1, 262]]):
        error = refusal(server.post(prompt=prompt, max_tokens=2))
        assert (error["param"], error["code"]) == ("prompt", "invalid_value")
        assert "ids end at 261" in error["message"]
    assert refusal(server.post(prompt=[7] * 300, max_tokens=2))["code"] == "context_length_exceeded"


def test_default_is_another_name_of_the_model(server):
    for name in (None, "tiny", "default"):
        assert (
            server.post(prompt="Hi", max_tokens=2, **({} if name is None else {"model": name})).json()[
                "model"
            ]
            == "tiny"
        )
    assert server.http.get("/v1/models/default").json()["id"] == "tiny"
    assert refusal(server.post(prompt="Hi", model="another"), 404)["code"] == "model_not_found"


def test_text_that_is_no_unicode_is_refused(server):
    body = json.dumps({"messages": [{"role": "user", "content": "\ud800"}], "max_tokens": 2})
    headers = {"content-type": "application/json"}
    assert "UTF-8" in refusal(server.http.post(CHAT, content=body, headers=headers))["message"]
    named = json.dumps({"messages": MESSAGES, "model": "\ud800"})
    refusal(server.http.post(CHAT, content=named, headers=headers))


def test_unknown_routes_and_methods(server):
    assert refusal(server.http.get("/nowhere"), 404)["code"] == "not_found"
    assert refusal(server.http.get(CHAT), 405)["code"] == "method_not_allowed"


def test_request_ids_are_kept_or_made(server):
    given = server.http.get("/version", headers={"x-request-id": "my-id.7"})
    assert given.headers["x-request-id"] == "my-id.7"
    for odd in ("a b", "x" * 65, 'a"b'):
        made = server.http.get("/version", headers={"x-request-id": odd}).headers["x-request-id"]
        assert made != odd
        assert len(made) == 24


def test_bodies_are_bounded_with_and_without_a_stated_size(serve):
    server = serve(max_body_bytes=2000)
    long = json.dumps({"messages": [{"role": "user", "content": "x" * 3000}]}).encode()
    headers = {"content-type": "application/json"}
    assert refusal(server.http.post(CHAT, content=long, headers=headers), 413)["code"] == "body_too_large"

    def parts():
        for start in range(0, len(long), 500):
            yield long[start : start + 500]

    refusal(server.http.post(CHAT, content=parts(), headers=headers), 413)
    assert server.post(CHAT, messages=MESSAGES, max_tokens=2).status_code == 200


def test_the_key_opens_what_costs_something(serve):
    server = serve(api_key="s3cret")
    for path in ("/v1/models", "/openapi.json"):
        error = refusal(server.http.get(path), 401)
        assert error["type"] == "authentication_error"
    for wrong in ("Bearer wrong", "s3cret", "Bearer s3cre", "Bearer s3cret2", ""):
        refusal(server.http.get("/v1/models", headers={"authorization": wrong}), 401)
    refusal(server.post("/tokenize", prompt="x"), 401)
    right = {"authorization": "Bearer s3cret"}
    assert server.http.get("/v1/models", headers=right).status_code == 200
    for path in ("/health", "/ready", "/version", "/metrics"):
        assert server.http.get(path).status_code == 200


def test_no_other_site_may_read_answers(server):
    response = server.http.get("/v1/models", headers={"origin": "https://elsewhere.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    asked = server.http.options(
        CHAT, headers={"origin": "https://x.example", "access-control-request-method": "POST"}
    )
    assert asked.status_code == 405
    plain = server.http.post(
        CHAT, content=json.dumps({"messages": MESSAGES}), headers={"content-type": "text/plain"}
    )
    assert plain.status_code == 400, "what a page may send without asking is no request"


def test_tokens_and_texts(server, llm):
    ids = llm.tokenizer.encode("The sea ☂")
    answer = server.post("/tokenize", prompt="The sea ☂").json()
    assert answer == {"count": len(ids), "max_model_len": 256, "tokens": ids}
    assert server.post("/detokenize", tokens=ids).json() == {"prompt": "The sea ☂"}
    chat = server.post("/tokenize", messages=MESSAGES).json()["tokens"]
    assert chat == llm.tokenizer.apply_chat_template(MESSAGES)
    typed = [{"role": "user", "content": "</s>"}]
    for parse in (False, True):
        tokens = server.post("/tokenize", prompt="</s>", parse_special=parse).json()["tokens"]
        assert (tokens == [2]) == parse
        tokens = server.post("/tokenize", messages=typed, parse_special=parse).json()["tokens"]
        assert (2 in tokens) == parse
    refusal(server.post("/detokenize", tokens=[10**6]))
    refusal(server.post("/detokenize", tokens=[-1]))
    refusal(server.post("/tokenize"))
    refusal(server.post("/tokenize", prompt="x", messages=MESSAGES))
    refusal(server.post("/tokenize", prompt="x", model="other"), 404)


def test_names_of_control_tokens_are_text_unless_asked_for(server):
    for route, body in (
        (CHAT, {"messages": [{"role": "user", "content": "</s>"}]}),
        ("/v1/completions", {"prompt": "</s>"}),
    ):
        lengths = [
            server.post(route, **body, max_tokens=1, eyas={"parse_special": parse}).json()["usage"][
                "prompt_tokens"
            ]
            for parse in (False, True)
        ]
        assert lengths[0] - lengths[1] == len("</s>") - 1
        default = server.post(route, **body, max_tokens=1).json()["usage"]["prompt_tokens"]
        assert default == lengths[0]


def test_what_an_operator_asks(server):
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.http.get("/ready").json() == {"ready": True}
    assert set(server.http.get("/version").json()) == {"version"}
    [model] = server.http.get("/v1/models").json()["data"]
    assert model["max_model_len"] == 256
    assert {"autoregressive", "eagle2"} <= set(model["eyas"]["methods"])
    assert model["eyas"]["sized_methods"] == ["eagle2"]


def test_the_openapi_document_names_every_route(server):
    paths = server.http.get("/openapi.json").json()["paths"]
    assert {CHAT, "/v1/completions", "/v1/models", "/tokenize", "/detokenize", "/health", "/metrics"} <= set(
        paths
    )


def test_metrics_have_vllms_names(serve):
    server = serve()
    cycles = []
    for seed in range(3):
        body = server.post(
            CHAT, messages=MESSAGES, max_tokens=30, seed=seed, eyas={"draft_tokens": 12, "depth": 3}
        ).json()
        cycles += zip(
            *(
                body["metrics"]["speculative_decoding"][f"per_step_{kind}"]
                for kind in ("accepted", "drafted")
            ),
            strict=True,
        )
    server.settle()
    counts = server.counts()
    accepted = sum(kept for kept, _ in cycles)
    assert accepted > 0
    assert counts["vllm:spec_decode_num_drafts_total",] == len(cycles)
    assert counts["vllm:spec_decode_num_draft_tokens_total",] == sum(size for _, size in cycles)
    assert counts["vllm:spec_decode_num_accepted_tokens_total",] == accepted
    for position in range(3):
        reached = sum(kept > position for kept, _ in cycles)
        assert counts.get(("vllm:spec_decode_num_accepted_tokens_per_pos_total", str(position)), 0) == reached
    assert counts["vllm:generation_tokens_total",] == 90
    assert counts["vllm:request_success_total", "length"] == 3
    assert counts["vllm:time_to_first_token_seconds_count",] == 3
    assert counts["vllm:inter_token_latency_seconds_count",] == 87
    assert counts["vllm:e2e_request_latency_seconds_count",] == 3
    assert counts["vllm:num_requests_running",] == counts["vllm:num_requests_waiting",] == 0
    assert 0 < counts["vllm:kv_cache_usage_perc",] < 1


def test_counts_of_one_response_agree(server):
    body = server.post(
        prompt="The sea", max_tokens=40, temperature=0, eyas={"draft_tokens": 12, "depth": 3}
    ).json()
    counts = body["metrics"]["speculative_decoding"]
    depths = [token["depth"] for token in body["choices"][0]["eyas"]["tokens"]]
    assert counts["num_spec_steps"] == len(counts["per_step_accepted"])
    assert counts["num_accepted_draft_tokens"] == sum(counts["per_step_accepted"])
    assert (
        counts["mean_acceptance_length"] == 1 + counts["num_accepted_draft_tokens"] / counts["num_spec_steps"]
    )
    assert sum(counts["acceptance_histogram"].values()) == counts["num_spec_steps"]
    by_length = counts["acceptance_histogram_by_draft_length"].values()
    assert sum(number for own in by_length for number in own.values()) == counts["num_spec_steps"]
    assert counts["draft_acceptance_rate"] == counts["num_accepted_draft_tokens"] / counts["num_draft_tokens"]
    assert sum(depth is not None for depth in depths) <= counts["num_accepted_draft_tokens"]
    plain = server.post(prompt="The sea", max_tokens=4, eyas={"method": "autoregressive"}).json()
    assert plain["metrics"]["speculative_decoding"]["mean_acceptance_length"] is None
    assert plain["metrics"]["speculative_decoding"]["num_spec_steps"] == 0


def test_traces_show_each_cycles_tree(server, llm):
    fields = {
        "prompt": "The sea",
        "max_tokens": 30,
        "seed": 4,
        "eyas": {"trace": True, "draft_tokens": 9, "depth": 3},
    }
    *chunks, last = server.events(**fields, stream_options={"include_usage": True})
    body = server.post(**fields).json()
    whole = body["choices"][0]["eyas"]
    assert chunks[0]["eyas"] == body["eyas"]
    assert last["usage"] == body["usage"]
    streamed = [chunk["choices"][0]["eyas"] for chunk in chunks]
    without_time = [{key: cycle[key] for key in ("tokens", "tree")} for cycle in streamed]
    assert without_time == [{key: cycle[key] for key in ("tokens", "tree")} for cycle in whole["cycles"]]
    assert [token for cycle in streamed for token in cycle["tokens"]] == whole["tokens"]
    assert [cycle["seconds"] for cycle in streamed] == sorted(cycle["seconds"] for cycle in streamed)
    assert streamed[0]["tree"] is None

    previous = streamed[0]["tokens"][-1]["id"]
    for cycle in streamed[1:]:
        tree, tokens = cycle["tree"], cycle["tokens"]
        size = len(tree["token_ids"])
        assert {len(tree[key]) for key in ("texts", "parents", "values", "kept")} == {size}
        assert tree["token_ids"][0] == previous
        assert tree["parents"][0] == -1
        assert sum(tree["kept"]) == 10
        assert size > 10, "some of what rerank dropped is shown"
        for node in range(1, size):
            parent = tree["parents"][node]
            assert 0 <= parent < node
            assert tree["values"][node] <= tree["values"][parent]
            assert tree["kept"][parent] or not tree["kept"][node]
        path = tree["path"]
        assert path[0] == 0
        assert all(tree["kept"][node] for node in path)
        assert [tree["parents"][node] for node in path[1:]] == path[:-1]
        accepted = [tree["token_ids"][node] for node in path[1:]]
        emitted = [token["id"] for token in tokens]
        assert emitted == accepted[: len(emitted)] or emitted[:-1] == accepted
        assert [token["depth"] for token in tokens[: len(accepted)]] == list(
            range(1, 1 + len(tokens[: len(accepted)]))
        )
        assert tokens[-1]["text"] == llm.tokenizer.decode([emitted[-1]], skip_special=False)
        previous = emitted[-1]


def test_every_chunk_says_how_its_tokens_came(server):
    fields = {"messages": MESSAGES, "max_tokens": 30, "temperature": 0}
    chunks = server.events(CHAT, **fields)
    tokens = [token for chunk in chunks for token in chunk["choices"][0]["eyas"]["tokens"]]
    assert all(set(token) == {"id", "text", "depth"} for token in tokens)
    assert not any("tree" in chunk["choices"][0]["eyas"] for chunk in chunks)
    body = server.post(CHAT, **fields).json()
    assert body["choices"][0]["eyas"] == {"tokens": tokens}
    assert body["eyas"]["lossless"] == "ids"
    assert chunks[-1]["metrics"].keys() == body["metrics"].keys()


def test_the_seed_of_an_answer_is_told_and_makes_it_again(server):
    first = server.post(CHAT, messages=MESSAGES, max_tokens=12).json()
    again = server.post(CHAT, messages=MESSAGES, max_tokens=12, seed=first["eyas"]["seed"]).json()
    assert token_ids(first["choices"][0]) == token_ids(again["choices"][0])


@pytest.mark.parametrize("log_prompts", [False, True])
def test_logs_are_json_and_hold_no_text_unless_asked(serve, caplog, log_prompts):
    server = serve(log_prompts=log_prompts)
    logging.getLogger("eyas").propagate = True
    with caplog.at_level(logging.INFO, "eyas"):
        response = server.post(CHAT, messages=[{"role": "user", "content": "xyzzy"}], max_tokens=3, seed=0)
        server.settle()
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    [line] = [line for line in lines if line["event"] == "request"]
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["status"], line["completion_tokens"], line["finish_reasons"]) == (200, 3, ["length"])
    assert ("xyzzy" in json.dumps(lines)) == log_prompts
