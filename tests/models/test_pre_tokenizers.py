"""Byte-level BPE of GGUF files: each splitting rule against a slow one, with merges that show every split."""

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_vocabularies import CONTROL, USER_DEFINED, byte_level, learned

from eyas.models.encoding import Encoding
from eyas.models.gguf_tokenizer import GGUFTokenizer
from eyas.models.pre_tokenizers import SPLIT_RULES, make_pre_tokenizer
from hard_texts import HARD_TEXTS
from reference.tokens import byte_level_ids, split

MERGES = learned()
PLAIN = [text for text in HARD_TEXTS if not any(word in text for word in USER_DEFINED)]


def build(pre, **changes):
    fields = byte_level(pre, MERGES, **changes)
    return Encoding(GGUFTokenizer(fields).build()), fields


@pytest.mark.parametrize("pre", SPLIT_RULES)
def test_ids_are_those_of_the_slow_rule(pre):
    encoding, fields = build(pre)
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    for text in PLAIN:
        ids = encoding.encode(text, add_special=False, parse_special=False)
        assert ids == byte_level_ids(text, SPLIT_RULES[pre], vocabulary, merges), text


# Signs of every kind that a rule treats apart, known to every version of Unicode in use.
SIGNS = st.sampled_from(
    "aBzſʼ'’éßǅ中かア한اَไ่न्Яω 1٢²½Ⅻ\t\n\r \xa0\u2028\u3000\x85\x0b\x1c\x00._!?$+<|>`~§。，«‘€😀\u200d\ufe0f"
)


@pytest.mark.parametrize("pre", SPLIT_RULES)
@given(text=st.text(SIGNS, max_size=20))
def test_words_are_those_of_the_slow_rule(pre, text):
    rule = SPLIT_RULES[pre]
    words = [word for word, _ in make_pre_tokenizer(rule).pre_tokenize_str(text)] if text else []
    assert words == split(rule.steps, text)


def test_rules_differ_on_these_texts():
    """Or the tests above could not tell one from another."""
    rules = list({repr(rule): rule for rule in SPLIT_RULES.values()}.values())
    seen = {}
    for rule in rules:
        words = repr([split(rule.steps, text) for text in HARD_TEXTS])
        seen.setdefault(words, []).append(rule)
    alike = [group for group in seen.values() if len(group) > 1]
    # Those that split alike differ by NFC or by whole words.
    for first, second in (pair for group in alike for pair in itertools.combinations(group, 2)):
        assert first.steps == second.steps
        assert (first.nfc, first.ignore_merges) != (second.nfc, second.ignore_merges)


def test_nfc_where_the_original_has_it():
    text = "cafe\u0301"
    composed = unicodedata.normalize("NFC", text)
    for pre, rule in SPLIT_RULES.items():
        encoding, _ = build(pre)
        same = encoding.encode(text, add_special=False, parse_special=False) == encoding.encode(
            composed, add_special=False, parse_special=False
        )
        assert same == rule.nfc, pre


def test_whole_words_where_the_original_ignores_merges():
    for pre, rule in SPLIT_RULES.items():
        encoding, fields = build(pre)
        [whole] = [i for i, token in enumerate(fields["tokenizer.ggml.tokens"]) if token == "Ġunreachable"]
        ids = encoding.encode(" unreachable", add_special=False, parse_special=False)
        assert (ids == [whole]) == rule.ignore_merges, pre


@pytest.mark.parametrize("pre", SPLIT_RULES)
def test_control_tokens_are_text_unless_parsed_and_user_defined_ones_never(pre):
    encoding, fields = build(pre)
    names = fields["tokenizer.ggml.tokens"]
    text = f"a{CONTROL[2]}b{USER_DEFINED[0]}c"
    plain = encoding.encode(text, add_special=False, parse_special=False)
    parsed = encoding.encode(text, add_special=False, parse_special=True)
    assert not {names.index(name) for name in CONTROL} & set(plain)
    assert names.index(USER_DEFINED[0]) in plain
    assert [names[i] for i in parsed if i >= names.index(CONTROL[0])] == [CONTROL[2], USER_DEFINED[0]]


@pytest.mark.parametrize("pre", SPLIT_RULES)
def test_a_bos_where_the_file_or_the_rule_asks_for_one(pre):
    fields = byte_level(pre, MERGES)
    bos = fields["tokenizer.ggml.bos_token_id"]
    silent = {key: value for key, value in fields.items() if key != "tokenizer.ggml.add_bos_token"}
    for given_fields, wanted in (
        (fields, False),
        (fields | {"tokenizer.ggml.add_bos_token": True}, True),
        (silent, SPLIT_RULES[pre].add_bos),
    ):
        encoding = Encoding(GGUFTokenizer(given_fields).build())
        ids = encoding.encode("hi", add_special=True, parse_special=False)
        assert (ids[0] == bos) == wanted
