"""OpenAI's `prediction`: drafts are copied from it, and the answer stays the same."""

import pytest

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Who is there?"}]


def ask(server, **fields):
    body = {"messages": MESSAGES, "max_tokens": 40, "temperature": 0, "stop": []}
    return server.post(CHAT, **{**body, **fields})


@pytest.mark.parametrize("method", ["pld", "eagle2"])
def test_the_answer_stays_the_same_and_comes_in_fewer_passes(server, method):
    asked = {"method": method, "tree": "auto"}
    plain = ask(server, eyas={"method": "autoregressive"}).json()
    text = plain["choices"][0]["message"]["content"]
    for content in (text, [{"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}]):
        given = ask(server, prediction={"type": "content", "content": content}, eyas=asked).json()
        assert given["choices"][0]["message"]["content"] == text
        assert given["metrics"]["speculative_decoding"]["mean_acceptance_length"] > 1
    wrong = ask(server, prediction={"type": "content", "content": "something else"}, eyas=asked).json()
    assert wrong["choices"][0]["message"]["content"] == text


def test_a_method_that_copies_nothing_says_so(server):
    prediction = {"type": "content", "content": "x"}
    for asked in ({"method": "autoregressive"}, {"method": "eagle2", "tree": "auto", "lookup": False}):
        done = ask(server, prediction=prediction, eyas=asked)
        assert done.status_code == 400
        assert "copies from no prediction" in done.json()["error"]["message"]
    assert ask(server, prediction={"type": "other", "content": "x"}).status_code == 400
    assert ask(server, prediction=None).status_code == 200
