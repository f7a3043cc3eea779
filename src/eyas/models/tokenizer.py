"""The tokenizer of a model: text to token ids and back, and chats to prompts."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from eyas.errors import ConfigError, ModelError
from eyas.models.chat_template import ChatTemplate
from eyas.models.decoding import Decoding, StreamDecoder
from eyas.models.encoding import Encoding
from eyas.models.gguf_tokenizer import GGUFTokenizer
from eyas.models.sources import is_gguf, open_gguf
from eyas.models.special_tokens import fim_token_ids
from eyas.models.weights import read_json, text_config

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_STOPS = ("generation_config.json", "config.json")


class Tokenizer:
    """The tokenizer of a Hugging Face directory or a GGUF file.

    Args:
        backend: a `tokenizers.Tokenizer`.
        chat_template: Jinja source, or None.
        special_names: bos_token and so on, as templates use them.
        stop_token_ids: the model's own.
        fim_token_ids: fill-in-the-middle tokens by part (prefix, suffix, middle, pad, repo, file).
    """

    def __init__(
        self,
        backend: Any,
        *,
        chat_template: str | None = None,
        special_names: Mapping[str, str] | None = None,
        stop_token_ids: Sequence[int] = (),
        fim_token_ids: Mapping[str, int] | None = None,
    ) -> None:
        self._backend = backend
        # A tokenizer.json may cut or pad every text; a prompt must come whole or be refused.
        backend.no_truncation()
        backend.no_padding()
        self._encoding = Encoding(backend)
        self._decoding = Decoding.of(backend)
        self._chat_template = (
            None if chat_template is None else ChatTemplate(chat_template, self._encoding.control)
        )
        self._special_names = dict(special_names or {})
        self.stop_token_ids = tuple(stop_token_ids)
        self.fim_token_ids = dict(fim_token_ids or {})
        self.special_ids = self._decoding.special_ids

    @classmethod
    def load(cls, model: Path) -> "Tokenizer":
        """The tokenizer of a model: a directory with tokenizer.json and its companions, or a GGUF file.

        Raises:
            ModelError: it has none, or one that is broken or of an unknown kind.
        """
        return cls._from_gguf(model) if is_gguf(model) else cls._from_directory(model)

    @classmethod
    def _from_gguf(cls, path: Path) -> "Tokenizer":
        fields = open_gguf(path).fields
        try:
            described = GGUFTokenizer(fields)
            settings = described.settings()
            return cls(
                described.build(),
                chat_template=default_template(settings),
                special_names=special_names(settings),
                stop_token_ids=described.end_ids,
                fim_token_ids=described.fim_ids,
            )
        except KeyError as error:
            raise ModelError(
                f"{path} has no {error.args[0]}, which its tokenizer needs; get a newer file of this model."
            ) from error
        except (TypeError, ValueError) as error:
            raise ModelError(f"{path} has a tokenizer that cannot be rebuilt: {error}.") from error

    @classmethod
    def _from_directory(cls, directory: Path) -> "Tokenizer":
        from tokenizers import Tokenizer as Backend

        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{directory} has no tokenizer.json; save the model's fast tokenizer there.")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} cannot be read ({error}); fetch it again.") from error
        settings = _optional(directory / "tokenizer_config.json")
        names = special_names(settings)
        added = {token.content: token_id for token_id, token in backend.get_added_tokens_decoder().items()}
        return cls(
            backend,
            chat_template=_chat_template(directory, settings),
            special_names=names,
            stop_token_ids=_stop_token_ids(directory, names, backend),
            fim_token_ids=fim_token_ids(added),
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._backend.get_vocab_size())

    def is_special(self, token_id: int) -> bool:
        """Whether a token has no text of its own: a BOS, the end of a turn."""
        return token_id in self.special_ids

    @property
    def control_names(self) -> Mapping[str, int]:
        """Ids of the control tokens by name: `<|im_end|>`, a BOS."""
        return self._encoding.control

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: where it spells a control token (`<|im_end|>`), it is text all the same.
            add_special: add the model's own tokens around it, such as a BOS.
            parse_special: make tokens of the control tokens that the text spells.

        Raises:
            ConfigError: the text is not Unicode (bytes of another encoding on the command line).
        """
        try:
            return self._encoding.encode(text, add_special=add_special, parse_special=parse_special)
        except (UnicodeEncodeError, TypeError) as error:
            raise _not_unicode() from error

    def spelled_control(self, text: str) -> list[str]:
        """The control tokens that a text spells, in order."""
        return self._encoding.spelled(text)

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids; unknown ids have none."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=skip_special))

    def token_text(self, token_id: int) -> str:
        """The text of a token within an answer, its leading space included; a special token's name."""
        return self._decoding.token_text(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, which may be a part of a character."""
        return self._decoding.token_bytes(token_id)

    def stream_decoder(self, shown: Collection[str] = ()) -> StreamDecoder:
        """A decoder for one answer, in whose text the control tokens of these names are shown."""
        control = self._encoding.control
        return self._decoding.stream({control[name]: name for name in shown if name in control})

    @property
    def chat_template(self) -> str:
        """The chat template's source; empty without one."""
        return "" if self._chat_template is None else self._chat_template.source

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        parse_special: bool = False,
    ) -> list[int]:
        """Ids of a conversation in the model's own format.

        Args:
            messages: their texts cannot make control tokens, however they are spelled.
            tools: functions that the model may call, as OpenAI describes them.
            options: further variables of the template, such as `enable_thinking`.
            add_generation_prompt: end with the begin of an answer.
            parse_special: make tokens of the control tokens that messages spell, too.

        Raises:
            ConfigError: the model has no template, or its template refuses these messages.
        """
        if self._chat_template is None:
            raise ConfigError("this model has no chat template; use --raw and write the whole prompt.")
        for message in messages:
            if not {"role", "content"} <= message.keys():
                raise ConfigError(f"a chat message needs role and content, but one has {sorted(message)}.")
        chat = [dict(message) for message in messages]
        own = {"add_generation_prompt": add_generation_prompt, **self._special_names}
        given = {name: value for name, value in (options or {}).items() if name not in (*own, "messages")}
        given["tools"] = [dict(tool) for tool in tools] or None
        if parse_special:
            text = self._chat_template.render(messages=chat, **given, **own)
            return self.encode(text, add_special=False, parse_special=True)
        text, mark = self._chat_template.render_marked(chat, given, **own)
        try:
            return self._encoding.encode_marked(text, mark)
        except (UnicodeEncodeError, TypeError) as error:
            raise _not_unicode() from error


def special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """bos_token and so on, of a tokenizer_config.json."""
    named = {role: settings.get(role) for role in _ROLES}
    named = {role: name.get("content") if isinstance(name, dict) else name for role, name in named.items()}
    return {role: name for role, name in named.items() if isinstance(name, str)}


def default_template(settings: Mapping[str, Any]) -> str | None:
    """The chat template of a tokenizer_config.json; of several, the one named "default"."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _not_unicode() -> ConfigError:
    return ConfigError("the text holds bytes that are not UTF-8; give it in UTF-8.")


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """From chat_template.jinja, chat_template.json or tokenizer_config.json, in transformers' order."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return default_template({**settings, **_optional(directory / "chat_template.json")})


def _stop_token_ids(directory: Path, names: Mapping[str, str], backend: Any) -> tuple[int, ...]:
    for path in (directory / name for name in _STOPS):
        config = _optional(path)
        stops = config.get("eos_token_id")
        if stops is None:
            stops = text_config(config).get("eos_token_id")
        if stops is None:
            continue
        ids = stops if isinstance(stops, list) else [stops]
        if not all(isinstance(token_id, int) for token_id in ids):
            raise ModelError(f"{path} has eos_token_id {stops!r}; it must be a token id or a list of them.")
        return tuple(ids)
    token_id = backend.token_to_id(names.get("eos_token", ""))
    return () if token_id is None else (int(token_id),)
