"""Odd requests made from the OpenAPI document: whatever comes, the server answers and stays well."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

SIZES = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)

DOORS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate")
WELL = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def statuses(operation):
    """The statuses that odd requests to one route get."""
    seen = set()

    @SIZES
    @given(case=operation.as_strategy())
    def ask(case):
        response = case.call(timeout=60)
        assert response.status_code < 500, response.text
        seen.add(response.status_code)

    ask()
    return seen


def test_no_request_breaks_the_server(server):
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = {found.ok().label: statuses(found.ok()) for found in document.get_all_operations()}
    assert 200 in set().union(*(seen[f"POST {path}"] for path in DOORS))
    server.settle()
    assert server.http.get("/health").status_code == 200
    assert server.post("/v1/chat/completions", **WELL).status_code == 200
    assert server.post("/v1/responses", model="default", input="x", max_output_tokens=2).status_code == 200
