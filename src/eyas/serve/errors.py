"""Errors in OpenAI's format: {"error": {"message", "type", "param", "code"}}. Ollama's are messages."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from eyas.errors import CapacityError, DraftError, EyasError
from eyas.serve.queue import DeadlineError, DrainingError, QueueFullError

CLIENT_LEFT = 499  # as nginx logs a client that closed its connection


class ApiError(EyasError):
    """A request that cannot be answered."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def describe(error: Exception, request_id: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error. An internal error is described by its request id only."""
    message, param, headers = str(error), None, dict[str, str]()
    match error:
        case ApiError():
            status, code, param = error.status, error.code, error.param
        case QueueFullError():
            status, code, headers = 429, "queue_full", {"Retry-After": str(error.retry_after)}
        case DrainingError():
            status, code, headers = 503, "draining", {"Retry-After": "1"}
        case DeadlineError():
            status, code = 504, "deadline_exceeded"
        case DraftError():
            status, code = 500, "draft_error"
        case CapacityError():
            status, code = 400, "context_length_exceeded"
        case EyasError():
            status, code = 400, "invalid_value"
        case _:
            status, code = 500, "internal_error"
            message = f"internal error; the server's log has the details under {request_id}."
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"message": message, "type": kind, "param": param, "code": code, "request_id": request_id}
    return status, {"error": body}, headers


_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


def error_response(error: Exception, connection: HTTPConnection) -> Response:
    """The whole response for an error."""
    status, body, headers = describe(error, request_id(connection))
    if connection.scope.get("path", "").startswith("/api/"):
        body = of_ollama(body)
    # ASCII: a message may quote what a client sent, lone surrogates included.
    return Response(json.dumps(body), status, headers, media_type="application/json")


def of_ollama(body: dict[str, Any]) -> dict[str, Any]:
    """An error's body as Ollama's clients read it."""
    return {"error": body["error"]["message"], "request_id": body["error"]["request_id"]}


def of_http(error: HTTPException) -> ApiError:
    """An unknown route or method, or a body that could not be read."""
    match error.__cause__:  # of reading a body
        case UnicodeDecodeError():
            return _not_json("not UTF-8")
        case RecursionError():
            return _not_json("nested too deeply")
        case ValueError():
            return _not_json("a number with too many digits")
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(str(error.detail), status=error.status_code, code=code)


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body."""
    first = error.errors()[0]
    param = ".".join(_place(first["loc"], error.body, is_missing=first["type"] == "missing")) or None
    context = first.get("ctx") or {}
    match first["type"]:
        case "unsupported" | "together":
            return ApiError(first["msg"], param=str(context["name"]), code=first["type"])
        case "extra_forbidden":
            return ApiError(
                f"{param} is not a field of this request; leave it out.", param=param, code="unknown"
            )
        case "json_invalid":
            return _not_json(context.get("error", first["msg"]))
        case "missing" if param is None:
            return ApiError("the request has no JSON body.", code="missing")
    return ApiError(f"{param or 'the body'}: {first['msg']}.", param=param, code="invalid_value")


def _not_json(reason: str) -> ApiError:
    return ApiError(f"the body is not JSON ({reason}); send one JSON object in UTF-8.", code="json_invalid")


def _place(location: Sequence[Any], body: Any, *, is_missing: bool) -> list[str]:
    """The keys and indices of a location that lead through the body, without pydantic's names of unions."""
    place = []
    for part in location:
        if (isinstance(body, dict) and part in body) or (isinstance(body, list) and isinstance(part, int)):
            place.append(str(part))
            body = body[part]
    return [*place, str(location[-1])] if is_missing and len(location) > 1 else place


def request_id(request: HTTPConnection) -> str:
    """The id that the middleware gave a request."""
    return str(request.scope.get("request_id", "unknown"))
