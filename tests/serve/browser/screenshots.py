"""Takes the pictures of docs/img: the page of a server with the default model, one question by two methods.

`python tests/serve/browser/screenshots.py`, on a machine that is otherwise idle: the pictures show times.
"""

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from conftest import CHROMIUM

IMAGES = Path(__file__).parents[3] / "docs/img"
QUESTION = "Name three rivers in Europe."
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 812}
PATIENCE = 600_000  # milliseconds


def wait_until_ready(server):
    """Where the server listens, once it answers at full speed."""
    for line in server.stderr:
        if found := re.search(r"serving on (\S+);", line):
            url = found[1]
        elif '"ready"' in line:
            return url
    sys.exit("the server ended")


def open_page(browser, url, scheme):
    page = browser.new_context(viewport=DESK, color_scheme=scheme).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.locator("#model", has_text="connecting").wait_for(state="detached")
    page.fill("[name=max_tokens]", "80")
    page.select_option("[name=tree]", "fixed")
    page.fill("[name=draft_tokens]", "15")
    page.fill("[name=depth]", "4")
    return page


def take(page, name):
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)


def show_tree(browser, url):
    """One answer and a tree of it, on a desk and on a phone."""
    page = open_page(browser, url, "light")
    page.fill("#prompt", QUESTION)
    page.click("#send")
    page.locator(".actions button").first.wait_for()
    page.click("#first")
    page.click("#on")
    take(page, "page-light")
    page.set_viewport_size(PHONE)
    take(page, "page-phone")


def show_replay(browser, url):
    """The same question by two methods, in the middle of the replay."""
    page = open_page(browser, url, "dark")
    page.click("#view-compare")
    page.fill("#compare-prompt", QUESTION)
    page.click("#compare-run")
    page.locator("#replay").wait_for()
    page.locator("#time").evaluate(
        "slider => { slider.value = slider.max * 0.45; slider.dispatchEvent(new Event('input')); }"
    )
    take(page, "page-dark")


def main():
    command = [sys.executable, "-m", "eyas", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = wait_until_ready(server)
            with sync_playwright() as running:
                browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                show_tree(browser, url)
                show_replay(browser, url)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
