"""`eyas generate` with a form for its answer, and the same from Python."""

import json
import re

import pytest

import eyas as package
from eyas.errors import ConfigError

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ana", "Bo"]}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name", "age"],
}
SHORT = ("--dtype", "float64", "--threads", "1", "--max-new-tokens", "120")


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["autoregressive", "pld", "eagle2"])
def test_json_by_a_schema_in_a_file(eyas, model, tmp_path, method):
    schema = write(tmp_path, "person.json", json.dumps(SCHEMA))
    done = eyas("generate", "Who?", "--model", model, "--json-schema", schema, "--method", method, *SHORT)
    assert done.code == 0
    assert json.loads(done.out)["name"] in ("Ana", "Bo")


def test_grammars_regexes_and_choices(eyas, model, tmp_path):
    argv = ("generate", "Who?", "--model", model, *SHORT, "--temperature", "1", "--seed", "1")
    gbnf = write(tmp_path, "list.gbnf", 'root ::= [a-c]{2,4} ("," root)?')
    lark = write(tmp_path, "word.lark", "start: /[a-c]{2,4}/")
    assert re.fullmatch("[a-c]{2,4}(,[a-c]{2,4})*", eyas(*argv, "--grammar", gbnf).out.strip())
    assert re.fullmatch("[a-c]{2,4}", eyas(*argv, "--grammar", lark).out.strip())
    assert re.fullmatch("v[0-9]{3}", eyas(*argv, "--regex", "v[0-9]{3}").out.strip())
    assert eyas(*argv, "--choice", "red", "--choice", "dark green").out.strip() in ("red", "dark green")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json-schema", "missing.json"), "missing.json cannot be read .*name a file"),
        (("--regex", "a("), "regex cannot be used: unclosed group at character 2"),
        (("--regex", "a", "--choice", "b"), "regex and choice exclude each other"),
        (("--regex", "a", "--ignore-eos"), "ignore_eos and regex exclude each other"),
    ],
)
def test_errors_are_one_line(eyas, model, options, message):
    done = eyas("generate", "Who?", "--model", model, *options, *SHORT)
    assert done.code == 2
    [line] = done.err.splitlines()
    assert re.search(message, line)


def test_a_file_that_is_not_text(eyas, model, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(b"\xff")
    done = eyas("generate", "Who?", "--model", model, "--json-schema", path, *SHORT)
    assert done.code == 2
    assert "broken.json is not UTF-8" in done.err


def test_from_python(model):
    llm = package.load(model, dtype="float64", threads=1)
    for form in ({"json_schema": SCHEMA}, {"json_schema": json.dumps(SCHEMA)}):
        answer = llm.generate("Who?", max_new_tokens=120, **form)
        assert json.loads(answer.text)["name"] in ("Ana", "Bo")
        assert json.loads(answer.config["json_schema"]) == SCHEMA
    assert llm.generate("Who?", choice=("red", "green")).text in ("red", "green")
    assert "".join(map(str, llm.stream("Who?", regex="[0-9]{3}"))).isdecimal()
    with pytest.raises(ConfigError, match=r"json_schema cannot be used: .* at #/type"):
        llm.generate("Who?", json_schema={"type": "text"})


def test_a_conversation_keeps_its_form(model):
    talk = package.load(model, dtype="float64", threads=1).conversation(regex="[0-9]{3}")
    for _ in range(2):
        assert "".join(map(str, talk.say("And?"))).isdecimal()
