"""`eyas serve`: an HTTP server that any OpenAI client speaks to."""

import argparse
import os
from importlib.util import find_spec

from eyas.cli.output import note
from eyas.cli.parser import Commands, add_model_options, add_options, given
from eyas.cli.session import announce_method, load_llm
from eyas.config import options_of
from eyas.errors import ConfigError
from eyas.serve.settings import ServeSettings

KEY_VARIABLE = "EYAS_API_KEY"
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        help="an HTTP server that OpenAI clients speak to",
        description="Serve a model over HTTP in OpenAI's format, several requests at a time. "
        "SIGTERM or Ctrl-C lets running answers end.",
    )
    add_model_options(parser)
    add_options(parser, ServeSettings)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f'this installation lacks {", ".join(missing)}; run `pip install "eyas[serve]"`.')
    chosen = given(args, [named.name for named in options_of(ServeSettings)])
    if KEY_VARIABLE in os.environ:
        chosen.setdefault("api_key", os.environ[KEY_VARIABLE])
    settings = ServeSettings(**chosen)
    llm = load_llm(args)
    announce_method(args, llm)

    from eyas.serve.run import serve

    serve(llm, settings, lambda url: note(f"serving on {url}; Ctrl-C ends it"))
    return 0
