"""From the engine's thread into the event loop: pieces of answers, until their client has gone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from eyas.engine.cycle import Piece

Result = TypeVar("Result")
EVENTS, LINES = "text/event-stream", "application/x-ndjson"  # the forms of a stream
DONE = "data: [DONE]\n\n"


class ClientLeftError(Exception):
    """The client closed its connection."""


class Channel:
    """Pieces of a request's answers, in the order in which they come. Made and read in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    def receiver(self, index: int) -> Callable[[Piece | Exception], None]:
        """Takes the pieces of answer `index`, and the error that ends it early; on any thread."""

        def deliver(outcome: Piece | Exception) -> None:
            with suppress(RuntimeError):  # the event loop has ended, and the client with it
                self._loop.call_soon_threadsafe(self._news.put_nowait, (index, outcome))

        return deliver

    def close(self) -> None:
        """Let the pieces end with those that have come."""
        self._news.put_nowait((0, None))

    async def pieces(self, answers: int) -> AsyncIterator[tuple[int, Piece]]:
        """(answer, piece) until so many answers have ended; raises the error of the first that fails."""
        while answers:
            index, outcome = await self._news.get()
            if outcome is None:
                return
            if isinstance(outcome, Exception):
                raise outcome
            answers -= outcome.finish_reason is not None
            yield index, outcome


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; once the client has left, the work is cancelled and ClientLeftError raised."""
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


class AnswerStream(StreamingResponse):
    """An answer in parts. `at_end` is called however the stream ends, also when the client leaves."""

    def __init__(self, parts: AsyncIterator[str], media_type: str, at_end: Callable[[], None]) -> None:
        super().__init__(parts, media_type=media_type, headers={"Cache-Control": "no-cache"})
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_end()


def event(document: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {dump(document)}\n\n"


def line(document: dict[str, Any]) -> str:
    """One line of JSON."""
    return f"{dump(document)}\n"


def dump(document: dict[str, Any]) -> str:
    """Compact JSON; NaN and infinity are errors."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
