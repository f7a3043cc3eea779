"""What a server allows, as one frozen dataclass; the command line is generated from it."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyas.config import Option, Options
from eyas.errors import ConfigError

MAX_DRAFT_TOKENS, MAX_DEPTH, MAX_TREE_TOP_K = 255, 16, 32  # of one request's trees: others share its passes

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings(Options):
    """Address, limits and manners of one server."""

    title: ClassVar[str] = "server"

    host: Annotated[
        str, Option("address to listen on; the default serves this machine alone", "ADDRESS", common=True)
    ] = "127.0.0.1"
    port: Annotated[
        int, Option("port to listen on; 0 takes a free one", at_least=0, at_most=65535, common=True)
    ] = 8000
    served_model_name: Annotated[
        str | None, Option("the model's name in the API; without it the model's own", "NAME", common=True)
    ] = None
    api_key: Annotated[
        str | None,
        Option(
            "refuse requests without this key; better given in the environment variable EYAS_API_KEY, as "
            "other users can see a program's arguments",
            "KEY",
            common=True,
        ),
    ] = None
    cors_origin: Annotated[
        tuple[str, ...],
        Option(
            "let pages of this origin (https://HOST:PORT, or * for any) send requests; may be repeated",
            "ORIGIN",
        ),
    ] = ()
    max_concurrent: Annotated[int, Option("answers generated at the same time", at_least=1, common=True)] = 8
    max_queue: Annotated[
        int, Option("answers that may wait; more are refused with status 429", at_least=0, common=True)
    ] = 64
    cache_tokens: Annotated[
        int | None,
        Option("tokens in all caches together; without it --max-concurrent times the context", at_least=1),
    ] = None
    keep: Annotated[
        int, Option("finished conversations whose caches are kept for their next turn", at_least=0)
    ] = 8
    deadline: Annotated[
        float, Option("seconds that a request may take, waiting included", "SECONDS", at_least=1)
    ] = 600.0
    drain: Annotated[
        float, Option("seconds that running answers get to finish after SIGTERM", "SECONDS", at_least=0)
    ] = 60.0
    max_body_bytes: Annotated[int, Option("size of a request at most, in bytes", at_least=1)] = 1 << 20
    max_n: Annotated[int, Option("answers that one request may ask for", at_least=1)] = 16
    max_stop: Annotated[int, Option("stop strings that one request may give", at_least=0)] = 16
    log_prompts: Annotated[bool, Option("write prompts and answers into the log", common=True)] = False

    def check(self) -> None:
        """Raise ConfigError for an address or a key that would protect nothing."""
        if not self.host.strip():
            raise ConfigError(
                "host is empty, which would listen on every address; give one, such as 127.0.0.1, or 0.0.0.0 "
                "for all."
            )
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("api_key is empty; give it some characters, or leave it out.")
        for origin in self.cors_origin:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"cors_origin is {origin!r}, but an origin is a scheme, a host and perhaps a port, "
                    "such as http://localhost:3000, or * for any."
                )

    def limit_tokens(self, context_limit: int) -> int:
        """Tokens that all caches may hold together, for a model of this context."""
        if self.cache_tokens is not None:
            return self.cache_tokens
        return self.max_concurrent * (context_limit + 1 + MAX_DRAFT_TOKENS)
