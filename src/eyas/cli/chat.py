"""`eyas chat`: a conversation in the terminal, or line by line over a pipe."""

import argparse
import sys
from collections.abc import Iterable
from contextlib import suppress

from eyas.api.llm import Conversation
from eyas.cli.aliases import add_aliases, resolve_aliases
from eyas.cli.output import note, statistics_line, write
from eyas.cli.parser import Commands, add_generation_options, add_model_options
from eyas.cli.session import announce_method, generation_settings, load_llm
from eyas.engine.cycle import Piece
from eyas.errors import DataError, EyasError

NOT_HERE = ("n", "logprobs", "raw")
PROMPT = "> "


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "chat",
        help="a conversation in the terminal",
        description="A conversation. /reset starts a new one, /exit or Ctrl-D leaves, Ctrl-C stops an "
        "answer. On a terminal answers are rendered as Markdown; in a pipe, or with --plain, they are "
        "plain text.",
    )
    parser.add_argument("--plain", action="store_true", help="print answers as plain text on a terminal too")
    add_model_options(parser)
    add_generation_options(parser, leave_out=NOT_HERE)
    add_aliases(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer each line until the input ends."""
    resolve_aliases(args)
    settings = generation_settings(args)
    llm = load_llm(args)
    conversation = llm.conversation(**settings)
    announce_method(args, llm)
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # line editing and history, where Python has them
            import readline  # noqa: F401
        note("/reset starts a new conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer")
    while True:
        try:
            line = _read(interactive)
            if line is None or line.strip() == "/exit":
                return 0
            if line.strip() == "/reset":
                conversation = llm.conversation(**settings)
                note("a new conversation")
            elif line.strip():
                _turn(conversation, line, args.plain)
        except EyasError as error:
            if not interactive:
                raise
            note(f"error: {error} (/reset starts a new conversation)")
        except KeyboardInterrupt:
            if not interactive:
                raise
            write("\n")


def _read(interactive: bool) -> str | None:
    """The next line; None at the end of the input."""
    if interactive and sys.stdout.isatty():
        try:
            return input(PROMPT)
        except EOFError:
            write("\n")
            return None
    if interactive:
        print(PROMPT, end="", file=sys.stderr, flush=True)
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 ({error.reason}); convert it, with iconv.") from None
    return line.removesuffix("\n") if line else None


def _turn(conversation: Conversation, line: str, is_plain: bool) -> None:
    answer = conversation.say(line)
    try:
        if is_plain or not sys.stdout.isatty():
            for piece in answer:
                write(piece.text)
        else:
            _show(answer)
    except KeyboardInterrupt:
        write("\n")
        note("stopped")
        return
    finally:
        answer.close()
    write("\n")
    if conversation.last is not None:
        note(statistics_line([conversation.last.stats], conversation.last.config))


def _show(answer: Iterable[Piece]) -> None:
    """An answer as Markdown on the terminal."""
    from eyas.cli.markdown import MarkdownWriter

    with MarkdownWriter() as terminal:
        for piece in answer:
            terminal.write(piece.text)
