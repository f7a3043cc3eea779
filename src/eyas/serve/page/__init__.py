"""The page at `/`: files of this folder, read once. No part of a request names a file to open."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

INDEX = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# The page loads from its own server and nowhere else, runs no code or style but that of its files, makes
# no markup of strings, and cannot be framed by another page.
POLICY = "; ".join(
    (
        *("default-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        *("object-src 'none'", "require-trusted-types-for 'script'"),
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def _read() -> dict[str, tuple[bytes, str]]:
    """Content and type of each file, by its path on the server."""
    found = {}
    for file in sorted(files(__package__).iterdir(), key=lambda file: file.name):
        media_type = TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            path = "/" if file.name == INDEX else f"/page/{file.name}"
            found[path] = (file.read_bytes(), media_type)
    return found


PAGE = _read()
PATHS = tuple(PAGE)  # public: a page that asks for a key must itself be readable without one


def add_page(app: FastAPI) -> None:
    """Serve the page's files."""
    for path in PATHS:
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(_sender(path))


def _sender(path: str) -> Callable[[], Awaitable[Response]]:
    content, media_type = PAGE[path]

    async def send() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return send
