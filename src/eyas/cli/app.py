"""`eyas`: puts the commands together, and turns errors into one line and an exit code.

0 is success, 1 a check that failed (`eval`), 2 an error of the user's, 130 Ctrl-C, 141 a reader that left.
A bug of ours keeps its traceback.
"""

import argparse
import errno
import io
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import eyas
from eyas.cli.output import drop_stdout, note, open_streams
from eyas.cli.parser import Parser
from eyas.drafters.registry import methods
from eyas.errors import EyasError

# Commands in the order of the help, and the module of each in this package.
COMMANDS = {
    "generate": "generate",
    "chat": "chat",
    "serve": "serve",
    "tree": "tree",
    "pull": "models",
    "models": "models",
    "heads": "heads",
    "train": "train",
    "export-head": "export",
    "eval": "evaluate",
    "bench": "bench",
    "calibrate": "calibrate",
    "profile": "profile",
    "doctor": "doctor",
}
INTERRUPTED = 130
READER_LEFT = 141
# Errors of the system that a user can solve, with the remedy; any other OSError would be a bug of ours.
REFUSALS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "choose a place that you may use",
    errno.EPERM: "choose a place that you may use",
    errno.EROFS: "choose a place that can be written",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a place inside a folder",
    errno.EEXIST: "choose another place",
    errno.EBUSY: "choose another place",
    errno.ENOENT: "make the folder first",
    errno.ELOOP: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def build_parser(command: str | None = None) -> Parser:
    """The parser of one command, or of all if the word is not a command (`--help`, a typing error).

    One command does not wait for the imports of the others.
    """
    parser = Parser(
        prog="eyas",
        description=(eyas.__doc__ or "").split("\n")[0],
        epilog=_methods(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"eyas {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = [COMMANDS[command]] if command in COMMANDS else dict.fromkeys(COMMANDS.values())
    for module in wanted:
        import_module(f"eyas.cli.{module}").add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ?
    # Warnings of torch and transformers are for programmers, and would stand between answer and statistics.
    warnings.filterwarnings("ignore", module=r"(torch|transformers)\b")
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        args = build_parser(words[0] if words else None).parse_args(words)
        args.command_line = shlex.join(["eyas", *words])
        code = args.run(args)
        sys.stdout.flush()
        return int(code)
    except SystemExit as stop:  # --help and --version have printed
        return int(stop.code or 0)
    except EyasError as error:
        note(f"error: {_one_line(str(error))}")
        return error.exit_code
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        drop_stdout()
        return READER_LEFT
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        note(f"error: {place}{error.strerror}; {REFUSALS[error.errno]}.")
        return EyasError.exit_code


def _methods() -> str:
    """Every method with what it promises: "ids" are exactly plain decoding's token ids."""
    known = methods()
    width = max(len(name) for name in known)
    lines = [
        f"  {name:<{width}}  lossless: {method.lossless:<12}  {method.summary}"
        for name, method in known.items()
    ]
    return "\n".join(["methods (ids: exactly plain decoding's token ids):", *lines])


def _version() -> str:
    try:
        return version("eyas")
    except PackageNotFoundError:  # run from its sources
        return eyas.__version__


def _one_line(message: str) -> str:
    return " ".join(message.split())
