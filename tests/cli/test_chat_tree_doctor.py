"""`eyas chat`, `eyas tree`, `eyas doctor`."""

import io
import sys
from xml.etree import ElementTree

import pytest

from eyas import load
from tiny_chat import SHORT

LONG = ("--ignore-eos", *SHORT)


@pytest.fixture
def typed(monkeypatch):
    """What comes over standard input."""

    def type_in(text, terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(text.encode()))
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return type_in


def test_a_piped_conversation(eyas, model, typed):
    typed("one\n\ntwo\n/reset\none\n/exit\nnever\n")
    done = eyas("chat", "--model", model, "--method", "eagle2", *LONG)
    assert done.code == 0
    counts = [line.split()[1] for line in done.err.splitlines() if " tokens in " in line]
    assert counts == ["16", "16", "16"]
    assert "eyas: a new conversation" in done.err
    answer = eyas("generate", "one", "--model", model, "--method", "eagle2", *LONG).out
    assert done.out.startswith(answer)
    assert done.out.endswith(answer)


def test_a_stopped_turn_has_no_answer_but_stays_in_the_conversation(model):
    llm = load(model, runtime="torch", dtype="float32", threads=1)
    conversation = llm.conversation(max_new_tokens=16, ignore_eos=True)
    pieces = [piece.text for piece in conversation.say("one")]
    assert conversation.last.text == "".join(pieces)
    stopped = conversation.say("two")
    said = next(stopped).text
    stopped.close()
    assert conversation.last is None
    assert conversation.messages[-1] == {"role": "assistant", "content": said}
    for _ in conversation.say("three"):
        assert conversation.last is None
    assert conversation.last.stats.new_tokens == 16


def test_an_error_ends_a_piped_conversation(eyas, model, typed):
    typed("x" * 300 + "\n")
    assert "the prompt has" in eyas("chat", "--model", model, "--method", "eagle2", *LONG).error


def test_a_terminal_survives_an_error(eyas, model, typed):
    typed("x" * 300 + "\nhello\n", terminal=True)
    done = eyas("chat", "--model", model, "--method", "eagle2", *LONG)
    assert done.code == 0
    assert "eyas: error: the prompt has" in done.err
    assert "16 tokens" in done.err


def test_ctrl_c_stops_the_answer_only(eyas, model, typed, monkeypatch):
    from eyas.api.llm import AnswerStream

    step, steps = AnswerStream.__next__, []

    def interrupted(stream):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(stream)

    monkeypatch.setattr(AnswerStream, "__next__", interrupted)
    typed("one\ntwo\n")
    done = eyas("chat", "--model", model, "--method", "autoregressive", *LONG)
    assert done.code == 0
    assert done.err.splitlines()[0] == "eyas: stopped"
    assert "16 tokens" in done.err.splitlines()[1]


def test_a_tree_in_text(eyas, model):
    done = eyas("tree", "hello", "--model", model, *LONG, "--draft-tokens", "9")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("after ")
    assert sum("●" in line or "○" in line for line in lines) == 9
    assert sum("◆" in line for line in lines) == 1
    assert lines[-1].startswith("9 of up to 510 candidates kept, ")


def test_a_tree_as_document(eyas, model):
    argv = ("tree", "hello", "--model", model, *LONG, "--draft-tokens", "9", "--json")
    document = eyas(*argv).document
    assert len(document["nodes"]) == 10
    assert len(document["token_ids"]) == len(document["path"])
    later = eyas(*argv, "--cycle", "3").document
    assert later["nodes"][0] != document["nodes"][0] or later["path"] != document["path"]
    answer = eyas("generate", "hello", "--model", model, *LONG, "--json").document["token_ids"]
    assert answer[0] == document["nodes"][0]["token_id"]
    assert answer[1 : 1 + len(document["token_ids"])] == document["token_ids"]


def test_a_tree_as_svg(eyas, model, tmp_path):
    file = tmp_path / "tree.svg"
    done = eyas("tree", "hello", "--model", model, *LONG, "--svg", file)
    assert (done.code, done.out) == (0, "")
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir()] == ["tree.svg"]


def test_an_answer_that_ends_before_the_cycle(eyas, model):
    done = eyas("tree", "hello", "--model", model, *LONG, "--cycle", "99")
    assert done.code == 1
    assert "ended before cycle 99" in done.err


def test_doctor_knows_the_machine(eyas, monkeypatch):
    done = eyas("doctor")
    assert done.code == 0
    for word in ("eyas", "python", "torch", "cpu", "instruction sets", "cache", "threads"):
        assert word in done.out
    document = eyas("doctor", "--json").document
    assert document["cores"] >= 1
    assert document["native_kernels"][-1] == "portable"
    assert document["default_model"] != ""
