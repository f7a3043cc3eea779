"""Chat templates: programs that came with a model, run where they can read only what they are given.

The environment is the one that transformers gives them (block trimming, loop controls, `tojson`,
`raise_exception`, `strftime_now`, `{% generation %}`), on Jinja's immutable sandbox.

A rendered chat is one string, in which `<|im_end|>` may be the template's, a control token, or a person's, a
text. To tell them apart, `render_marked` puts a mark into the texts of a conversation behind each sign that
may begin a control token: `<` becomes `<` and the mark, and no control token begins there any more, whatever
the template does to the text (trim, split, replace, tojson). A sign that begins a string of the template
itself stays as it is: a template that looks for `</think>` in an answer finds it.
"""

import datetime
import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

from eyas.errors import ConfigError

_MARKS = "__marks__"  # the variable that filters find them in


class Marks:
    """Puts marks into texts, and takes them out.

    Args:
        mark: a sign that occurs nowhere else.
        begin: matches the signs that get a mark behind them.
        kept: strings that do not, at their begin.
    """

    def __init__(self, mark: str, begin: re.Pattern[str], kept: tuple[str, ...]) -> None:
        self.mark = mark
        self._begin = begin
        self._kept = kept

    def put(self, value: Any) -> Any:
        """A conversation, or a part of one, with marks in its texts."""
        return _map_texts(self._put, value)

    def take(self, value: Any) -> Any:
        """The same without marks."""
        return _map_texts(lambda text: text.replace(self.mark, ""), value)

    def _put(self, text: str) -> str:
        def marked(begin: re.Match[str]) -> str:
            is_kept = text.startswith(self._kept, begin.start())
            return begin.group() if is_kept else begin.group() + self.mark

        return self._begin.sub(marked, text)


class ChatTemplate:
    """A model's template, compiled at its first use.

    Args:
        source: Jinja.
        control_names: of the model's control tokens.
    """

    def __init__(self, source: str, control_names: Collection[str] = ()) -> None:
        self._source = source
        self._names = tuple(name for name in control_names if name)
        signs = sorted({re.escape(name[0]) for name in self._names})
        self._begin = re.compile("|".join(signs) or r"(?!)")

    @cached_property
    def _template(self) -> Any:
        return _environment().from_string(self._source)

    @cached_property
    def _kept(self) -> tuple[str, ...]:
        """The strings in the template's expressions that neither begin nor hold a control token."""
        from jinja2 import TemplateError, nodes

        try:
            constants = [node.value for node in _environment().parse(self._source).find_all(nodes.Const)]
        except TemplateError:  # `render` says so
            return ()
        words = {word for word in constants if isinstance(word, str) and self._begin.match(word)}
        return tuple(
            word
            for word in sorted(words)
            if not any(name.startswith(word) or word.startswith(name) for name in self._names)
        )

    @property
    def source(self) -> str:
        """The template itself."""
        return self._source

    def render_marked(
        self, messages: Any, given: Mapping[str, Any] | None = None, **values: Any
    ) -> tuple[str, str]:
        """The text of a conversation in which no message can begin a control token, and the mark in it.

        Args:
            messages: the conversation; texts at any depth are marked.
            given: what else came from outside, such as tools; marked, too.
            values: what else the template gets, as it is.

        Raises:
            ConfigError: as `render`.
        """
        given = {**(given or {}), "messages": messages}
        marks = Marks(_unused_sign(self._source, given, values), self._begin, self._kept)
        return self.render(**marks.put(given), **{_MARKS: marks}, **values), marks.mark

    def render(self, **values: Any) -> str:
        """The text of a conversation.

        Raises:
            ConfigError: the template cannot be parsed, refuses the conversation, or fails.
        """
        try:
            return str(self._template.render(**{"tools": None, "documents": None, **values}))
        except Exception as error:  # the template is a foreign program: it may fail in any way
            marks: Marks | None = values.get(_MARKS)
            told = str(error) if marks is None else marks.take(str(error))
            reason = told.strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                f"the model's chat template refuses this conversation ({reason[0][:200]}); change the "
                "messages, or use --raw."
            ) from error


def _environment() -> Any:
    from jinja2 import TemplateError, nodes, pass_context
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; here it is just its content."""

        tags = {"generation"}  # noqa: RUF012 (Jinja reads it from the class)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    # Jinja's own tojson escapes HTML.
    environment.filters["tojson"] = pass_context(_to_json)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment


def _to_json(
    context: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    marks: Marks | None = context.get(_MARKS)
    if marks is not None:
        value = marks.take(value)
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return text if marks is None else str(marks.put(text))


def _map_texts(change: Callable[[str], str], value: Any) -> Any:
    """A value of strings, lists and mappings with each string changed, but for names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            key if not isinstance(key, str) or key.isidentifier() else change(key): _map_texts(change, item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_map_texts(change, item) for item in value]
    return value


def _unused_sign(*values: Any) -> str:
    """A printable sign (cuneiform, to begin with) that none of the values has."""
    used: set[str] = set()

    def note(text: str) -> str:
        used.update(text)
        return text

    _map_texts(note, list(values))
    return next(
        sign for sign in map(chr, range(0x12000, 0x110000)) if sign.isprintable() and sign not in used
    )
