"""`eyas generate`: text on stdout, one statistics line on stderr, or one document."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from eyas.api.llm import load
from eyas.cli.output import write_json
from eyas.errors import ConfigError
from tiny_chat import SHORT, write_chat_model

STATS = {
    *("new_tokens", "cycles", "target_forwards", "draft_forwards", "draft_tokens", "acceptance_length"),
    *("accepted_by_depth", "drafted_by_depth", "prefill_seconds", "decode_seconds", "tokens_per_second"),
}
STATISTICS = re.compile(
    r"eyas: \d+ tokens in \d+ cycles, acceptance length \d\.\d\d, [\d.]+ tokens/s, \w+ on torch float64"
)
LONG = ("--ignore-eos", *SHORT)


def test_text_goes_to_stdout_and_one_line_to_stderr(eyas, model):
    done = eyas("generate", "hello", "--model", model, "--method", "eagle2", *LONG)
    assert done.code == 0
    assert done.out.endswith("\n")
    [line] = done.err.splitlines()
    assert STATISTICS.match(line)
    assert line.endswith("eagle2 on torch float64, head checked by shapes only")


def test_auto_says_what_it_took_and_how_to_get_a_head(eyas, model, bare_model):
    done = eyas("generate", "hello", "--model", model, *LONG)
    assert done.err.splitlines()[0] == f"eyas: method eagle2, with the head in {model / 'head'}"
    done = eyas("generate", "hello", "--model", bare_model, *LONG)
    first, second = done.err.splitlines()
    assert "method pld, which repeats earlier text: no draft head" in first
    assert "eyas train eagle" in first
    assert STATISTICS.match(second)
    assert "shapes" not in second


def test_the_document_has_every_key(eyas, model):
    done = eyas("generate", "hello", "--model", model, "--json", *LONG, "--temperature", "0.7")
    assert done.code == 0
    assert done.out.count("\n") == 1
    document = done.document
    assert set(document) == {"text", "prompt_token_ids", "token_ids", "finish_reason", "stats", "config"}
    assert set(document["stats"]) >= STATS
    assert document["stats"]["new_tokens"] == len(document["token_ids"]) == 16
    assert document["finish_reason"] == "length"
    config = document["config"]
    assert config["method"] == "eagle2"
    assert config["temperature"] == 0.7
    assert isinstance(config["seed"], int)
    assert config["draft_tokens"] == 59
    again = eyas(
        "generate",
        "hello",
        "--model",
        model,
        "--json",
        *LONG,
        "--temperature",
        "0.7",
        "--seed",
        config["seed"],
    )
    assert again.document["token_ids"] == document["token_ids"]


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_methods_print_the_same_text(eyas, model, temperature):
    argv = ("generate", "hello", "--model", model, *LONG, "--temperature", temperature, "--seed", "5")
    texts = {eyas(*argv, "--method", method).out for method in ("autoregressive", "eagle2")}
    assert len(texts) == 1


def test_standard_input_is_the_prompt(eyas, model, monkeypatch):
    wanted = eyas("generate", "how\nmany", "--model", model, *LONG).out
    for argv in (["-"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"how\nmany\n")))
        assert eyas("generate", *argv, "--model", model, *LONG).out == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert "not UTF-8 at byte 3" in eyas("generate", "-", "--model", model).error


def test_several_answers_are_told_apart(eyas, model):
    argv = ("generate", "hello", "--model", model, *LONG, "--temperature", "1", "--seed", "1")
    alone = eyas(*argv).out
    done = eyas(*argv, "--n", "2")
    assert done.out.startswith(f"--- answer 1 of 2 ---\n{alone}--- answer 2 of 2 ---\n")
    assert "32 tokens" in done.err
    document = eyas(*argv, "--n", "2", "--json").document
    assert len(document["choices"]) == 2
    assert document["choices"][0]["token_ids"] == document["token_ids"]


def test_log_probabilities_stand_beside_the_text(eyas, model):
    argv = ("generate", "hello", "--model", model, *LONG, "--logprobs", "2")
    done = eyas(*argv)
    assert len(done.err.splitlines()) == 1 + 1 + 16
    rows = eyas(*argv, "--json").document["logprobs"]
    assert len(rows) == 16
    assert all(len(row["top"]) == 2 and row["logprob"] <= 0 for row in rows)
    assert len(eyas(*argv, "--n", "2").err.splitlines()) == 1 + 1 + 2 * 16


def test_raw_and_system_change_the_prompt(eyas, model):
    def prompt(*argv):
        return eyas("generate", "hi", "--model", model, *SHORT, "--json", *argv).document["prompt_token_ids"]

    assert len(prompt("--raw")) == 2
    assert len(prompt()) == 4
    assert len(prompt("--system", "abc")) == 8


def test_aliases_are_announced_and_resolved(eyas, model):
    argv = ("--total-token", "8", "--ea-depth", "2", "--ea-top-k", "4")
    done = eyas("generate", "hi", "--model", model, *SHORT, "--json", "--method", "eagle2", *argv)
    config = done.document["config"]
    assert [config[name] for name in ("draft_tokens", "depth", "tree_top_k")] == [7, 3, 4]
    assert "--total-token 8 is --draft-tokens 7" in done.err


def test_ctrl_c_stops_and_keeps_what_was_said(eyas, model, monkeypatch):
    from eyas.api.llm import AnswerStream

    step, steps = AnswerStream.__next__, []

    def interrupted(stream):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(stream)

    monkeypatch.setattr(AnswerStream, "__next__", interrupted)
    done = eyas("generate", "hi", "--model", model, "--method", "autoregressive", *LONG)
    assert done.code == 130
    assert done.err.startswith("eyas: interrupted after 3 tokens")
    assert done.out.endswith("\n")
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(command, model):
    process = command("generate", "hi", "--model", model, *LONG, "--n", "40")
    process.stdout.close()
    assert process.wait(timeout=240) == 141
    assert b"Traceback" not in process.stderr.read()


def redirected(redirection, *argv):
    """A command whose streams the shell has changed."""
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "eyas", *map(str, argv)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "answer", "notes"),
    [
        pytest.param("<&-", True, True, id="stdin"),
        pytest.param(">&-", False, True, id="stdout"),
        pytest.param("2>&-", True, False, id="stderr"),
        pytest.param("2>/dev/full", True, False, id="stderr-full"),
    ],
)
def test_what_the_caller_has_closed_is_no_error(model, redirection, answer, notes):
    done = redirected(redirection, "generate", "hi", "--model", model, *LONG)
    assert (done.returncode, bool(done.stdout), bool(done.stderr)) == (0, answer, notes)


def test_a_closed_standard_input_holds_no_prompt(model):
    done = redirected("<&-", "generate", "-", "--model", model)
    assert (done.returncode, done.stderr) == (2, "eyas: error: the prompt is empty; give it some text.\n")


def test_signs_that_stdout_lacks_are_escaped_in_a_document(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    write_json({"text": "größer 🦅"})
    assert json.loads(stream.buffer.getvalue()) == {"text": "größer 🦅"}


def test_a_bug_keeps_its_traceback(eyas, monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr("eyas.cli.generate.load_llm", broken)
    with pytest.raises(ZeroDivisionError):
        eyas("generate", "hi")


def test_a_full_disk_is_one_line(eyas, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("eyas.cli.generate.load_llm", full)
    assert eyas("generate", "hi").error == "eyas: error: /tmp/x: No space left on device; free some space."


def test_version_and_help(eyas, capsys):
    assert eyas("--version").out.startswith("eyas 0.")
    done = eyas("--help")
    assert done.code == 0
    assert "generate" in done.out


def test_many_prompts_are_answered_as_each_alone(model):
    import eyas as package

    llm = package.load(model=str(model), dtype="float64", threads=1)
    options = {"temperature": 1.0, "seed": 3, "n": 2, "max_new_tokens": 12, "stop": ["x"]}
    prompts = ["hello", "tides and the moon", "a"]
    for prompt, answer in zip(prompts, llm.generate_many(prompts, batch_size=2, **options), strict=True):
        alone = llm.generate(prompt, **options)
        assert [(c.text, c.token_ids) for c in answer.choices] == [
            (c.text, c.token_ids) for c in alone.choices
        ]
    with pytest.raises(package.EyasError, match="batch_size is 0"):
        llm.generate_many(prompts, batch_size=0)
    with pytest.raises(package.EyasError, match="the prompts are one string"):
        llm.generate_many("hello")


@pytest.fixture(scope="module")
def llm(model):
    import eyas as package

    return package.load(model=str(model), runtime="native", dtype="float32", threads=1)


def test_a_prompt_may_be_an_array_of_token_ids(llm):
    ids = llm.prompt_ids("hello")
    assert llm.prompt_ids(np.array(ids)) == ids


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        (b"hello", "the prompt is of type bytes"),
        (5, "the prompt is of type int"),
        (["hello", "there"], "the prompt's list holds str; .* generate_many"),
        ([5, {"role": "user", "content": "a"}], "the prompt's list holds dict, int"),
    ],
    ids=str,
)
def test_what_is_no_prompt(llm, prompt, message):
    with pytest.raises(ConfigError, match=message):
        llm.generate(prompt)


@pytest.mark.parametrize("option", ["depth", "draft_tokens", "rerank"])
def test_options_of_a_tree_that_a_method_does_not_grow(llm, option):
    settings = {"max_new_tokens": 2, option: option != "rerank" and 3}
    assert llm.generate("hello", method="eagle2", **settings).token_ids
    for method in ("pld", "eagle", "autoregressive"):
        with pytest.raises(ConfigError, match=f"{option} is not an option of {method}"):
            llm.generate("hello", method=method, **settings)


def test_a_system_message_goes_before_a_string_only(llm):
    with pytest.raises(ConfigError, match="system goes before a string"):
        llm.generate([{"role": "user", "content": "hello"}], system="Be brief.")
    conversation = llm.conversation(system="Be brief.", max_new_tokens=4)
    assert [*conversation.say("hello")]


def test_a_stream_has_its_answer_at_the_end(llm):
    stream = llm.stream("hello", max_new_tokens=8, ignore_eos=True)
    for _ in range(2):
        with pytest.raises(ConfigError, match="the answer has not ended"):
            _ = stream.answer
        next(stream)
    stream.close()
    with pytest.raises(ConfigError, match="closed before the answer ended"):
        _ = stream.answer


def test_a_conversation_answers_one_turn_at_a_time(llm):
    conversation = llm.conversation(max_new_tokens=8, ignore_eos=True)
    first = conversation.say("one")
    next(first)
    with pytest.raises(ConfigError, match="still coming"):
        next(conversation.say("two"))
    first.close()
    assert [*conversation.say("two")]
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_names_of_control_tokens_are_text_and_it_says_so(eyas, model, raw):
    words = ("generate", "a</s>b</s>", "--model", model, "--json", *raw, *SHORT)
    done = eyas(*words)
    assert 2 not in json.loads(done.out)["prompt_token_ids"]
    assert "the prompt spells </s>: taken as text; --parse-special makes tokens of them" in done.err
    done = eyas(*words, "--parse-special")
    assert json.loads(done.out)["prompt_token_ids"].count(2) == 2
    assert "spells" not in done.err


def test_a_suffix_asks_for_the_text_between(eyas, model, tmp_path):
    """The document tells the prompt; a model without the tokens says so in one line."""
    fim = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    coder = write_chat_model(tmp_path / "coder", more=fim)
    done = eyas("generate", "ab", "--suffix", "c", "--model", coder, "--json", *SHORT)
    assert done.code == 0
    loaded = load(coder, method="autoregressive", dtype="float64", threads=1)
    answer = loaded.infill("ab", "c", max_new_tokens=16)
    assert tuple(done.document["prompt_token_ids"]) == answer.prompt_token_ids
    shown = loaded.tokenizer.decode(answer.prompt_token_ids, skip_special=False)
    assert shown == "<|fim_prefix|>ab<|fim_suffix|>c<|fim_middle|>"
    assert tuple(done.document["token_ids"]) == answer.token_ids
    refused = eyas("generate", "ab", "--suffix", "c", "--model", model, *SHORT)
    assert refused.code == 2
    assert "no fill-in-the-middle tokens" in refused.err
    assert refused.err.count("\n") == 1
