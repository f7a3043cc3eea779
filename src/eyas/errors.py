"""Everything that a user can get wrong, one type per reader.

Each message is one line: the value, the limit and the remedy. The command line prints it and exits with
`exit_code`; a library user catches `EyasError` or one of its children. `assert` is kept for what only a
bug of ours can break.
"""


class EyasError(Exception):
    """Base of every error that eyas raises on purpose."""

    exit_code = 2


class ConfigError(EyasError, ValueError):
    """An option has a value that cannot be honoured."""


class ModelError(EyasError):
    """A model's directory, file or family cannot be used."""


class CheckpointError(EyasError):
    """A draft head's or draft model's file cannot be used."""


class CapacityError(EyasError):
    """A prompt or an answer does not fit the model's context."""


class DraftError(EyasError):
    """A drafter proposed a tree that cannot be verified: a bug of that drafter."""


class DataError(EyasError):
    """A question, prompt or answer file is broken."""


class FetchError(EyasError):
    """A download failed or its content is not what it should be."""
