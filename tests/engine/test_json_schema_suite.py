"""JSON Schema's published test suite, from the folder that EYAS_JSON_SCHEMA_SUITE names.

    pip download --no-binary jsonschema --no-deps jsonschema && tar xzf jsonschema-*.tar.gz
    EYAS_JSON_SCHEMA_SUITE=jsonschema-*/json python -m pytest -s tests/engine/test_json_schema_suite.py

A schema is refused, or what it allows is valid. The grammar may be narrower than the schema: it writes a
number in one way only, properties in the order of the schema, and it keeps to `format`.
"""

import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from eyas.engine.grammar import Grammars
from eyas.engine.structure import StructureConfig
from eyas.errors import ConfigError
from letters import END, Bytes

SUITE = os.environ.get("EYAS_JSON_SCHEMA_SUITE")
DRAFTS = ["draft2020-12", "draft2019-09", "draft7", "draft6", "draft4"]


def spellings(data):
    """Ways to write a value: orders of its keys, and letters as they are or escaped."""
    orders = [data]
    if isinstance(data, dict) and len(data) <= 4:
        orders = [dict(items) for items in itertools.permutations(data.items())]
    for value, is_ascii in itertools.product(orders, (False, True)):
        yield json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")


def writes(grammar, data):
    return any(grammar.num_allowed([], [*text, END]) == len(text) + 1 for text in spellings(data))


@pytest.mark.skipif(SUITE is None, reason="EYAS_JSON_SCHEMA_SUITE names no copy of the suite")
@pytest.mark.parametrize("draft", DRAFTS)
def test_what_a_grammar_allows_is_valid(draft):
    grammars, counts, wrong = Grammars(Bytes(), 257), Counter(), []
    for file in sorted(Path(SUITE, "tests", draft).glob("*.json")):
        for case in json.loads(file.read_text()):
            try:
                grammar = grammars.open(StructureConfig(json_schema=json.dumps(case["schema"])), [END])
            except ConfigError:
                counts["refused"] += len(case["tests"])
                continue
            for test in case["tests"]:
                found = writes(grammar, test["data"])
                if found == test["valid"]:
                    counts["right"] += 1
                elif test["valid"]:
                    counts["narrower"] += 1
                else:
                    wrong.append((file.name, case["description"], test["description"]))
    print(f"\n{draft}: {dict(counts)}, wrong {len(wrong)}")
    assert not wrong
    assert counts["right"] > 200
