"""Which tokens a grammar lets follow, held against a fresh matcher and against independent validators."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eyas.engine.grammar import LIMITS, Grammars
from eyas.engine.structure import MOST_CHARACTERS, StructureConfig
from eyas.engine.tree import Prefix
from eyas.errors import ConfigError
from letters import CONTROL, Bytes, Letters

LETTERS = Letters()
ENDS = (2, 7)
V = 61  # fewer logits than tokens, and not a whole number of bytes
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["ana", "bo", None]}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def grammars(vocab_size=64):
    return Grammars(LETTERS, vocab_size)


def opened(vocab_size=64, made=None, **kind):
    return (made or grammars(vocab_size)).open(StructureConfig(**kind), ENDS)


def allowed(grammar, generated, vocab_size=64):
    bits = np.unpackbits(grammar.mask(generated), count=vocab_size, bitorder="little")
    return np.flatnonzero(bits).tolist()


def texts(grammar, generated):
    return [LETTERS.texts.get(token, CONTROL.get(token)) for token in allowed(grammar, generated)]


def walk(grammar, seed, most=60):
    """Random tokens under a grammar up to an end token; None if there is none among the first `most`."""
    rng, found = random.Random(seed), []
    for _ in range(most):
        token = rng.choice(allowed(grammar, found))
        if token in ENDS:
            return LETTERS.decode(found)
        found.append(token)
        if rng.random() < 0.2:
            grammar.commit(found)
    return None


def test_masks_allow_what_the_grammar_says():
    grammar = opened(choice=["name", "age"])
    assert texts(grammar, []) == ["name", "na", "age", "a", "n"]
    assert texts(grammar, [LETTERS.ids["age"]]) == ["</s>", "<end>"], "the end, and only there"
    assert grammar.num_allowed([], LETTERS.encode("name")) == 1
    assert grammar.num_allowed([], [LETTERS.ids["n"], LETTERS.ids["a"], LETTERS.ids["b"]]) == 2
    assert grammar.num_allowed([], [LETTERS.ids["age"], 2]) == 2
    assert grammar.num_allowed([], [2]) == 0


def test_what_is_forced_is_the_only_thing_that_may_follow():
    grammar = opened(json_schema=PERSON, whitespace_pattern="")
    forced = grammar.forced([], 99)
    assert LETTERS.decode(forced) == '{"name":'
    for at, token in enumerate(forced):
        assert allowed(grammar, forced[:at]) == [token]
    assert grammar.forced([], 2) == forced[:2]
    assert grammar.forced(forced, 99) == []
    done = LETTERS.encode('{"name":null,"age":10}')
    assert grammar.forced(done, 99) == [], "the end is no text"
    assert texts(grammar, done) == ["</s>", "<end>"]


def test_a_prefix_that_is_forbidden_itself_allows_everything():
    grammar = opened(choice=["name"])
    assert allowed(grammar, [LETTERS.ids["b"]]) == [*range(64)]
    assert allowed(grammar, [2]) == [*range(64)], "nothing follows an end"
    assert texts(grammar, []) == ["name"]


def test_control_tokens_and_ids_without_logits_never_follow():
    found = allowed(opened(V, regex=r"[\s\S]*"), [], V)
    assert set(range(V)) - set(found) == {0, 1}
    found = allowed(Grammars(LETTERS, 70).open(StructureConfig(regex=r"[\s\S]*"), ENDS), [], 70)
    assert set(range(70)) - set(found) == {0, 1, *range(64, 70)}


@pytest.mark.parametrize(
    "kind",
    [
        {"json_schema": PERSON},
        {"json_schema": PERSON, "whitespace_pattern": ""},
        {"json_schema": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
        {"regex": "(na|me|name){2,5}( [0-9]+)?"},
        {"grammar": 'root ::= "[" (root ("," root)*)? "]" | [0-9]+'},
        {"choice": ["name", "namen", "age", "10"]},
    ],
    ids=str,
)
def test_a_mask_depends_on_the_prefix_alone(kind):
    """Any order of questions, about any paths of a tree, with commits between: as a fresh matcher says."""
    made, rng = grammars(), random.Random(3)
    grammar, paths = opened(made=made, **kind), [[]]
    for step in range(100):
        path = rng.choice(paths)
        answer = Prefix(path[: len(path) // 2], tuple(path[len(path) // 2 :]))
        found, fresh = allowed(grammar, answer), opened(made=made, **kind)
        assert found == allowed(fresh, path)
        assert grammar.forced(path, 9) == fresh.forced(path, 9)
        token = rng.randrange(64)
        assert grammar.num_allowed(answer, [token]) == (token in found)
        more = [token for token in found if token not in ENDS]
        if more and len(path) < 20:
            paths.append([*path, rng.choice(more)])
        if step % 30 == 29:
            grammar.commit(path)
            paths = [other for other in paths if other[: len(path)] == path]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_answers_under_a_regex_match_it(seed):
    text = walk(opened(regex="(na|me|name){2,5}( [0-9]{1,3})?"), seed)
    assert text is None or re.fullmatch("(na|me|name){2,5}( [0-9]{1,3})?", text)


schemas = st.recursive(
    st.one_of(
        st.just({"type": "integer", "minimum": -10, "maximum": 110}),
        st.just({"type": "boolean"}),
        st.just({"type": "string", "maxLength": 3}),
        st.just({"type": "number"}),
        st.lists(st.sampled_from([None, True, "na", "age", 10]), min_size=1, max_size=3, unique_by=repr).map(
            lambda values: {"enum": values}
        ),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": least + 1},
            inner,
            st.integers(0, 2),
        ),
        st.builds(
            lambda properties, required, more: {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": more,
            },
            st.dictionaries(st.sampled_from(["name", "age", "x"]), inner, max_size=3),
            st.lists(st.sampled_from(["name", "age"]), unique=True, max_size=2),
            st.just(False),
        ).filter(lambda schema: set(schema["required"]) <= set(schema["properties"])),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=5,
)


@given(schema=schemas, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_answers_under_a_schema_are_valid(schema, seed):
    """Random tokens that the masks allow; `jsonschema` judges."""
    text = walk(opened(json_schema=schema), seed, most=200)
    if text is not None:
        Draft202012Validator(schema).validate(json.loads(text))


def test_json_has_no_endless_white_space():
    grammar = opened(json_schema={"type": "object"})
    start = [LETTERS.ids["{"]]
    assert LETTERS.ids[" "] in allowed(grammar, start)
    assert LETTERS.ids[" "] not in allowed(grammar, [*start, LETTERS.ids[" "]])
    indented = [*start, LETTERS.ids["\n"], *[LETTERS.ids[" "]] * 40]
    assert texts(grammar, indented) == ['"name"', '"', "}"] or '"' in texts(grammar, indented)
    assert LETTERS.ids[" "] not in allowed(grammar, indented)


def test_a_property_has_one_spelling():
    """Or "n\\u0061me" would be a name that the schema does not know, with any value."""
    grammar = opened(json_schema={"properties": {"name": {"type": "integer"}}})
    open_name = LETTERS.encode('{"n')
    assert grammar.num_allowed([], open_name) == len(open_name)
    made = Grammars(Bytes(), 257)
    grammar = made.open(StructureConfig(json_schema={"properties": {"name": {"type": "integer"}}}), [256])
    for text, count in (
        (b'{"name":1}', 10),
        (b'{"x\\n":"x"}', 11),
        (b'{"n\\u0061me":"x"}', 4),
        (b'{"x":1,"name":2}', 12),
    ):
        assert grammar.num_allowed([], list(text)) == count


def test_gbnf_and_lark_are_told_apart():
    for text in ('root ::= "na" x\nx ::= "me"', 'start: "na" X\nX: "me"'):
        assert LETTERS.decode(opened(grammar=text).forced([], 9)) == "name"


DEEP = {"type": "string"}
for _ in range(300):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"json_schema": "{"}, "json_schema cannot be read: .*line 1 column 2"),
        ({"json_schema": {"type": "foo"}}, "json_schema cannot be used: Invalid type: foo, at #/type"),
        (
            {"json_schema": {"properties": {"a": {"items": {"uniqueItems": True}}}}},
            "uniqueItems.*at #/properties/a/items/uniqueItems; simplify it",
        ),
        ({"json_schema": {"$ref": "https://example.com/x"}}, r"example.com/x.*at #/\$ref"),
        ({"json_schema": {"items": {"$ref": "#", "$id": "x"}}}, r"\$id beside \$ref, at #/items"),
        ({"json_schema": {"enum": ["a", "a\0b"]}}, "control character, at '#/enum/1'"),
        ({"json_schema": {"properties": {"a\0b": {}}}}, r"control character, at '#/properties/a\\x00b'"),
        ({"json_schema": False}, "json_schema is 'false', which allows nothing"),
        ({"json_schema": "5"}, "json_schema is '5', but it must be an object"),
        ({"json_schema": {"$ref": "#"}}, "no text of the model's tokens satisfies it"),
        ({"json_schema": json.dumps(DEEP)}, "recursion limit"),
        ({"json_schema": "[" * 100_000}, "json_schema cannot be read"),
        ({"regex": "na(me"}, "regex cannot be used: unclosed group at character 3"),
        ({"regex": "(?=a)b"}, "look-ahead.*at character 1"),
        ({"regex": "(" * 60_000}, "regex cannot be used"),
        (
            {"grammar": 'start: "a" foo'},
            'grammar cannot be used: unknown name: "foo", in line 1 at character 8',
        ),
        ({"grammar": 'root ::= "a" [b-z'}, "grammar cannot be read: .*line 1"),
        ({"grammar": 'root ::= "a" y'}, "Rule 'y' not found"),
        ({"grammar": "start: start"}, "no text of the model's tokens satisfies it"),
        ({"grammar": "start: " + "(" * 60_000}, "too deeply nested"),
        ({"grammar": "root ::= " + "(" * 60_000}, "grammar cannot be read"),
        ({"grammar": "x" * 10**6}, f"grammar has 1000000 characters, but at most {MOST_CHARACTERS}"),
        ({"json_schema": " " * 10**6}, "json_schema has 1000000 characters"),
        ({"choice": ["x" * 1000] * 1000}, "choice has 1000000 characters"),
        ({"choice": ["a"], "regex": "a"}, "regex and choice exclude each other"),
        ({"regex": "a", "whitespace_pattern": ""}, "whitespace_pattern needs json_schema"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema cannot be written as JSON"),
        ({"choice": 5}, "choice is 5, but it must be a list of strings"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_are_one_line_with_the_place(kind, message):
    with pytest.raises(ConfigError, match=message) as caught:
        opened(**kind)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "kind",
    [
        {"grammar": "start: a0\n" + "".join(f"a{at}: a{at + 1}\n" for at in range(9000)) + 'a9000: "na"'},
        {
            "json_schema": {
                "$ref": "#/$defs/a0",
                "$defs": {f"a{at}": {"$ref": f"#/$defs/a{at + 1}"} for at in range(3000)}
                | {"a3000": {"enum": [10]}},
            }
        },
        {"grammar": "start: " + " | ".join(f'"a{at}"' for at in range(10_000))},
        {"json_schema": {"enum": [f"a{at}" for at in range(10_000)]}},
    ],
    ids=["chain of rules", "chain of references", "alternatives", "enum"],
)
def test_large_grammars_are_read_without_harm(kind):
    assert texts(opened(**kind), [])


def test_an_automaton_that_grows_begins_again(monkeypatch):
    """Its states are limited; where other paths took them, a fresh matcher goes on with the same masks."""
    kind = {"regex": "(a|b)*a(a|b){60}"}
    monkeypatch.setitem(LIMITS, "max_lexer_states", 100)
    limited, rng, letters = opened(**kind), random.Random(1), [LETTERS.ids["a"], LETTERS.ids["b"]]
    monkeypatch.undo()
    free = opened(**kind)
    for _ in range(20):
        path = [rng.choice(letters) for _ in range(30)]
        for count in range(0, 30, 3):
            assert allowed(limited, path[:count]) == allowed(free, path[:count])


def test_an_answer_that_needs_too_many_states_ends_with_an_error(monkeypatch):
    monkeypatch.setitem(LIMITS, "max_lexer_states", 60)
    grammar, path, rng = opened(regex="(a|b)*a(a|b){60}"), [], random.Random(1)
    while len(path) < 200 and grammar.mask(path).any():
        path.append(LETTERS.ids[rng.choice("ab")])
    with pytest.raises(ConfigError, match=r"regex cannot be followed behind .*too many states.*; simplify"):
        grammar.require(path)


def test_what_explodes_ends_with_an_error_and_harms_no_other_path(monkeypatch):
    """Where one step takes too much, nothing is allowed; other paths go on."""
    monkeypatch.setitem(LIMITS, "step_max_items", 60)
    grammar, path = opened(grammar='start: x+\nx: "a" | "aa" | x x | "(" x'), []
    for _ in range(60):
        path.append(LETTERS.ids["a"])
        if not grammar.mask(path).any():
            break
    with pytest.raises(ConfigError, match=r"grammar cannot be followed behind the answer.*; simplify it"):
        grammar.require(path)
    assert LETTERS.ids["a"] in allowed(grammar, path[:1])
    grammar.require(path[:1])


def test_an_answer_has_to_be_able_to_end():
    with pytest.raises(ConfigError, match=r"regex needs a stop token.*stop_token_ids"):
        grammars().open(StructureConfig(regex="a"), [])
    assert grammars().open(StructureConfig(), []) is None


def test_a_vocabulary_without_the_tokens_says_so():
    with pytest.raises(ConfigError, match="choice cannot be used: no token of the model begins"):
        opened(choice=["w"])
    grammar = opened(regex="na(w|z)")
    with pytest.raises(ConfigError, match="regex cannot be followed behind the answer so far: no token"):
        grammar.require([LETTERS.ids["na"]])


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"regex needs the package llguidance; .*eyas\[grammar\]"):
        opened(regex="a")
