"""Chromium in front of a tiny model's server. Every page is watched: it asks its own server alone, breaks no
policy and throws nothing."""

import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # serving.py

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


@pytest.fixture(scope="session")
def llm(browser, tmp_path_factory):
    """A random model with a random head; costs are given, so that nothing is measured."""
    import eyas
    from eyas.runtimes.native import is_built
    from fake import FAST
    from tiny_chat import write_chat_model

    directory = write_chat_model(tmp_path_factory.mktemp("models") / "tiny", head=True)
    kind = (
        {"runtime": "native", "dtype": "float32"} if is_built() else {"runtime": "torch", "dtype": "float64"}
    )
    loaded = eyas.load(directory, threads=1, **kind)
    loaded.loaded("eagle2")._costs = FAST
    return loaded


@pytest.fixture(scope="session")
def server(llm):
    from serving import Server

    running = Server(llm)
    yield running
    running.stop()


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
