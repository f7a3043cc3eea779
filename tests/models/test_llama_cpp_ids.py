"""Ids of llama.cpp, kept in golden files: equal, but where it leaves the rule of a model's own tokenizer.

`tests/golden/llama_cpp_ids.py` asks llama.cpp. The cases in which eyas follows the original instead are
listed here, text by text, and told in docs/tokenizers.md.
"""

import json
import os
from pathlib import Path

import pytest
from tiny_vocabularies import byte_level, learned, sentence_piece

from eyas.models import Tokenizer
from eyas.models.encoding import Encoding
from eyas.models.gguf_tokenizer import GGUFTokenizer
from eyas.models.pre_tokenizers import SPLIT_RULES
from hard_texts import DIGEST, HARD_TEXTS

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = json.loads((GOLDEN / "tokens_small.json").read_text())
MODELS = os.environ.get("EYAS_TEST_MODELS")
REAL = ("qwen2.5-coder-0.5b-instruct-q4_k_m", "gemma-3-270m-q4_k_m")


def having(*parts):
    """Places of the hard texts with one of these in them."""
    return {at for at, text in enumerate(HARD_TEXTS) if any(part in text for part in parts)}


# Texts that the original tokenizer composes first (NFC), and llama.cpp does not.
NFC = having("\u1112\u1161", "\u0651\u064e", "\u05c1\u05b8", "e\u0301")
# Combining marks are letters of a word there, and split from it here.
MARKS = having("\u0651\u064e", "\u094d", "e\u0301")
# As text, pieces lead to `<s>`; and llama.cpp takes every `</s>` for an end, though it is a tag to Gemma and
# four signs to Qwen.
S_TAGS = having("<s>[INST]")
# Bytes that show as digits, and numbers apart from the space before them.
FALCON = having(
    "i**2", "int i", "3 33", "v1.2", "\u0661", "你好", "東京", "สว", "नमस", "Привет", "Καλη", "😀"
)
FALCON |= having('{"name"', "# Title")
DIFFERENT = {
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "qwen35", "mpt", "olmo", "command-r"), NFC),
    "tekken": MARKS,
    **dict.fromkeys(("gpt-4o", "llama4"), MARKS | having("\u017f")),  # a suffix, as 's is
    "falcon": FALCON,
    # Digits one by one: on the model's own vocabulary, which has no numbers, that is the same.
    "deepseek-llm": having("i**2", "int i", "3 33", "v1.2", "\u2029"),
    "deepseek-coder": having("\u2029"),  # in the range of its CJK pattern
    "sentence-piece without prefix": S_TAGS,
    "gemma-3-270m-q4_k_m": S_TAGS,
    "qwen2.5-coder-0.5b-instruct-q4_k_m": NFC | S_TAGS,
}


def differing(encoding, golden):
    """Places of the texts whose ids are not llama.cpp's, as text or parsed."""
    return {
        at
        for at, (text, kept) in enumerate(zip(HARD_TEXTS, golden, strict=True))
        for parse, ids in ((False, kept[0]), (True, kept[-1]))
        if encoding.encode(text, add_special=False, parse_special=parse) != ids
    }


def test_golden_files_are_of_these_texts_and_rules():
    for path in GOLDEN.glob("tokens_*.json"):
        assert json.loads(path.read_text())["texts"] == DIGEST, path.name
    assert {name for name in SMALL["ids"] if "sentence" not in name} == set(SPLIT_RULES)


@pytest.mark.parametrize("name", SMALL["ids"])
def test_ids_are_llama_cpps_but_where_it_leaves_the_original(name):
    if name in SPLIT_RULES:
        fields = byte_level(name, learned())
    else:
        fields = sentence_piece(**{"tokenizer.ggml.add_space_prefix": "without" not in name})
    encoding = Encoding(GGUFTokenizer(fields).build())
    assert differing(encoding, SMALL["ids"][name]) == DIFFERENT.get(name, set())


@pytest.mark.skipif(MODELS is None, reason="EYAS_TEST_MODELS names no folder of GGUF files")
@pytest.mark.parametrize("name", REAL)
class TestRealVocabularies:
    @pytest.fixture
    def path(self, name):
        path = Path(MODELS) / f"{name}.gguf"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        return path

    def test_ids_are_llama_cpps_but_where_it_leaves_the_original(self, name, path):
        golden = json.loads((GOLDEN / f"tokens_{name}.json").read_text())["ids"][name]
        assert differing(Tokenizer.load(path)._encoding, golden) == DIFFERENT[name]

    def test_ids_are_those_of_the_original(self, name, path):
        """The tokenizer that transformers builds, with the file's added tokens."""
        transformers = pytest.importorskip("transformers")
        tokenizer = Tokenizer.load(path)
        original = getattr(self, name[:4])(transformers, path)
        for text in HARD_TEXTS:
            if not tokenizer.spelled_control(text):
                ids = original._tokenizer.encode(text, add_special_tokens=False).ids
                assert tokenizer.encode(text, add_special=False) == ids, text

    def qwen(self, transformers, path):
        from eyas.models.sources import GGUFSource

        fields = GGUFSource(path).fields
        vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
        merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
        made = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges)
        return self.with_words(made, fields)

    def gemm(self, transformers, path):
        from transformers.tokenization_utils_base import generate_merges

        from eyas.models.sources import GGUFSource

        fields = GGUFSource(path).fields
        tokens = fields["tokenizer.ggml.tokens"]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        merges = generate_merges(vocabulary, dict(zip(tokens, fields["tokenizer.ggml.scores"], strict=True)))
        return self.with_words(transformers.GemmaTokenizer(vocab=vocabulary, merges=merges), fields)

    def with_words(self, made, fields):
        """With the user-defined tokens, which a model's tokenizer_config.json adds."""
        from tokenizers import AddedToken

        kinds = zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True)
        words = [AddedToken(token, normalized=False) for token, kind in kinds if kind == 4]
        made._tokenizer.add_tokens(words)
        return made
