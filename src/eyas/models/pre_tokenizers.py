"""How a text is split before the merges of byte-level BPE: the rules that GGUF files name.

A GGUF file holds tokens and merges, but of the rule that cuts a text into words only a name
(`tokenizer.ggml.pre`). Each row here is what the model's original `tokenizer.json` does under that name:
steps of the library `tokenizers`, in order. A near miss would give other ids now and then, so a name is in
the table only if its original is known. Sources: the published `tokenizer.json` files, as transformers and
llama.cpp (`src/llama-vocab.cpp`) quote them; docs/tokenizers.md lists where llama.cpp itself differs.
"""

from dataclasses import dataclass
from typing import Any

Step = tuple[str, dict[str, Any]]  # a pre-tokenizer of the library, and its arguments


@dataclass(frozen=True, slots=True)
class SplitRule:
    """One way to turn a text into words.

    Attributes:
        steps: applied one after the other, each within the pieces of the one before.
        nfc: the text is normalised to Unicode's composed form first.
        ignore_merges: a word that is a token stays whole, whatever its merges say.
        add_bos: a BOS goes before a text unless the file says otherwise.
    """

    steps: tuple[Step, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


def _split(pattern: str) -> Step:
    """Each match becomes a piece, and so does each text between two."""
    return ("Split", {"pattern": pattern, "behavior": "isolated"})


_BYTES: Step = ("ByteLevel", {"add_prefix_space": False, "use_regex": False})  # bytes as printable signs
_WORDS: Step = ("ByteLevel", {"add_prefix_space": False, "use_regex": True})  # the same, by GPT-2's words
_EACH_DIGIT: Step = ("Digits", {"individual_digits": True})
_NUMBERS: Step = ("Digits", {"individual_digits": False})
_PUNCTUATION: Step = ("Punctuation", {"behavior": "contiguous"})

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _cl100k(digits: str) -> str:
    """OpenAI's second pattern, with digits in groups of one size."""
    return rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _o200k(suffix: str, digits: str) -> str:
    """OpenAI's third pattern: words begin where capitals begin."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    first = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{first}{upper}*{lower}+{suffix}|{first}{upper}+{lower}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_QWEN35 = (
    rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)

# Letters with case of DeepSeek LLM's pattern, which lists them by hand; as code points, since some of
# them look like others (U+212A is no K).
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_DEEPSEEK_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)

_gpt2 = SplitRule((_WORDS,))
_neox = SplitRule((_WORDS,), nfc=True)
_starcoder = SplitRule((_EACH_DIGIT, _WORDS))
_qwen2 = SplitRule((_split(_cl100k(r"\p{N}")), _BYTES), nfc=True)
_llama3 = SplitRule((_split(_cl100k(r"\p{N}{1,3}")), _BYTES), ignore_merges=True, add_bos=True)
_gpt4o = SplitRule((_split(_o200k(f"{_SUFFIX}?", r"\p{N}{1,3}")), _BYTES))

SPLIT_RULES: dict[str, SplitRule] = {
    "gpt-2": _gpt2,
    "phi-2": _gpt2,
    "mpt": _neox,
    "olmo": _neox,
    "starcoder": _starcoder,
    "refact": _starcoder,  # IBM's Granite too
    "smollm": _starcoder,
    "command-r": SplitRule((_EACH_DIGIT, _WORDS), nfc=True),
    "falcon": SplitRule((_PUNCTUATION, _WORDS, _NUMBERS, _split("[0-9][0-9][0-9]"))),
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "qwen35": SplitRule((_split(_QWEN35), _BYTES), nfc=True),
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "dbrx": SplitRule((_split(_cl100k(r"\p{N}{1,3}")), _BYTES)),  # Phi-4 and OLMo 2 too
    "tekken": SplitRule((_split(_o200k("", r"\p{N}")), _BYTES), ignore_merges=True, add_bos=True),
    "gpt-4o": _gpt4o,
    "llama4": _gpt4o,
    "deepseek-llm": SplitRule(
        (
            _split(r"[\r\n]"),
            _split(rf"\s?[{_DEEPSEEK_LETTERS}]+"),
            _split(rf"\s?[{_DEEPSEEK_PUNCTUATION}]+"),
            _split(r"\s+$"),
            _split(_DEEPSEEK_CJK),
            _EACH_DIGIT,
            _BYTES,
        )
    ),
    "deepseek-coder": SplitRule(
        (
            _split(r"[\r\n]"),
            _split(r"\s?\p{L}+"),
            _split(r"\s?\p{P}+"),
            _split(_DEEPSEEK_CJK),
            _EACH_DIGIT,
            _BYTES,
        )
    ),
    "deepseek-v3": SplitRule(
        (
            _split(r"\p{N}{1,3}"),
            _split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            _split(_DEEPSEEK3),
            _BYTES,
        )
    ),
    # No model's own: what llama.cpp does where a converter wrote no better name.
    "default": SplitRule(
        (_split(r"[\p{P}\$\+<=>\^~\|]+"), _split(_GPT2), _split(r"\p{N}+"), _split("[0-9][0-9][0-9]"), _BYTES)
    ),
}


def make_pre_tokenizer(rule: SplitRule) -> Any:
    """The steps of a rule as one `tokenizers.PreTokenizer`."""
    from tokenizers import Regex, pre_tokenizers

    def make(name: str, arguments: dict[str, Any]) -> Any:
        if "pattern" in arguments:
            arguments = {**arguments, "pattern": Regex(arguments["pattern"])}
        return getattr(pre_tokenizers, name)(**arguments)

    return pre_tokenizers.Sequence([make(*step) for step in rule.steps])
