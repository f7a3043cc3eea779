"""The sets of edits and of extraction: as many as they say, and every question can be asked."""

import json
import re
import sys
from collections import Counter

import task_sets
from jsonschema import Draft202012Validator

from eyas.bench.questions import read_questions


def test_both_sets_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["task_sets.py", str(tmp_path / "made")])
    task_sets.main()
    edits = read_questions(tmp_path / "made/edits.jsonl").questions
    extract = read_questions(tmp_path / "made/extract.jsonl").questions
    assert (len(edits), len(extract)) == (50, 40)

    kinds = Counter(question.category for question in edits)
    assert kinds.keys() == {"rename", "parameter", "docstring", "bug", "translate"}
    assert min(kinds.values()) >= 7
    for question in edits:
        [code] = re.findall(r"```\w+\n(.*)```", question.turns[0], re.S)
        assert 50 <= len(code.splitlines()) <= 300
    first = [re.search(r"```\w+\n(.*)```", question.turns[0], re.S)[1] for question in edits[:13]]
    assert len(set(first)) == 13, "the first questions are about different files"

    assert set(Counter(question.category for question in extract).values()) == {5}
    for question in extract:
        schema = json.loads(question.json_schema)
        Draft202012Validator.check_schema(schema)
        assert schema["required"] == list(schema["properties"])
