"""From the engine's thread into the event loop: news of answers, until nobody listens any more."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from eyas.serve.jobs import Update

Result = TypeVar("Result")
DONE = "data: [DONE]\n\n"


class ClientLeftError(Exception):
    """The client closed its connection."""


class Channel:
    """Updates of a request's jobs, in the order in which they come. Made and read in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[tuple[int, Update]] = asyncio.Queue()

    def receiver(self, index: int) -> Callable[[Update], None]:
        """Takes the updates of job `index`, on any thread."""

        def deliver(update: Update) -> None:
            with suppress(RuntimeError):  # the loop has ended, and so has whoever listened
                self._loop.call_soon_threadsafe(self._news.put_nowait, (index, update))

        return deliver

    async def updates(self, jobs: int) -> AsyncIterator[tuple[int, Update]]:
        """(job, update) until all jobs have ended; raises the error of the first that fails."""
        while jobs:
            index, update = await self._news.get()
            if update.error is not None:
                raise update.error
            jobs -= update.is_last
            yield index, update


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, or ClientLeftError as soon as the client has left; the work is stopped then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeftError
    finally:
        for task in (working, leaving):
            task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events. However it ends, `at_end` is called: a client may leave between two of them."""

    def __init__(self, events: AsyncIterator[str], at_end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_end()


def event(document: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {dump(document)}\n\n"


def dump(document: dict[str, Any]) -> str:
    """JSON as short as it gets, without what is no JSON."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
