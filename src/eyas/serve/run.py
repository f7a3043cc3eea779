"""Runs the application on uvicorn until a signal ends it; answers under way may finish first."""

import asyncio
import ctypes
import math
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from eyas.api.llm import LLM
from eyas.errors import ConfigError
from eyas.serve.app import create_app
from eyas.serve.logs import set_up_logs
from eyas.serve.settings import ServeSettings

# mallopt(3) of glibc
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
CUT_OFF_SECONDS = 5  # that answers have to end with an error, until their connections are aborted
LARGE_BLOCK = 256 * 1024  # bytes: every cache is larger, most of what a cycle allocates is smaller


def serve(llm: LLM, settings: ServeSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then nothing new is taken, and running answers get `drain` seconds.

    Raises:
        ConfigError: the address cannot be used, or a limit lets nothing through.
    """
    server = make_server(llm, settings)
    with _bind(settings.host, settings.port) as listener:
        give_back_freed_memory()
        set_up_logs()
        announce(_url(listener))
        # uvicorn raises the signal again once it has ended, which should not kill an orderly exit.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])


class DrainingServer(uvicorn.Server):
    """Ends in steps: after `drain` seconds running answers end with an error, not in mid-line.

    After `CUT_OFF_SECONDS` more, the connections of clients that do not read even that are closed.
    """

    def __init__(self, config: uvicorn.Config, drain: float, cut_off: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._cut_off = cut_off

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end, then end."""
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(self._drain, self._cut_off),
            loop.call_later(self._drain + CUT_OFF_SECONDS, self._abort),
        ]
        try:
            await super().shutdown(sockets)
        finally:
            for timer in timers:
                timer.cancel()

    def _abort(self) -> None:
        """Close the connections; their answers end as those of clients that have left."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def make_server(llm: LLM, settings: ServeSettings) -> uvicorn.Server:
    """The HTTP server, not yet running."""
    app = create_app(llm, settings)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain) + 2 * CUT_OFF_SECONDS,  # should never be needed
    )
    return DrainingServer(config, settings.drain, app.state.service.scheduler.cut_off)


def give_back_freed_memory() -> None:
    """Return the memory of freed caches to the system at once, where the C library is glibc.

    By default glibc raises the size from which it maps blocks one by one to the largest block that was freed,
    and gives each thread a heap of its own: answers of different lengths then fragment it, and resident
    memory grows.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        libc.mallopt(M_ARENA_MAX, 1)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}); choose another --port or "
            "--host."
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
