"""What a target is asked: kinds of prompts, each a dataclass whose fields are those of its lines.

    {"prompt": ".."}                        Question
    {"messages": [{"role": "user", ..}]}    Conversation
    {"prefix": "..", "suffix": ".."}        FillInTheMiddle
    {"instruction": "..", "text": ".."}     Edit

A further kind is a class here and its name in `KINDS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from eyas.errors import ConfigError, DataError
from eyas.models import Infill, Tokenizer
from eyas.models.infill import infill_ids, infill_stops
from eyas.training.json_lines import Row, check_text, read_rows, row_field, row_id


@dataclass(frozen=True)
class Content(ABC):
    """What a prompt says. Its fields are texts unless a kind reads them in another way."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields of a line of this kind."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def read(cls, row: Row, path: Path, number: int) -> Self:
        """From a line.

        Raises:
            DataError: a field is missing or broken.
        """
        texts = {name: row_field(row, name, str, path, number) for name in cls.names()}
        for name, text in texts.items():
            check_text(text, name, path, number)
        return cls(**texts)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to answer."""
        return not any(getattr(self, name).strip() for name in self.names())

    @abstractmethod
    def token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids of the prompt, up to where the answer begins.

        Raises:
            ConfigError: the model has no such prompts.
        """

    def stop_token_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:  # noqa: ARG002 - most have none
        """Tokens that end an answer, besides the model's own."""
        return ()


@dataclass(frozen=True)
class Question(Content):
    """A user's question."""

    prompt: str

    def token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """By the chat template."""
        return tokenizer.apply_chat_template([{"role": "user", "content": self.prompt}])


@dataclass(frozen=True)
class Conversation(Content):
    """Messages with roles. An assistant's last one is left out: the target gives its own."""

    messages: tuple[Mapping[str, str], ...]

    @classmethod
    def read(cls, row: Row, path: Path, number: int) -> Self:
        """Each message has a role and a content, both texts."""
        messages = row_field(row, "messages", list, path, number)
        for message in messages:
            if not isinstance(message, dict):
                raise DataError(f"{path}, line {number}: messages hold objects only; correct or delete it.")
            for name in ("role", "content"):
                check_text(row_field(message, name, str, path, number), name, path, number)
        if messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return cls(tuple({name: m[name] for name in ("role", "content")} for m in messages))

    @property
    def is_empty(self) -> bool:
        """Whether no message says anything."""
        return not any(message["content"].strip() for message in self.messages)

    def token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """By the chat template."""
        return tokenizer.apply_chat_template(self.messages)


@dataclass(frozen=True)
class FillInTheMiddle(Content):
    """A text with a gap, which the answer fills."""

    prefix: str
    suffix: str

    def token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Prefix, suffix, middle, with the model's own tokens for these."""
        return infill_ids(tokenizer, Infill(self.prefix, self.suffix))

    def stop_token_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """All ends, and all fill-in-the-middle tokens: after one of them another text begins."""
        return infill_stops(tokenizer)


@dataclass(frozen=True)
class Edit(Content):
    """A text to be changed as an instruction says. The answer repeats most of it."""

    instruction: str
    text: str

    def token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """By the chat template: the instruction, and the text below it."""
        content = f"{self.instruction}\n\n{self.text}"
        return tokenizer.apply_chat_template([{"role": "user", "content": content}])


KINDS: tuple[type[Content], ...] = (Question, Conversation, FillInTheMiddle, Edit)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its name."""

    id: str
    content: Content
    category: str = ""

    def token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids of the prompt.

        Raises:
            ConfigError: the model has no such prompts; names this one.
        """
        try:
            return self.content.token_ids(tokenizer)
        except ConfigError as error:
            raise ConfigError(f"the prompt {self.id!r} cannot be asked: {error}") from error


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts from JSON lines of any kind, with `id` and `category` where these are given.

    Raises:
        DataError: a broken line, by its number, or an empty file.
    """
    prompts = [_prompt(row, path, number) for number, row in read_rows(path)]
    if not prompts:
        raise DataError(f'{path} holds no prompts; give it a line {{"prompt": ".."}} for each.')
    return prompts


def _prompt(row: Row, path: Path, number: int) -> Prompt:
    kinds = [kind for kind in KINDS if set(kind.names()) <= row.keys()]
    if len(kinds) > 1:
        listed = " and ".join("/".join(kind.names()) for kind in kinds)
        raise DataError(f"{path}, line {number}: it is two prompts in one ({listed}); make them two lines.")
    kind = kinds[0] if kinds else next((k for k in KINDS if set(k.names()) & row.keys()), Question)
    content = kind.read(row, path, number)
    return Prompt(row_id(row, str(number), path, number), content, str(row.get("category", "")))


def listed_fields() -> str:
    """The fields of all kinds, for help texts."""
    return " or ".join(" and ".join(f'"{name}"' for name in kind.names()) for kind in KINDS)
