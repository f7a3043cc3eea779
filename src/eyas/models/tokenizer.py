"""Text to token ids and back, chat templates, and decoding token by token."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eyas.errors import ConfigError, ModelError
from eyas.models.weights import read_json

_REPLACEMENT = "�"
_LONGEST_CHARACTER = 4  # bytes, so also the most tokens that one character can be spread over


class Tokenizer:
    """The tokenizer of a Hugging Face directory.

    Args:
        backend: a `tokenizers.Tokenizer`.
        chat_template: Jinja source, or None.
        special_names: bos_token and so on, as templates use them.
        stop_token_ids: the model's own.
    """

    def __init__(
        self,
        backend: Any,
        *,
        chat_template: str | None = None,
        special_names: Mapping[str, str] | None = None,
        stop_token_ids: Sequence[int] = (),
    ) -> None:
        self._backend = backend
        self._chat_template = chat_template
        self._special_names = dict(special_names or {})
        self.stop_token_ids = tuple(stop_token_ids)
        self.special_ids = frozenset(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read tokenizer.json and its companions.

        Raises:
            ModelError: no or broken tokenizer.json.
        """
        from tokenizers import Tokenizer as Backend

        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{directory} has no tokenizer.json; save the model's fast tokenizer there.")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} cannot be read ({error}); fetch it again.") from error
        settings = _optional(directory / "tokenizer_config.json")
        names = {
            key: value["content"] if isinstance(value, dict) else value
            for key, value in settings.items()
            if key in ("bos_token", "eos_token", "unk_token", "pad_token") and value is not None
        }
        return cls(
            backend,
            chat_template=_chat_template(directory, settings),
            special_names=names,
            stop_token_ids=_stop_token_ids(directory, names, backend),
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._backend.get_vocab_size())

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Ids of a text; `add_special` adds what the model wants around it (a BOS, say)."""
        return list(self._backend.encode(text, add_special_tokens=add_special).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=skip_special))

    def stream_decoder(self) -> "StreamDecoder":
        """A decoder for one answer."""
        return StreamDecoder(self)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Ids of a conversation in the model's own format.

        Raises:
            ConfigError: the model has no template, or its template refuses these messages.
        """
        if self._chat_template is None:
            raise ConfigError("this model has no chat template; use --raw and write the prompt whole.")
        for message in messages:
            if not {"role", "content"} <= message.keys():
                raise ConfigError(f"a chat message needs role and content, but one has {sorted(message)}.")
        text = _render(
            self._chat_template,
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            **self._special_names,
        )
        return self.encode(text, add_special=False)


class StreamDecoder:
    """Text of an answer as it becomes certain; joined, the pieces are `decode` of all ids.

    Each push decodes a short window only: the tokens whose text is not out yet behind one token that is, since
    a token's text may depend on its left neighbour (a leading space).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # the token before, then those whose text is not out
        self._shown = 0  # characters of the window's text that are out

    def push(self, token_id: int) -> str:
        """Text that this token makes certain; a special token has none."""
        if token_id in self._tokenizer.special_ids:
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        # An incomplete character shows as a replacement. After four tokens it is a real one.
        if text.endswith(_REPLACEMENT) and not self._is_settled(text):
            return ""
        piece = text[self._shown :]
        self._window = self._window[-1:]
        self._shown = len(self._tokenizer.decode(self._window))
        return piece

    def flush(self) -> str:
        """The rest, incomplete characters as replacement characters."""
        text = self._tokenizer.decode(self._window)
        piece = text[self._shown :]
        self._shown = len(text)
        return piece

    def _is_settled(self, text: str) -> bool:
        return len(self._window) > _LONGEST_CHARACTER + 1 and len(text) - self._shown > _LONGEST_CHARACTER


def _render(template: str, **values: Any) -> str:
    """A chat template in Jinja's immutable sandbox: it can read what it is given, and nothing else."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    try:
        return environment.from_string(template).render(**values)
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"the model's chat template refuses this conversation ({reason[0]}); change it, or use --raw."
        ) from error


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """From chat_template.jinja, chat_template.json or tokenizer_config.json, in transformers' order."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _optional(directory / "chat_template.json").get("chat_template", settings.get("chat_template"))
    if isinstance(template, list):  # several named ones
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def _stop_token_ids(directory: Path, names: Mapping[str, str], backend: Any) -> tuple[int, ...]:
    for file in ("generation_config.json", "config.json"):
        stops = _optional(directory / file).get("eos_token_id")
        if stops is not None:
            return tuple(stops) if isinstance(stops, list) else (int(stops),)
    token_id = backend.token_to_id(names.get("eos_token", ""))
    return () if token_id is None else (int(token_id),)
