"""Chat templates: programs that came with a model, run where they can read only what they are given.

The environment is the one that transformers gives them (block trimming, loop controls, `tojson`,
`raise_exception`, `strftime_now`, `{% generation %}`), on Jinja's immutable sandbox.
"""

import datetime
import json
from functools import cached_property
from typing import Any

from eyas.errors import ConfigError


class ChatTemplate:
    """A model's template, compiled at its first use.

    Args:
        source: Jinja.
    """

    def __init__(self, source: str) -> None:
        self._source = source

    @cached_property
    def _template(self) -> Any:
        return _environment().from_string(self._source)

    def render(self, **values: Any) -> str:
        """The text of a conversation.

        Raises:
            ConfigError: the template cannot be parsed, refuses the conversation, or fails.
        """
        try:
            return str(self._template.render(tools=None, documents=None, **values))
        except Exception as error:  # the template is a foreign program: it may fail in any way
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                f"the model's chat template refuses this conversation ({reason[0][:200]}); change the "
                "messages, or use --raw."
            ) from error


def _environment() -> Any:
    from jinja2 import TemplateError, nodes
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
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
