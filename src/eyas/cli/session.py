"""Loads the model and checks the options that were typed: shared by every command that generates."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from eyas.api.llm import LLM, load
from eyas.api.options import GenerationOptions, option_names
from eyas.api.prompts import is_unicode
from eyas.cli.output import note
from eyas.cli.parser import given, model_options
from eyas.drafters.registry import find_method
from eyas.errors import ConfigError, DataError
from eyas.models import progress_bar


def load_llm(args: argparse.Namespace) -> LLM:
    """Load the model that --model and the options with it name."""
    settings = given(args, [named.name for named in model_options()])
    if not is_auto(args):
        find_method(args.method)  # before a long download
    with progress_bar() as progress:
        return load(settings.pop("model", None), progress=progress, **settings)


def announce_method(args: argparse.Namespace, llm: LLM) -> None:
    """Say which method eyas chose, if the choice was left to it; called last, so an error stands alone."""
    if is_auto(args):
        note(f"method {llm.method}{_why(llm)}")


def is_auto(args: argparse.Namespace) -> bool:
    """Whether --method was left to eyas."""
    return bool(getattr(args, "method", "auto") == "auto")


def generation_settings(args: argparse.Namespace, **own: Any) -> dict[str, Any]:
    """The generation options that were typed, over a command's `own` defaults; checked before any loading.

    Raises:
        ConfigError: a value out of bounds.
    """
    settings = own | given(args, option_names())
    GenerationOptions.from_names(settings)
    return settings


def read_prompt(text: str | None) -> str:
    """The prompt as typed, or all of standard input for `-`, without its last line break.

    Raises:
        ConfigError: there is none.
        DataError: it is not UTF-8.
    """
    if text is None and sys.stdin.isatty():
        raise ConfigError("there is no prompt; give one, or - to read it from standard input.")
    if text is None or text == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"standard input is not UTF-8 at byte {error.start}; convert it, for example with iconv."
            ) from None
    # Bytes of an argument that are not UTF-8 arrive as lone surrogates.
    if not is_unicode(text):
        raise DataError("the prompt is not UTF-8; convert it, for example with iconv.")
    if not text.strip():
        raise ConfigError("the prompt is empty; give it some text.")
    return text


def note_control_names(llm: LLM, prompt: str, settings: Mapping[str, Any]) -> None:
    """Say that names of control tokens in a prompt are taken as text, which its writer may not have meant."""
    names = () if settings.get("parse_special") else dict.fromkeys(llm.tokenizer.spelled_control(prompt))
    if names:
        note(f"the prompt spells {', '.join(names)}: taken as text; --parse-special makes tokens of them")


def _why(llm: LLM) -> str:
    if llm.loaded().head.path is not None:
        return f", with the head in {llm.loaded().head.path}"
    return (
        ", which repeats earlier text: no draft head for this model was found; give one with --head DIR, or "
        "train one with `eyas train eagle`"
    )
