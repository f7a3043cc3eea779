"""What readers of tool calls have in common."""

import secrets
from dataclasses import dataclass, field
from typing import Protocol


def new_id() -> str:
    """An id for a call: nine letters and digits, since Mistral's templates take no other."""
    return secrets.token_hex(5)[:9]


@dataclass
class CallPart:
    """The begin of a call, or more of its arguments.

    Attributes:
        name: of the function, in the first part of a call; None in the others.
        arguments: JSON, or a part of it.
        call_id: in the first part.
    """

    name: str | None = None
    arguments: str = ""
    call_id: str = field(default_factory=new_id)


class CallReader(Protocol):
    """Reads the calls that follow a begin marker, sign by sign.

    Attributes:
        is_over: the calls have ended; what follows is text again.
        rest: signs that were read and belong to no call, once it is over.
    """

    is_over: bool
    rest: str

    def push(self, sign: str) -> list[CallPart]:
        """Take the next sign; returns what it completes."""
        ...

    def finish(self) -> list[CallPart]:
        """The answer has ended; returns what that completes, and sets `rest`."""
        ...
