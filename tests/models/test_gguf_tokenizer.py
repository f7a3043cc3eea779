"""Tokenizers from GGUF metadata: SentencePiece's rules, special tokens, and what cannot be rebuilt."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_vocabularies import byte_level, learned, sentence_piece, write_vocabulary

from eyas.errors import ModelError
from eyas.models import Tokenizer
from eyas.models.encoding import Encoding
from eyas.models.gguf_tokenizer import GGUFTokenizer
from eyas.models.pre_tokenizers import SPLIT_RULES
from eyas.models.special_tokens import end_token_ids, fim_token_ids
from hard_texts import HARD_TEXTS
from reference.tokens import in_signs, sentence_piece_ids, unigram_ids

PIECES = sentence_piece()
NAMES = PIECES["tokenizer.ggml.tokens"]
TEXTS = st.text(st.sampled_from("abehlotx <>|/\n\t=.0é中🦅\u0301"), max_size=16)


def pieces_of(fields):
    """Ids and scores of normal pieces."""
    columns = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    rows = zip(*columns, strict=True)
    return {name: score for name, kind, score in rows if kind == 1}


def encode(fields, text, *, add_special=False, parse_special=False):
    return Encoding(GGUFTokenizer(fields).build()).encode(
        text, add_special=add_special, parse_special=parse_special
    )


def without_words(text):
    """No user-defined token of the vocabulary in it."""
    return "  " not in text and "\n\n" not in text


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_merges_by_score(prefix):
    encoding = Encoding(GGUFTokenizer(PIECES | {"tokenizer.ggml.add_space_prefix": prefix}).build())
    vocabulary, scores = {name: i for i, name in enumerate(NAMES)}, pieces_of(PIECES)
    for text in filter(without_words, HARD_TEXTS):
        ids = encoding.encode(text, add_special=False, parse_special=False)
        assert ids == sentence_piece_ids(text, vocabulary, scores, prefix=prefix), text


@given(TEXTS.filter(without_words))
def test_sentence_piece_on_any_text(text):
    ids = encode(PIECES, text)
    assert ids == sentence_piece_ids(text, {name: i for i, name in enumerate(NAMES)}, pieces_of(PIECES))


@given(TEXTS)
def test_a_text_comes_back_from_its_ids(text):
    fields = PIECES | {"tokenizer.ggml.add_space_prefix": False}
    tokenizer = Tokenizer(GGUFTokenizer(fields).build())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_user_defined_tokens_come_before_merges_and_take_a_new_prefix():
    ids = encode(PIECES, "a  b")
    assert [NAMES[i] for i in ids] == ["\u2581", "a", "  ", "\u2581b"]
    assert "   " in [NAMES[i] for i in encode(PIECES, "a   b")]  # the longest


def test_no_text_becomes_a_control_token_or_a_byte_by_merging():
    """Pieces that would lead to `</s>` and to `<0x41>` are there."""
    new = [name for name in ("</", "s>", "<0", "<0x", "41", "41>") if name not in NAMES]
    names = [*NAMES, *new]
    more = {
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [*PIECES["tokenizer.ggml.token_type"], *[1] * len(new)],
        "tokenizer.ggml.scores": [*PIECES["tokenizer.ggml.scores"], *[5.0] * len(new)],
    }
    more["tokenizer.ggml.add_space_prefix"] = False
    ids = encode(PIECES | more, "</s><0x41>")
    assert [names[i] for i in ids][-4:] == ["</", "s>", "<0x", "41>"]
    assert encode(PIECES | more, "</s>", parse_special=True) == [2]


def test_extra_spaces_go_where_the_file_says_so():
    fields = PIECES | {"tokenizer.ggml.remove_extra_whitespaces": True}
    fields["tokenizer.ggml.token_type"] = [
        1 if kind == 4 else kind for kind in fields["tokenizer.ggml.token_type"]
    ]
    assert encode(fields, "  a   b ") == encode(fields, "a b")


def test_bos_and_eos_of_sentence_piece():
    silent = {key: value for key, value in PIECES.items() if key != "tokenizer.ggml.add_bos_token"}
    assert encode(silent, "a", add_special=True)[0] == 1, "usual for this kind"
    assert encode(PIECES, "a", add_special=True)[0] != 1
    ends = PIECES | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert encode(ends, "", add_special=True) == [1, 2]


def test_phi3_drops_white_space_behind_control_tokens():
    for architecture, kept in (("phi3", 0), ("llama", 1)):
        fields = PIECES | {"general.architecture": architecture, "tokenizer.ggml.add_space_prefix": False}
        fields["tokenizer.ggml.token_type"] = [
            4 if i > 258 and name == "\n\n" else kind
            for i, (name, kind) in enumerate(zip(NAMES, PIECES["tokenizer.ggml.token_type"], strict=True))
        ]
        ids = encode(fields, "</s>\na", parse_special=True)
        assert len(ids) == 2 + kept, "</s> takes the line break with it"
        assert len(encode(fields, "<s>\na", parse_special=True)) == 3


def unigram(**changes):
    words = {
        "\u2581": -2.0,
        "a": -3.0,
        "b": -3.5,
        "ab": -5.0,
        "aba": -9.0,
        "\u2581a": -4.5,
        "ba": -5.2,
        "x": -4.0,
    }
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", *words],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, *words.values()],
        "tokenizer.ggml.token_type": [3, 3, 2, *[1] * len(words)],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 2,
    } | changes


@given(st.text(st.sampled_from("abx "), max_size=12))
def test_unigram_takes_the_best_cut(text):
    fields = unigram()
    vocabulary = {name: i for i, name in enumerate(fields["tokenizer.ggml.tokens"])}
    assert encode(fields, text) == unigram_ids(text, vocabulary, pieces_of(fields))
    assert encode(fields, text, add_special=True)[-1] == 1


MERGES = learned(60)


def test_end_tokens_by_metadata_and_by_name():
    fields = byte_level("gpt-2", MERGES)
    names = fields["tokenizer.ggml.tokens"]
    assert GGUFTokenizer(fields).end_ids == (names.index("<|im_end|>"), names.index("<|endoftext|>"))
    given_ids = fields | {"tokenizer.ggml.eot_token_id": 3, "tokenizer.ggml.eom_token_id": 4}
    assert GGUFTokenizer(given_ids).end_ids[:3] == (names.index("<|im_end|>"), 3, 4)


def test_a_tag_of_html_ends_nothing():
    """Gemma's vocabulary has `</s>` as a word."""
    types = [
        4 if name == "</s>" else kind
        for name, kind in zip(NAMES, PIECES["tokenizer.ggml.token_type"], strict=True)
    ]
    fields = PIECES | {"tokenizer.ggml.token_type": types, "tokenizer.ggml.eos_token_id": 1}
    assert GGUFTokenizer(fields).end_ids == (1,)


def test_end_names():
    assert end_token_ids({"<|end|>": 4, "<|endoftext|>": 2, "<|user|>": 7}) == (2, 4)
    assert end_token_ids({"<|end|>": 4, "<|return|>": 2, "<|call|>": 7}, [2]) == (2, 7), (
        "harmony: only a message ends"
    )


def test_fim_tokens_by_metadata_and_by_name():
    assert fim_token_ids({"<|fim_prefix|>": 3, "<fim_suffix>": 4}, {"suffix": 9}) == {
        "prefix": 3,
        "suffix": 9,
    }
    fields = byte_level("gpt-2", MERGES) | {
        "tokenizer.ggml.fim_pre_token_id": 5,
        "tokenizer.ggml.prefix_token_id": 6,
        "tokenizer.ggml.suffix_token_id": 7,
    }
    assert GGUFTokenizer(fields).fim_ids == {"prefix": 5, "suffix": 7}


def test_control_tokens_that_a_writer_gave_another_type():
    for kind in (1, 4):
        fields = byte_level("gpt-2", MERGES)
        names = fields["tokenizer.ggml.tokens"]
        types = [kind if kind_then == 3 else kind_then for kind_then in fields["tokenizer.ggml.token_type"]]
        fields |= {"tokenizer.ggml.token_type": types}
        assert encode(fields, "<|im_end|>", parse_special=True) == [names.index("<|im_end|>")]
        assert names.index("<|im_end|>") not in encode(fields, "<|im_end|>")


def test_named_chat_templates(tmp_path):
    fields = byte_level("gpt-2", MERGES) | {
        "tokenizer.chat_template": "usual {{ messages[0].content }}",
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_templates": ["tool_use"],
    }
    assert GGUFTokenizer(fields).chat_templates == {
        "default": "usual {{ messages[0].content }}",
        "tool_use": "tools",
    }
    tokenizer = Tokenizer.load(write_vocabulary(tmp_path / "v.gguf", fields))
    assert tokenizer.decode(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])) == "usual hi"
    assert tokenizer.fim_token_ids == {}
    assert tokenizer.stop_token_ids == GGUFTokenizer(fields).end_ids


def broken(**changes):
    return byte_level("gpt-2", MERGES, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()})


REFUSED = {
    "kind 'mystery'; known are 'gpt2', 'llama', 't5'": broken(model="mystery"),
    "pre-tokenizer 'mystery'; known are " + ", ".join(map(repr, SPLIT_RULES)): broken(pre="mystery"),
    "names a special token 9999": broken(eos_token_id=9999),
    "names a special token 9998": broken(fim_pre_token_id=9998),
    "not all have a type": broken(token_type=[1]),
    "not all different": broken(tokens=["a", "a"]),
    "tokenizer.ggml.tokens is not the list": broken(tokens="abc"),
    "tokenizer.ggml.merges is not the list": broken(merges=[1, 2]),
    "one is no pair": broken(merges=["ab"]),
    "merges do not fit": broken(merges=["a zzz"]),
    "has 1 scores": PIECES | {"tokenizer.ggml.scores": [1.0]},
    "puts a BOS token to each text, but names none": {
        key: value for key, value in PIECES.items() if not key.endswith("bos_token_id")
    }
    | {"tokenizer.ggml.add_bos_token": True},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_rebuilt_is_named(message, tmp_path):
    with pytest.raises(ValueError) as caught:
        GGUFTokenizer(REFUSED[message]).build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model", "tokens", "merges", "pre"])
def test_missing_metadata_are_one_line_with_the_file(key, tmp_path):
    fields = {name: value for name, value in broken().items() if name != f"tokenizer.ggml.{key}"}
    path = write_vocabulary(tmp_path / "v.gguf", fields)
    with pytest.raises(ModelError, match=f"tokenizer.ggml.{key}") as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_token_is_no_id():
    fields = broken(padding_token_id=2**32 - 1)
    assert "pad_token" not in GGUFTokenizer(fields).settings()


@pytest.mark.slow
def test_a_large_vocabulary_opens_at_once():
    """As many tokens and merges as Qwen 2 has: words made by appending one sign to a shorter one."""
    signs = [in_signs(chr(sign)) for sign in range(97, 123)]
    words, merges = list(signs), []
    for word in words:
        for sign in signs:
            merges.append((word, sign))
            words.append(word + sign)
        if len(merges) > 151_000:
            break
    fields = byte_level("qwen2", merges)
    started = time.process_time()
    tokenizer = Tokenizer(GGUFTokenizer(fields).build())
    assert time.process_time() - started < 5, "1 on a quiet machine"
    assert tokenizer.vocab_size > 150_000
