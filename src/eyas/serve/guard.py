"""The first checks of every request: its id, the API key, the size of its body."""

import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyas.serve.errors import ApiError, error_response

OPEN = ("/health", "/ready", "/version", "/metrics")  # without a key
_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")


class Guard:
    """Pure ASGI, so that streams and disconnects pass untouched.

    Args:
        api_key: required in `Authorization: Bearer`; None requires none.
        max_body_bytes: larger bodies are refused, with or without a Content-Length.
        open_paths: paths that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        max_body_bytes: int,
        open_paths: tuple[str, ...] = OPEN,
    ) -> None:
        self._app = app
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._max_body_bytes = max_body_bytes
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _ID.fullmatch(given) else secrets.token_hex(12)
        scope["request_id"] = request_id

        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": [*message["headers"], (b"x-request-id", request_id.encode())],
                }
            await send(message)

        try:
            self._check(scope["path"], headers)
        except ApiError as error:
            await error_response(error, HTTPConnection(scope))(scope, receive, named_send)
            return
        await self._app(_declared(scope, headers), self._counted(receive), named_send)

    def _check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self._authorization is not None and path not in self._open_paths:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):  # in constant time
                raise ApiError(
                    "the API key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                    status=401,
                    code="invalid_api_key",
                )
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size[:20]) > self._max_body_bytes:
            raise ApiError(self._too_large, status=413, code="body_too_large")

    def _counted(self, receive: Receive) -> Receive:
        """`receive` that refuses a body without a Content-Length once it is too large."""
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return counted

    @property
    def _too_large(self) -> str:
        return f"the body is larger than the limit of {self._max_body_bytes} bytes; send less."


def _declared(scope: Scope, headers: Mapping[bytes, bytes]) -> Scope:
    """A request to Ollama's routes with its body declared as JSON: their clients often leave that out.

    Not what a page sends, which always names its origin: other sites must not ask without being asked.
    """
    if not scope["path"].startswith("/api/") or b"origin" in headers:
        return scope
    kept = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*kept, (b"content-type", b"application/json")]}
