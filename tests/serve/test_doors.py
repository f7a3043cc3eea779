"""The smaller doors: what llama.cpp's clients ask first, other sites' pages, and what there is not."""

import httpx
import pytest

from eyas.errors import ConfigError
from eyas.serve.settings import ServeSettings

ORIGIN = "https://page.example"


def test_llama_cpps_properties_and_slots(serve):
    server = serve(max_concurrent=3)
    props = server.http.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 256
    assert props["total_slots"] == 3
    assert "messages" in props["chat_template"]
    slots = server.http.get("/slots").json()
    assert [slot["id"] for slot in slots] == [0, 1, 2]
    assert not any(slot["is_processing"] for slot in slots)
    assert server.http.get("/slots", params={"fail_on_no_slot": 1}).status_code == 200


def test_no_embeddings(server):
    for path in ("/v1/embeddings", "/api/embed", "/api/embeddings"):
        answer = server.post(path, input="x")
        assert answer.status_code == 400
        assert "no embeddings" in str(answer.json()["error"])


def test_pages_of_an_allowed_origin_may_ask(serve):
    server = serve(cors_origin=(ORIGIN,), api_key="k")
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    answer = server.http.options("/v1/chat/completions", headers={"origin": ORIGIN, **asked})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    key = {"authorization": "Bearer k", "origin": ORIGIN}
    assert server.http.get("/v1/models", headers=key).headers["access-control-allow-origin"] == ORIGIN
    other = server.http.get("/v1/models", headers=key | {"origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    assert (
        server.http.options("/v1/models", headers={"origin": "https://other.example", **asked}).status_code
        == 400
    )


@pytest.mark.parametrize("origin", ["page.example", "https://page.example/path", ""])
def test_an_origin_is_checked(origin):
    with pytest.raises(ConfigError, match="an origin is"):
        ServeSettings(cors_origin=(origin,))


def test_llama_cpps_fields_may_come_to_openais_routes(server):
    """The request by which llama.vscode edits (src/llama-server.ts)."""
    body = {
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
        **{"stream": False, "cache_prompt": True, "samplers": "edkypmxt", "temperature": 0.8},
        **{"dynatemp_range": 0, "dynatemp_exponent": 1, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        **{"typical_p": 1, "xtc_probability": 0, "xtc_threshold": 0.1, "repeat_last_n": 64},
        **{"repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0, "dry_multiplier": 0},
        **{"dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1, "max_tokens": -1},
        "timings_per_token": False,
    }
    assert server.post("/v1/chat/completions", **body).status_code == 200
    refused = server.post("/v1/chat/completions", **body | {"mirostat": 1})
    assert refused.json()["error"]["param"] == "mirostat"


def test_the_prompts_of_all_doors_are_told_in_the_same_form(server):
    """One error for each door, in the form that its clients read."""
    for path in ("/infill", "/v1/responses", "/v1/chat/completions"):
        assert httpx.post(f"{server.url}{path}", json={}).json()["error"]["message"]
    assert isinstance(httpx.post(f"{server.url}/api/chat", json={}).json()["error"], str)
