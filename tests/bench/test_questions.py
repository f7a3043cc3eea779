"""Question files: read strictly, broken lines named by number and reason."""

import json

import pytest

from eyas.bench.questions import Question, read_questions
from eyas.errors import DataError

GOOD = '{"question_id": 81, "category": "writing", "turns": ["Hello", "Again"], "reference": [["x"]]}'


def write(tmp_path, *lines, end="\n"):
    path = tmp_path / "set.jsonl"
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path.write_bytes(b"\n".join(encoded) + end.encode())
    return path


def test_reads_what_is_there(tmp_path):
    path = write(tmp_path, GOOD, "", '{"question_id": "b", "turns": ["a\u2028b"]}', end="")
    questions = read_questions(path)
    assert questions.name == "set"
    assert questions.questions == (
        Question(81, "writing", ("Hello", "Again")),
        Question("b", "", ("a\u2028b",)),
    )
    assert len(questions.sha256) == 64


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("{", "not JSON", id="cut-off"),
        pytest.param("[1]", "not an object", id="array"),
        pytest.param("[" * 100_000, "not JSON", id="deep"),
        pytest.param(b'{"question_id": 1, "turns": ["\xff"]}', "not UTF-8", id="latin-1"),
        pytest.param('{"turns": ["a"]}', "question_id is missing", id="no-id"),
        pytest.param('{"question_id": true, "turns": ["a"]}', "question_id is True", id="boolean-id"),
        pytest.param('{"question_id": 1.5, "turns": ["a"]}', "question_id is 1.5", id="float-id"),
        pytest.param('{"question_id": 1, "category": 3, "turns": ["a"]}', "category is 3", id="category"),
        pytest.param('{"question_id": 1}', "turns is missing", id="no-turns"),
        pytest.param('{"question_id": 1, "turns": "abc"}', "turns is 'abc', not a list", id="string-turns"),
        pytest.param('{"question_id": 1, "turns": []}', "turns is empty", id="empty-turns"),
        pytest.param('{"question_id": 1, "turns": ["a", 2]}', "turn 2 is 2", id="number-turn"),
        pytest.param('{"question_id": 1, "turns": ["a", "  "]}', "turn 2 is empty", id="blank-turn"),
        pytest.param('{"question_id": 1, "turns": ["\\ud800"]}', "surrogate", id="surrogate"),
        pytest.param('{"question_id": "\\ud800", "turns": ["a"]}', "question_id holds half", id="cut-id"),
        pytest.param(
            '{"question_id": 1, "category": "\\udfff", "turns": ["a"]}',
            "category holds half",
            id="cut-category",
        ),
        pytest.param(
            '{"question_id": ' + "1" * 5000 + ', "turns": ["a"]}', "a number of too many digits", id="digits"
        ),
        pytest.param(
            '{"question_id": ' + "[" * 900 + "]" * 900 + ', "turns": ["a"]}',
            "question_id is [[",
            id="deep-id",
        ),
        pytest.param(GOOD, "is in line 1 already", id="duplicate"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, reason):
    path = write(tmp_path, GOOD, "", line)
    with pytest.raises(DataError) as caught:
        read_questions(path)
    message = str(caught.value)
    assert f"{path}, line 3: " in message
    assert reason in message
    assert "\n" not in message


def test_a_file_without_questions_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no questions"):
        read_questions(write(tmp_path, "", " "))
    with pytest.raises(DataError, match="cannot read"):
        read_questions(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        read_questions(tmp_path)


def test_an_integer_and_a_string_are_two_ids(tmp_path):
    rows = [json.dumps({"question_id": q, "turns": ["a"]}) for q in (1, "1")]
    assert len(read_questions(write(tmp_path, *rows)).questions) == 2


def test_a_question_may_have_a_schema(tmp_path):
    path, schema = tmp_path / "q.jsonl", {"type": "object", "required": ["a"]}
    rows = [{"question_id": 1, "turns": ["x"]}, {"question_id": 2, "turns": ["y"], "json_schema": schema}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    free, held = read_questions(path).questions
    assert free.json_schema is None
    assert json.loads(held.json_schema) == schema
    path.write_text(json.dumps(rows[0] | {"json_schema": "text"}) + "\n")
    with pytest.raises(DataError, match="line 1: json_schema is 'text', not an object"):
        read_questions(path)
