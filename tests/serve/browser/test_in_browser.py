"""The page as its user has it: typing, keys, trees, replays, errors, in a real browser."""

import json
import re
from functools import partial

import pytest

pytestmark = pytest.mark.slow

CHAT = "**/v1/chat/completions"
TREE = {"draft_tokens": 12, "depth": 3}
METRICS = 'vllm:num_requests_running{{engine="0"}} {active}\nvllm:generation_tokens_total{{engine="0"}} 5.0\n'


def settle(page, controls):
    """Set controls by name; a size of trees makes them fixed."""
    if controls.keys() & TREE.keys():
        controls = {"tree": "fixed"} | controls
    for name, value in controls.items():
        field = page.locator(f"#controls [name={name}]")
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(str(value))


def ask(page, text, **controls):
    """Send a message, and return the answer's element when it is whole."""
    settle(page, {"max_tokens": 40} | controls)
    page.fill("#prompt", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#turns li:last-child .actions button")
    return page.locator("#turns li").last


def direct(server, *messages, **fields):
    """The same answer from the API."""
    roles = ("user", "assistant")
    chat = [{"role": roles[at % 2], "content": text} for at, text in enumerate(messages)]
    body = server.post("/v1/chat/completions", messages=chat, **{"max_tokens": 40, "temperature": 0} | fields)
    return body.json()["choices"][0]


def run_both(page, text, **controls):
    page.click("#view-compare")
    settle(page, {"max_tokens": 40} | controls)
    page.fill("#compare-prompt", text)
    page.keyboard.press("Enter")


def test_an_answer_comes_in_tinted_pieces(visit, server):
    page = visit()
    page.evaluate(
        """() => {
            window.sizes = new Set();
            new MutationObserver(() => sizes.add(document.querySelectorAll("#turns .text span").length))
                .observe(document.querySelector("#turns"), {childList: true, subtree: true});
        }"""
    )
    answer = ask(page, "Hi", **TREE)
    expected = direct(server, "Hi", eyas=TREE)
    assert answer.locator(".text").text_content() == expected["message"]["content"]
    assert page.evaluate("sizes.size") > 3, "it came bit by bit"
    depths = {token["depth"] for token in expected["eyas"]["tokens"]}
    assert depths > {None}, "something was accepted"
    for depth in depths:
        assert answer.locator(".text ." + ("own" if depth is None else f"d{depth}")).count() > 0
    stats = answer.locator(".stats").text_content()
    assert re.search(r"\d tokens/s", stats)
    assert re.search(r"1\.\d\d tokens a pass", stats)
    cycles = len(direct(server, "Hi", eyas=TREE | {"trace": True})["eyas"]["cycles"])
    assert f"{40 - cycles} of 40 passes saved" in stats
    assert page.locator("#chat .legend .own").is_visible()


def test_a_second_message_knows_the_first(visit, server):
    page = visit()
    first = ask(page, "Hi").locator(".text").text_content()
    second = ask(page, "And?").locator(".text").text_content()
    assert second == direct(server, "Hi", first, "And?")["message"]["content"]
    page.click("#clear")
    assert page.locator("#turns li").count() == 0
    assert ask(page, "Hi").locator(".text").text_content() == first


def test_trees_are_stepped_through(visit, server):
    page = visit()
    answer = ask(page, "Hi", **TREE)
    cycles = direct(server, "Hi", eyas=TREE | {"trace": True})["eyas"]["cycles"]
    place, last = page.locator("#tree-place"), len(cycles) - 1
    assert place.text_content().startswith(f"Cycle {last} of {last}, after")
    page.click("#first")

    def check(cycle):
        tree = cycles[cycle]["tree"]
        assert place.text_content().startswith(f"Cycle {cycle} of {last}, after")
        nodes = {
            kind: page.locator(f"#tree .node.{kind}").count() for kind in ("accepted", "kept", "dropped")
        }
        accepted = len(tree["path"])
        assert nodes == {
            "accepted": accepted,
            "kept": sum(tree["kept"]) - accepted,
            "dropped": tree["kept"].count(False),
        }
        tokens = len(cycles[cycle]["tokens"])
        assert answer.locator(".text .current").count() <= tokens
        assert f"{tokens} token" in page.locator("#tree-caption").text_content()

    check(1)
    assert page.locator("#back").is_disabled()
    page.click("#on")
    check(2)
    page.locator("#tree").focus()
    for key, cycle in (("ArrowRight", 3), ("ArrowLeft", 2), ("End", last), ("ArrowRight", last), ("Home", 1)):
        page.keyboard.press(key)
        check(cycle)
    page.locator("#prompt").focus()
    page.keyboard.press("End")
    check(1)
    answer.locator(".text span[data-cycle='4']").first.click()
    check(4)
    assert "value" in page.locator("#tree .node.kept title").first.text_content()


def test_plain_decoding_has_cycles_without_drafts(visit):
    page = visit()
    ask(page, "Hi", method="autoregressive", max_tokens=5)
    page.click("#first")
    assert "Nothing was drafted here: 1 token" in page.locator("#tree-caption").text_content()
    assert page.locator("#tree .node.bonus").count() == 1


def test_a_link_makes_the_answer_again(visit, server):
    page = visit()
    ask(page, "Hi", temperature=1, seed=5)
    text = ask(page, "More & more?", temperature=1, seed="", **TREE).locator(".text").text_content()
    page.locator("#turns li").last.get_by_text("Copy link").click()
    fragment = "#" + page.url.partition("#")[2]
    assert "seed=" in fragment
    assert "seed=&" not in fragment
    posts = []
    other = visit(fragment)
    other.on("request", lambda request: posts.append(request.method))
    assert "press “Send”" in other.locator("#notice").text_content()
    assert other.locator("#prompt").input_value() == "More & more?"
    assert "POST" not in posts, "a link alone sends nothing"
    other.click("#send")
    other.wait_for_selector("#turns li:last-child .actions button")
    assert other.locator("#turns li").last.locator(".text").text_content() == text
    strange = visit("#user=Hi&method=teleport")
    assert "teleport, which this server does not have" in strange.locator("#notice").text_content()


def test_two_methods_are_replayed_side_by_side(visit, server):
    page = visit()
    run_both(page, "Hi", temperature=1, seed="", **TREE)
    page.wait_for_selector("#replay:not([hidden])")
    status = page.locator("#compare-status").text_content()
    [tokens] = re.findall(r"The ids are equal, all (\d+) of them", status)
    assert "not comparable" not in status
    assert (
        "This is a replay. The answers were computed one after the other, each alone"
        in page.locator(".note").text_content()
    )
    page.get_by_role("button", name="Play again").wait_for()
    texts = page.locator("#pair .text").all_text_contents()
    assert texts[0] == texts[1]
    assert page.locator("#pair h2").all_text_contents()[0].startswith("autoregressive")
    assert f"0 of {tokens} passes saved" in page.locator("#pair .stats").first.text_content()
    page.locator("#time").focus()
    page.keyboard.press("Home")
    shown = page.locator("#pair article").first.locator(".text span:not([hidden])").count()
    assert shown <= 1, "at its beginning a replay shows the first token"
    page.click("#compare-link")
    other = visit("#" + page.url.partition("#")[2])
    other.click("#compare-run")
    other.wait_for_selector("#replay:not([hidden])")
    assert other.locator("#pair .text").first.text_content() == texts[0]


def test_a_replay_wants_an_idle_engine(visit):
    page = visit()
    page.route("**/metrics", lambda route: route.fulfill(body=METRICS.format(active=1)))
    run_both(page, "Hi")
    page.locator("#compare-status", has_text="waiting for the engine").wait_for()
    page.unroute("**/metrics")
    page.route("**/metrics", lambda route: route.fulfill(body=METRICS.format(active=0)))
    page.wait_for_selector("#replay:not([hidden])")
    assert "Other answers were made meanwhile" in page.locator("#compare-status").text_content()
    assert "alone" not in page.locator(".note").text_content()


def answer_with(reply, route):
    if reply is None:
        route.abort()
    else:
        route.fulfill(**reply)


def test_errors_are_sentences(visit):
    page = visit()
    message = page.locator("#turns .error")

    def send():
        page.fill("#prompt", "Hi")
        page.click("#send")
        return message.last

    page.fill("[name=max_tokens]", "9999")
    refused = send()
    refused.wait_for()
    assert re.fullmatch(r"The server refused this: max_tokens is 9999, but .*", refused.text_content())
    assert page.locator("#prompt").input_value() == "Hi", "the message is not lost"
    page.fill("[name=max_tokens]", "30")

    first = {"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": None}]}
    first["choices"][0]["eyas"] = {
        "tokens": [{"id": 1, "text": "A", "depth": None}],
        "tree": None,
        "seconds": 0.1,
    }
    first["eyas"] = {"method": "eagle2", "seed": 1}
    broken = {"error": {"message": "the server is about to end."}}
    events = "".join(f"data: {json.dumps(document)}\n\n" for document in (first, broken)) + "data: [DONE]\n\n"
    expected = [
        (
            {"body": events, "content_type": "text/event-stream"},
            "The answer broke off: the server is about to end.",
        ),
        (
            {"body": f"data: {json.dumps(first)}\n\n"},
            "The answer broke off: the connection to the server ended.",
        ),
        ({"status": 502, "body": "<html>"}, "The server failed: it answered with status 502."),
        (None, "The server cannot be reached. Is it still running?"),
    ]
    for count, (reply, sentence) in enumerate(expected, start=1):
        page.route(CHAT, partial(answer_with, reply))
        send()
        message.nth(count).wait_for()
        assert message.last.text_content() == sentence
        page.unroute(CHAT)
    page.route(CHAT, partial(answer_with, None))
    run_both(page, "Hi")
    page.wait_for_selector("#compare-status.error")
    assert "cannot be reached" in page.locator("#compare-status").text_content()


def test_an_answer_can_be_stopped(visit):
    page = visit()
    page.route(CHAT, lambda route: None)  # never answered
    page.fill("#prompt", "Hi")
    page.click("#send")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    assert page.locator(".error").count() == 0


def test_a_key_is_asked_for_and_kept_in_memory_only(visit, locked_server):
    page = visit(at=locked_server)
    notice = page.locator("#notice")
    assert page.locator("#key").is_visible()
    page.fill("#key-input", "wrong")
    page.keyboard.press("Enter")
    notice.wait_for()
    assert notice.text_content() == "That key is wrong."
    page.fill("#key-input", "s3cret")
    page.keyboard.press("Enter")
    page.locator("#key").wait_for(state="hidden")
    assert ask(page, "Hi").locator(".text").text_content()
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert "s3cret" not in page.evaluate(kept)


def test_a_phone_scrolls_one_way_only(visit):
    page = visit(viewport={"width": 375, "height": 800})
    settle(page, TREE)
    ask(page, "Hi")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    run_both(page, "Hi")
    page.wait_for_selector("#replay:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_dark_and_light_are_the_systems_choice(visit):
    page, brightness = visit(), {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        shade = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        brightness[scheme] = sum(map(int, re.findall(r"\d+", shade)))
    assert brightness["light"] > 700
    assert brightness["dark"] < 90


def test_the_policy_stops_what_the_watch_looks_for(browser, server):
    page = browser.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(server.url)
    stopped = page.evaluate(
        """async () => {
            const stopped = [];
            const note = (event) => stopped.push(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", note);
            const style = Object.assign(document.createElement("style"), {textContent: "p {color: red}"});
            document.head.append(style);
            await fetch("https://elsewhere.invalid/").catch(() => {});
            try { document.body.innerHTML = "<p>"; } catch {}
            await new Promise((resolve) => setTimeout(resolve, 50));
            return stopped;
        }"""
    )
    assert {"style-src-elem", "connect-src", "require-trusted-types-for"} <= set(stopped)
    assert len([text for text in complaints if "Content Security Policy" in text]) >= 2
    page.close()
