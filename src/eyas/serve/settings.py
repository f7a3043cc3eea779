"""What a server allows, as one frozen dataclass; the command line is generated from it."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from eyas.errors import ConfigError

MAX_DRAFT_TOKENS, MAX_DEPTH = 255, 16  # of one request's trees: others share its passes


def _setting(default: Any, text: str) -> Any:
    """A field with its default and help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Address, limits and manners of one server."""

    host: str = _setting("127.0.0.1", "address to listen on; the default is this machine alone")
    port: int = _setting(8000, "port to listen on; 0 takes a free one")
    served_model_name: str | None = _setting(None, "the model's name in the API; without it the model's own")
    api_key: str | None = _setting(
        None, "ask for this key (better in the environment variable EYAS_API_KEY: arguments are visible)"
    )
    max_concurrent: int = _setting(8, "answers made at the same time")
    max_queue: int = _setting(64, "answers that may wait; more are refused with status 429")
    cache_tokens: int | None = _setting(
        None, "tokens that all caches may hold; without it what max-concurrent full contexts need"
    )
    keep: int = _setting(8, "finished conversations whose caches are kept for their next turn")
    deadline: float = _setting(600.0, "seconds that a request may take, waiting included")
    drain: float = _setting(60.0, "seconds that running answers get to end after SIGTERM")
    max_body_bytes: int = _setting(1 << 20, "size of a request's body")
    max_n: int = _setting(16, "answers that one request may ask for")
    max_stop: int = _setting(16, "stop strings of a request")
    log_prompts: bool = _setting(False, "write prompts and answers into the log")

    def __post_init__(self) -> None:
        least = {"port": 0, "max_queue": 0, "keep": 0, "drain": 0, "max_stop": 0}
        for item in fields(self):
            value, low = getattr(self, item.name), least.get(item.name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not (math.isfinite(value) and value >= low):
                raise ConfigError(f"{item.name} is {value}, but it must be a number of at least {low}.")
        if self.port > 65535:
            raise ConfigError(f"port is {self.port}, but ports end at 65535.")
        if not self.host.strip():
            raise ConfigError(
                "host is empty, which would listen on every address; give one, such as 127.0.0.1, or 0.0.0.0 "
                "for all."
            )
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("api_key is empty; give it some characters, or leave it out.")

    def limit_tokens(self, context_limit: int) -> int:
        """Tokens that all caches may hold together, for a model of this context."""
        if self.cache_tokens is not None:
            return self.cache_tokens
        return self.max_concurrent * (context_limit + 1 + MAX_DRAFT_TOKENS)
