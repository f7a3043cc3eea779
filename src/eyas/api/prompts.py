"""The forms of a prompt: a string (one user turn), chat messages, token ids, or a text to fill in."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from eyas.api.options import GenerationOptions
from eyas.errors import ConfigError
from eyas.models import Infill, Tokenizer
from eyas.models.infill import infill_ids

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chat:
    """Chat messages, and what else the template is given.

    Attributes:
        tools: functions that the model may call, as OpenAI describes them.
        options: further variables of the template, such as `enable_thinking`.
        shown: names of control tokens that the answer's text shows.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: Collection[str] = ()


Prompt = str | Sequence[Message] | Sequence[int] | Chat | Infill


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: it has no lone surrogate, as JSON and command lines may."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def to_token_ids(
    prompt: Prompt, tokenizer: Tokenizer, options: GenerationOptions, limit: int | None = None
) -> list[int]:
    """The token ids that a prompt becomes.

    Args:
        prompt: in any of its forms.
        tokenizer: the model's.
        options: how the prompt is to be taken, and how long the answer may be.
        limit: the model's context, in tokens, to which an `Infill` may be trimmed.

    Raises:
        ConfigError: it is empty, or none of these.
    """
    if isinstance(prompt, Chat):
        return _chat_ids(prompt, tokenizer, options)
    if isinstance(prompt, Infill):
        return _infill_ids(prompt, tokenizer, options, limit)
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
    _check_system(options)
    parts: list[object] = list(prompt)
    if not parts:
        raise ConfigError("the prompt is empty; give it at least one message or token id.")
    messages = [dict(part) for part in parts if isinstance(part, Mapping)]
    token_ids = [int(part) for part in parts if isinstance(part, Integral)]
    if len(messages) == len(parts):
        return _chat_ids(Chat(messages), tokenizer, options)
    if len(token_ids) == len(parts):
        return token_ids
    raise ConfigError(
        f"the prompt's list holds {', '.join(sorted({type(part).__name__ for part in parts}))}; give "
        "only messages or only token ids. For several prompts use generate_many."
    )


def _chat_ids(prompt: Chat, tokenizer: Tokenizer, options: GenerationOptions) -> list[int]:
    _check_system(options)
    return tokenizer.apply_chat_template(
        prompt.messages,
        tools=prompt.tools,
        options=prompt.options,
        parse_special=options.parse_special,
    )


def _check_system(options: GenerationOptions) -> None:
    if options.system is not None:
        raise ConfigError("system goes before a string; with messages or token ids, make it the first.")


def _infill_ids(
    prompt: Infill, tokenizer: Tokenizer, options: GenerationOptions, limit: int | None
) -> list[int]:
    if options.system is not None:
        raise ConfigError("system has no place before a text to fill in; leave it out.")
    if not prompt.trim or limit is None:
        return infill_ids(tokenizer, prompt, parse_special=options.parse_special)
    # One place is for the token that ends the answer; a long answer leaves half of the context.
    room = max(limit // 2, limit - options.stopping.max_new_tokens - 1)
    return infill_ids(tokenizer, prompt, room, parse_special=options.parse_special)
