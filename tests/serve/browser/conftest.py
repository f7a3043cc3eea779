"""Chromium in front of a tiny model's server. Every page is watched: it asks its own server alone, breaks no
policy and throws nothing."""

import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        # Chromium refuses its sandbox to root.
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def locked_server(llm):
    from serving import Server

    running = Server(llm, api_key="s3cret")
    yield running
    running.stop()


class Watched:
    """A page, and what it did that it should not."""

    def __init__(self, page, origin):
        self.page = page
        self.origins, self.complaints = set(), []
        page.on(
            "request",
            lambda request: self.origins.add("{0.scheme}://{0.netloc}".format(urlsplit(request.url))),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._read)
        self._origin = origin

    def _read(self, message):
        # A refused request is the server's answer, and shown to the user; anything else is our fault.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def check(self):
        assert self.origins == {self._origin}
        assert not self.complaints


@pytest.fixture
def visit(browser, server):
    """Open the page: `visit(fragment)`, or with another server or browser settings."""
    contexts, watched = [], []

    def open_page(fragment="", *, at=server, **settings):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | settings))
        context.set_default_timeout(30_000)
        contexts.append(context)
        watched.append(Watched(context.new_page(), at.url))
        page = watched[-1].page
        page.goto(f"{at.url}/{fragment}")
        page.locator("#model", has_text="connecting").wait_for(state="detached")
        return page

    yield open_page
    for one in watched:
        one.check()
    for context in contexts:
        context.close()
