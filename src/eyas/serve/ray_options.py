"""Arguments of the Ray application: those of `eyas.load`, and those of `eyas serve` under `settings`."""

from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, Field, create_model

from eyas.api.llm import load
from eyas.config import options_of
from eyas.serve.schemas import json_type
from eyas.serve.settings import ServeSettings

# Address and port are Ray's, and so is the end of a replica.
RAYS_OWN = {"host", "port", "drain"}

_fields: dict[str, Any] = {
    named.name: (json_type(named.type, named) | None if named.takes_none else str, named.default)
    for named in options_of(load)
}
_LoadArguments: Any = create_model(
    "_LoadArguments", __config__=ConfigDict(extra="forbid"), __module__=__name__, **_fields
)


class RayOptions(_LoadArguments):  # type: ignore[misc]  # derived while running
    """As `serve run eyas.serve.ray:app name=value ...` or a configuration file gives them."""

    replicas: int | None = None  # without it Ray's own configuration says, or there is one
    settings: dict[str, Any] = Field(default_factory=dict)

    def to_load(self) -> dict[str, Any]:
        """The arguments of `eyas.load`."""
        return {named.name: getattr(self, named.name) for named in options_of(load)}

    def to_settings(self) -> ServeSettings:
        """The server's settings.

        Raises:
            ValueError: an unknown setting; names those that there are.
        """
        known = asdict(ServeSettings()).keys() - RAYS_OWN
        unknown = sorted(self.settings.keys() - known)
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not a setting of a replica; the settings are {', '.join(sorted(known))}."
            )
        return ServeSettings(**self.settings)
