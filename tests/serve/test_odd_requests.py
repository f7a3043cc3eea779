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
    assert 200 in seen["POST /v1/chat/completions"] | seen["POST /v1/completions"]
    server.settle()
    assert server.http.get("/health").status_code == 200
