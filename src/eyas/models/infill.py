"""Fill in the middle: the prompt by which a model writes the text between a prefix and a suffix.

The order is that of the models' training, and llama.cpp's:

    <repo>myproject
    <file>NAME                      for each extra snippet, and for the file itself
    TEXT
    <prefix>PREFIX BEGUN<suffix>SUFFIX<middle>

A model without tokens for repositories and files gets its snippets as text before the prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eyas.errors import ConfigError
from eyas.models.special_tokens import end_token_ids
from eyas.models.tokenizer import Tokenizer

# Names that no request gives; llama.cpp writes the same.
REPOSITORY, FILE = "myproject", "filename"
SNIPPET_LINE = "\n\n--- snippet ---\n\n"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of another file."""

    text: str
    filename: str = "tmp"


@dataclass(frozen=True, slots=True)
class Infill:
    """A prompt that asks for the text between two others.

    Attributes:
        begun: what of that text is written already; it follows the prefix.
        extra: pieces of other files, the most useful last; None asks for the file alone, without names.
        trim: where the context is short, leave out snippets from the first on, then the prefix's begin and
            the suffix's end; otherwise a long prompt is an error.
    """

    prefix: str
    suffix: str
    begun: str = ""
    extra: Sequence[Snippet] | None = None
    trim: bool = False


def infill_ids(
    tokenizer: Tokenizer, infill: Infill, room: int | None = None, *, parse_special: bool = False
) -> list[int]:
    """The prompt's token ids.

    Args:
        tokenizer: the model's.
        infill: its texts stay text, whatever they spell.
        room: tokens that the prompt may have at most; None is any number.
        parse_special: make tokens of the control tokens that the texts spell.

    Raises:
        ConfigError: the model has no fill-in-the-middle tokens.
    """
    fim = tokenizer.fim_token_ids
    if not can_infill(tokenizer):
        raise ConfigError(
            "this model has no fill-in-the-middle tokens; take one that has, such as Qwen2.5-Coder."
        )

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=False, parse_special=parse_special) if text else []

    prefix, suffix, begun = encode(infill.prefix), encode(infill.suffix), encode(infill.begun)
    bos = tokenizer.encode("")
    header, chunks, footer = list[int](), list[list[int]](), list[int]()
    if infill.extra is not None:
        header = [fim["repo"], *encode(f"{REPOSITORY}\n")] if "repo" in fim else []
        footer = [fim["file"], *encode(f"{FILE}\n")] if "file" in fim else []
        for snippet in infill.extra:
            name = [fim["file"], *encode(f"{snippet.filename}\n")] if footer else encode(SNIPPET_LINE)
            chunks.append(name + encode(snippet.text))
    if room is not None:
        left = max(0, room - len(bos) - len(begun) - 3)
        kept = min(len(suffix), max(left // 4, left - len(prefix)))
        prefix = prefix[max(0, len(prefix) - (left - kept)) :]
        suffix = suffix[:kept]
        left -= len(prefix) + len(suffix) + len(header) + len(footer)
        chunks = _newest(chunks, left)
        header, footer = (header, footer) if left >= 0 else ([], [])
    extra = [*header, *(token for chunk in chunks for token in chunk), *footer]
    return [
        *extra,
        *bos,
        *(fim["prefix"], *prefix, *begun),
        *(fim["suffix"], *suffix),
        fim["middle"],
    ]


def can_infill(tokenizer: Tokenizer) -> bool:
    """Whether the model has fill-in-the-middle tokens."""
    return {"prefix", "suffix", "middle"} <= tokenizer.fim_token_ids.keys()


def infill_stops(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a middle: every end that the model has, and every fill-in-the-middle token."""
    ends = end_token_ids(tokenizer.control_names, tokenizer.stop_token_ids)
    return tuple(dict.fromkeys([*ends, *tokenizer.fim_token_ids.values()]))


def _newest(chunks: list[list[int]], room: int) -> list[list[int]]:
    """The last chunks that fit together."""
    first = len(chunks)
    while first and len(chunks[first - 1]) <= room:
        first -= 1
        room -= len(chunks[first])
    return chunks[first:]
