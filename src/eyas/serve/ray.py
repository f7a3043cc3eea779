"""`eyas serve` as a Ray Serve application: replicas, autoscaling, and requests that survive a replica.

    serve run eyas.serve.ray:app model=path/to/model.gguf
    serve run docs/ray.yaml

Each replica is a whole server of one process (`eyas.serve.app`), spoken to in ASGI. Before them stands a
front that passes a request on and, if the replica dies before the answer has begun, passes it to another.
"""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from eyas.api.llm import load
from eyas.serve.app import create_app
from eyas.serve.channel import DONE, EVENTS, LINES, event, line
from eyas.serve.errors import describe, error_response, of_ollama
from eyas.serve.queue import DrainingError
from eyas.serve.ray_options import RayOptions

STREAMS = (EVENTS.encode(), LINES.encode())
ATTEMPTS = 5  # replicas that a request is passed to at most
LOST = "the replica that wrote this answer has died; ask again."

Message = dict[str, Any]  # of ASGI


class Replica:
    """One loaded model in one process."""

    async def __init__(self, options: RayOptions) -> None:  # type: ignore[misc]  # Ray awaits it
        llm = load(**options.to_load())
        self._app = create_app(llm, options.to_settings())
        await self._app.state.service.start()

    async def check_health(self) -> None:
        """Ray replaces a replica whose engine has died."""
        if not self._app.state.service.scheduler.is_alive:
            raise RuntimeError("the engine's thread has ended")

    async def respond(self, scope: Message, body: bytes) -> AsyncIterator[Message]:
        """The application's messages for one request. Closing the iterator is the client's leaving."""
        messages: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()
        left, is_read = asyncio.Event(), False

        async def receive() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        work = asyncio.create_task(self._app({**scope, "app": self._app}, receive, messages.put))
        work.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield dict(message)
            await work
        finally:
            left.set()


class Front:
    """Passes requests to replicas."""

    def __init__(self, replicas: DeploymentHandle, max_body_bytes: int) -> None:
        self._respond = replicas.options(stream=True, method_name="respond")
        self._max_body_bytes = max_body_bytes

    async def __call__(self, request: Request) -> Response:
        """Answer, by whichever replica lives long enough to begin."""
        scope, body = _plain_scope(request), await self._body(request)
        for _ in range(ATTEMPTS):
            messages = self._respond.remote(scope, body)
            try:
                start = await anext(messages)
                first = await anext(messages)
                if not _is_stream(start):
                    parts = [first, *[message async for message in messages]]
                    return _response(start, b"".join(part.get("body", b"") for part in parts))
            except RayActorError:
                continue
            return _response(start, _parts(start, first, messages))
        return error_response(DrainingError("no replica could answer; ask again."), request)

    async def _body(self, request: Request) -> bytes:
        """The body, or just too much of it: the replica refuses that."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > self._max_body_bytes:
                break
        return body


def _plain_scope(request: Request) -> Message:
    """What of an ASGI scope can travel to another process."""
    kept = (
        "type",
        "http_version",
        "method",
        "scheme",
        "path",
        "raw_path",
        "query_string",
        "root_path",
        "headers",
    )
    scope: Message = {key: request.scope[key] for key in kept if key in request.scope}
    scope["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    scope["client"] = tuple(request.client) if request.client else None
    return scope | {"asgi": {"version": "3.0", "spec_version": "2.3"}}


def _is_stream(start: Message) -> bool:
    return _content_type(start).startswith(STREAMS)


def _content_type(start: Message) -> bytes:
    return next((bytes(value) for name, value in start["headers"] if name == b"content-type"), b"")


def _response(start: Message, body: bytes | AsyncIterator[bytes]) -> Response:
    status = start["status"]
    response = Response(body, status) if isinstance(body, bytes) else StreamingResponse(body, status)
    response.raw_headers = list(start["headers"])
    return response


async def _parts(start: Message, first: Message, messages: Any) -> AsyncIterator[bytes]:
    """The parts of a stream. One whose replica dies ends with an error that says so."""
    try:
        yield first.get("body", b"")
        async for message in messages:
            yield message.get("body", b"")
    except RayActorError:
        document = describe(DrainingError(LOST), "unknown")[1]
        is_lines = _content_type(start).startswith(LINES.encode())
        yield (line(of_ollama(document)) if is_lines else event(document) + DONE).encode()
    finally:
        messages.cancel()


def app(options: RayOptions) -> Application:
    """What `import_path: eyas.serve.ray:app` names; numbers of replicas stand in Ray's own configuration."""
    settings = options.to_settings()
    waiting = settings.max_concurrent + settings.max_queue
    number = {} if options.replicas is None else {"num_replicas": options.replicas}
    replica = serve.deployment(Replica, name="Replica", max_ongoing_requests=waiting, **number)
    front = serve.deployment(Front, name="Front", max_ongoing_requests=1000)
    return front.bind(replica.bind(options), settings.max_body_bytes)
