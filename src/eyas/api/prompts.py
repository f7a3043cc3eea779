"""The forms of a prompt: a string (one user turn), chat messages, or token ids."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from eyas.api.options import GenerationOptions
from eyas.errors import ConfigError
from eyas.models import Tokenizer

Message = Mapping[str, str]
Prompt = str | Sequence[Message] | Sequence[int]


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: it has no lone surrogate, as JSON and command lines may."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def to_token_ids(prompt: Prompt, tokenizer: Tokenizer, options: GenerationOptions) -> list[int]:
    """The token ids that a prompt becomes.

    Raises:
        ConfigError: it is empty, or none of the three.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ConfigError("the prompt is empty; give it some text.")
        if options.raw:
            return tokenizer.encode(prompt, parse_special=options.parse_special)
        system = [] if options.system is None else [{"role": "system", "content": options.system}]
        turns = [*system, {"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(turns, parse_special=options.parse_special)
    if isinstance(prompt, bytes) or not isinstance(prompt, Iterable):
        raise ConfigError(f"the prompt is of type {type(prompt).__name__}; give a string, messages or ids.")
    if options.system is not None:
        raise ConfigError("system goes before a string; with messages or token ids, make it the first.")
    parts: list[object] = list(prompt)
    if not parts:
        raise ConfigError("the prompt is empty; give it at least one message or token id.")
    messages = [dict(part) for part in parts if isinstance(part, Mapping)]
    token_ids = [int(part) for part in parts if isinstance(part, Integral)]
    if len(messages) == len(parts):
        return tokenizer.apply_chat_template(messages, parse_special=options.parse_special)
    if len(token_ids) == len(parts):
        return token_ids
    raise ConfigError(
        f"the prompt's list holds {', '.join(sorted({type(part).__name__ for part in parts}))}; give "
        "only messages or only token ids. For several prompts use generate_many."
    )
