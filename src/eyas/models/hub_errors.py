"""The hub client's errors as one line each, and its silence."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from eyas.errors import FetchError


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn any failure of the hub's client into a FetchError of one line that names the repository."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        with _quiet():
            yield
    except GatedRepoError as error:
        raise FetchError(
            f"{repository} is gated; accept its terms and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FetchError(
            f"the hub has no model {repository!r}, or you may not see it; check the id."
        ) from error
    except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError
        raise FetchError(
            f"the hub gives no usable answer and {repository} is not in its cache; check the network, or "
            "name a local model."
        ) from error
    except EntryNotFoundError as error:
        raise FetchError(f"{repository} does not have that file on the hub; check its name.") from error
    except FetchError:
        raise
    except Exception as error:  # the client passes on the errors of its HTTP library, whichever that is
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        raise FetchError(
            f"{repository} could not be fetched ({reason}); try again, or name a local model."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the client's warnings, which our errors replace, and its bars unless on a terminal."""
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity = hub_logging.get_verbosity()
    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()
