"""Tokens that mean something instead of being text: those that end an answer, and fill-in-the-middle ones.

Metadata name some of them by id, but seldom all: a Llama 3 file names one of its three ends. So they are also
known by their names, which the field shares.
"""

import re
from collections.abc import Iterable, Mapping

# `<|im_end|>`, and DeepSeek's with full-width bars: no text looks like this by chance.
_CONTROL_NAME = re.compile(r"<[|\uff5c].+[|\uff5c]>")

END_NAMES = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|EOT|>",
    "<|return|>",
    "<|call|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
    "<eos>",
    "</s>",
)
# In OpenAI's harmony format `<|end|>` ends a message, after which the answer goes on.
_HARMONY = {"<|return|>", "<|call|>"}

FIM_NAMES = {
    "prefix": (
        "<|fim_prefix|>",
        "<fim_prefix>",
        "<fim-prefix>",
        "<\uff5cfim\u2581begin\uff5c>",
        "\u2581<PRE>",
    ),
    "suffix": (
        "<|fim_suffix|>",
        "<fim_suffix>",
        "<fim-suffix>",
        "<\uff5cfim\u2581hole\uff5c>",
        "\u2581<SUF>",
    ),
    "middle": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<\uff5cfim\u2581end\uff5c>", "\u2581<MID>"),
    "pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "repo": ("<|repo_name|>", "<|fim_repo|>", "<reponame>"),
    "file": ("<|file_sep|>", "<file_sep>"),
}


def is_control_name(token: str) -> bool:
    """Whether a token's text shows that it is a control token, whatever its file calls it."""
    return token.startswith("<") and _CONTROL_NAME.fullmatch(token) is not None


def end_token_ids(control: Mapping[str, int], given: Iterable[int] = ()) -> tuple[int, ...]:
    """The tokens that end an answer: those that metadata give, then those known by name.

    Args:
        control: ids of the control tokens by name; a `</s>` that is text (a tag, in Gemma) is none.
        given: ids that metadata name as ends.
    """
    goes_on = "<|end|>" if control.keys() >= _HARMONY else None
    known = (control[name] for name in END_NAMES if name in control and name != goes_on)
    return tuple(dict.fromkeys([*given, *known]))


def fim_token_ids(vocabulary: Mapping[str, int], given: Mapping[str, int] | None = None) -> dict[str, int]:
    """The fill-in-the-middle tokens that a model has, by their part: prefix, suffix, middle, pad, repo, file.

    Args:
        vocabulary: ids of control and added tokens by name.
        given: ids that metadata name, by part.
    """
    found = {
        part: next((vocabulary[name] for name in names if name in vocabulary), None)
        for part, names in FIM_NAMES.items()
    }
    return {part: token for part, token in found.items() if token is not None} | dict(given or {})
