"""Kinds of trained draft heads: one call declares a kind, one reader and one writer serve them all.

    MEDUSA = register_head(
        "medusa",
        title="Medusa heads",
        config=medusa_config,               # config.json -> the kind's own sizes
        tensors=medusa_tensors,             # these sizes -> {name: shape} of every tensor
        trainer="eyas.training.medusa:MedusaTrainer",
    )

From then on `eyas train medusa` trains them, `read_head(MEDUSA, directory)` reads them strictly, and methods
registered with `head="medusa"` find them. `docs/add-a-head.md` shows a whole kind.

A head's directory holds `config.json` and `model.safetensors`, or the files of a published layout
(`HeadLayout`); some kinds may be a GGUF file instead. Any tensor that a head does not have is an error: a
misspelt weight must not stay random. Extensions of eyas:

    head_kind             in config.json: the kind, which files of others do not name
    target_fingerprint    in config.json: the target that the head was trained for
    base_fingerprint      the same for all quantisations of that target
    provenance            in config.json: recipe, answers, measured acceptance
    d2t [M] int64         the draft vocabulary: target id = row + d2t[row] (EAGLE-3's convention); config.json
                          gives M as `draft_vocab_size`
    int8 matrices         see `head_arrays`
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from eyas.drafters.head_arrays import (
    Arrays,
    Shapes,
    StoredPrecision,
    check_names,
    read_arrays,
    write_arrays,
)
from eyas.drafters.registry import methods
from eyas.errors import CheckpointError, ConfigError
from eyas.models.sources import is_gguf, open_gguf
from eyas.models.weights import read_json

Config = TypeVar("Config")
EXTENSIONS = ("head_kind", "target_fingerprint", "base_fingerprint", "provenance", "draft_vocab_size")


@dataclass(frozen=True)
class HeadFile:
    """What a kind's `config` may look at to tell its sizes."""

    directory: Path
    document: Mapping[str, Any]  # config.json
    arrays: Arrays
    draft_ids: (
        NDArray[np.int64] | None
    )  # (M,) ascending target ids of the draft vocabulary; None: the whole one

    def number(self, name: str) -> int:
        """A whole number from config.json.

        Raises:
            CheckpointError: it is missing or not a number.
        """
        try:
            return int(self.document[name])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{self.directory}/config.json lacks a usable {name!r}.") from error

    def hidden_size(self, bias: str) -> int:
        """The config's, or where published heads do not give it, the size of the tensor `bias`.

        Raises:
            CheckpointError: both are missing.
        """
        if "hidden_size" in self.document:
            return self.number("hidden_size")
        if bias not in self.arrays:
            raise CheckpointError(f"{self.directory} lacks {bias}, which its config.json asks for.")
        return int(self.arrays[bias].size)

    def own_vocabulary(self, name: str) -> int | None:
        """Rows of a head's own LM head `name`; None where the target's serves it.

        Raises:
            CheckpointError: it has one of its own and a draft vocabulary of the target's.
        """
        weight = self.arrays.get(name)
        if weight is not None and self.draft_ids is not None:
            raise CheckpointError(
                f"{self.directory} has LM heads of its own and a d2t; a d2t selects rows of the target's."
            )
        return None if weight is None else len(weight)


class HeadTarget(NamedTuple):
    """The target of a head that is exported, as far as it was named."""

    name: str | None = None  # as other programs find it
    path: Path | None = None  # a folder or a GGUF file


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """How other programs keep heads of a kind.

    Attributes:
        name: as `eyas export-head --layout` spells it.
        readers: who reads it, for help texts.
        write: writes a head to a path that does not exist: a folder, or a file. Raises CheckpointError for a
            head that the layout cannot hold.
        knows: whether a config.json and tensors of these names are in this layout; None where it is not read.
        read: entries of config.json and arrays, from these and a source for messages, as eyas has them.
        suffix: of a layout that is a file.
    """

    name: str
    readers: str
    write: Callable[["HeadCheckpoint[Any]", Path, HeadTarget], None]
    knows: Callable[[Mapping[str, Any], Collection[str]], bool] | None = None
    read: Callable[[Mapping[str, Any], Arrays, Path], tuple[dict[str, Any], Arrays]] | None = None
    suffix: str = ""


@dataclass(frozen=True)
class HeadKind(Generic[Config]):
    """What one kind of heads is on disk, and what trains it.

    Attributes:
        name: as `eyas train` and `register_drafter(head=...)` spell it.
        title: what a run makes, for help texts: "Medusa heads".
        config: the kind's own sizes, from its config.json; raises CheckpointError.
        tensors: every tensor of a head of these sizes, without `d2t`: {name: shape}.
        trainer: "module:class" of a subclass of `eyas.training.trainer.Trainer`; imported when it is needed.
            None for a kind that others train.
        files: where the tensors are; the first that exists is read, and the first is written.
        unused: tensors of published files that nothing reads; `*` stands for any characters.
        copies: tensors that published files repeat: {name of the copy: name of the original}.
        mark: an entry, and its value or None for any, by which a config.json without `head_kind` is known.
        layouts: of other programs.
        read_gguf: entries of config.json and arrays of a GGUF file, whose architecture is called like the
            kind; None where such heads are folders only.
        folder: where these heads are below a target's folder; "" is that folder itself.
    """

    name: str
    title: str
    config: Callable[[HeadFile], Config]
    tensors: Callable[[Config], Shapes]
    trainer: str | None = None
    files: tuple[str, ...] = ("model.safetensors",)
    unused: tuple[str, ...] = ()
    copies: Callable[[Config], Mapping[str, str]] | None = None
    mark: tuple[str, str | None] | None = None
    layouts: tuple[HeadLayout, ...] = ()
    read_gguf: Callable[[Path], tuple[dict[str, Any], Arrays]] | None = None
    folder: str = field(default="", kw_only=True)

    @property
    def training(self) -> str | None:
        """The command that makes such heads, for messages; None where there is none."""
        return None if self.trainer is None else f"eyas train {self.name}"


@dataclass(frozen=True)
class HeadCheckpoint(Generic[Config]):
    """A head as it lies on disk.

    Attributes:
        config: the kind's own sizes.
        weights: float32 arrays by their names, without `d2t`.
        draft_ids: (M,) ascending target ids of the draft vocabulary; None for the whole one.
        fingerprint: of the target that it was trained for; None for published heads.
        base_fingerprint: which all quantisations of that target share; None where the head does not say.
        document: the whole config.json.
    """

    config: Config
    weights: Arrays
    draft_ids: NDArray[np.int64] | None
    fingerprint: str | None
    base_fingerprint: str | None
    document: dict[str, Any]


_KINDS: dict[str, HeadKind[Any]] = {}


def register_head(
    name: str,
    *,
    title: str,
    config: Callable[[HeadFile], Config],
    tensors: Callable[[Config], Shapes],
    trainer: str | None = None,
    folder: str | None = None,
    **layout: Any,
) -> HeadKind[Config]:
    """Declare a kind of heads: to `eyas train`, to the methods that draft with it, to reading and writing.

    Args:
        folder: None is a folder called `name`.
        layout: further fields of `HeadKind`, for published files.
    """
    assert name not in _KINDS, f"two kinds of heads are called {name!r}"
    place = name if folder is None else folder
    kind = HeadKind(name, title, config, tensors, trainer, folder=place, **layout)
    _KINDS[name] = kind
    return kind


def head_kinds() -> dict[str, HeadKind[Any]]:
    """All kinds by name: those of `eyas.drafters`, then those of the entry points `eyas.heads`."""
    methods()  # kinds stand in the files of their drafters
    return dict(_KINDS)


def trained_kinds() -> dict[str, HeadKind[Any]]:
    """Those of them that eyas trains."""
    return {name: kind for name, kind in head_kinds().items() if kind.trainer is not None}


def find_head_kind(name: str) -> HeadKind[Any]:
    """The kind called `name`; ConfigError names those that exist."""
    known = head_kinds()
    if name not in known:
        raise ConfigError(f"unknown kind of head {name!r}; the kinds are {', '.join(known)}.")
    return known[name]


def kind_of(document: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
    """The kind that a config.json names or is known by, or names of tensors; None where they do not say."""
    if "head_kind" in document:
        return str(document["head_kind"])
    for kind in head_kinds().values():
        if _layout_of(kind, document, names) is not None:
            return kind.name
    for kind in head_kinds().values():
        if kind.mark is not None:
            entry, value = kind.mark
            if entry in document and value in (None, document[entry]):
                return kind.name
    return None


def kind_of_gguf(file: Path) -> str | None:
    """The kind of a head in a GGUF file; None for another one, such as a whole model.

    Raises:
        ModelError: no whole GGUF file.
    """
    kind = head_kinds().get(open_gguf(file).architecture)
    return None if kind is None or kind.read_gguf is None else kind.name


def or_train(command: str | None) -> str:
    """The last remedy of a message about a head; nothing where no command makes such heads."""
    return "" if command is None else f", or train one with `{command}`"


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a head.

    Raises:
        CheckpointError: it is missing, or not a JSON object.
    """
    return read_json(directory / "config.json", CheckpointError)


def read_head(kind: HeadKind[Config], directory: Path) -> HeadCheckpoint[Config]:
    """Read a head of a kind.

    Raises:
        CheckpointError: files that are missing, truncated or corrupt; a head of another kind; an unknown or a
            missing tensor, or one of another shape or not finite; a pickle that holds more than tensors.
    """
    document, arrays, source = _stored(kind, directory)
    found = kind_of(document, arrays)
    if found not in (None, kind.name):
        raise CheckpointError(
            f"{directory} holds a head of the kind {found!r}, but one of {kind.name!r} is needed; use "
            f"another method or layout{or_train(kind.training)}."
        )
    layout = _layout_of(kind, document, arrays)
    if layout is not None and layout.read is not None:
        document, arrays = layout.read(document, arrays, source)
    for name in [name for name in arrays if any(fnmatchcase(name, unused) for unused in kind.unused)]:
        del arrays[name]
    draft_ids = _take_draft_ids(arrays, document, source)
    config = kind.config(HeadFile(directory, document, arrays, draft_ids))
    if kind.copies is not None:
        _drop_copies(arrays, kind.copies(config), source)
    check_names(arrays, kind.tensors(config), source)
    fingerprints = document.get("target_fingerprint"), document.get("base_fingerprint")
    return HeadCheckpoint(config, arrays, draft_ids, *fingerprints, document)


def write_head(
    kind: HeadKind[Any],
    directory: Path,
    weights: Arrays,
    document: Mapping[str, Any],
    draft_ids: NDArray[np.int64] | None,
    precision: StoredPrecision = "bfloat16",
) -> None:
    """Write a head into an existing directory.

    Args:
        kind: of the head.
        directory: the head's.
        weights: float32 arrays by their names.
        document: config.json; `head_kind` and `draft_vocab_size` are added.
        draft_ids: (M,) ascending target ids, or None.
        precision: of matrices; norms and biases are always bfloat16.

    Raises:
        CheckpointError: names or shapes that `read_head` would refuse.
    """
    config = kind.config(HeadFile(directory, document, weights, draft_ids))
    check_names(weights, kind.tensors(config), directory)
    _write(kind, directory, weights, {"head_kind": kind.name, **document}, draft_ids, precision)


def _write(
    kind: HeadKind[Any],
    directory: Path,
    weights: Arrays,
    document: Mapping[str, Any],
    draft_ids: NDArray[np.int64] | None,
    precision: StoredPrecision,
) -> None:
    tensors, entries = dict(weights), dict(document)
    if draft_ids is not None:
        entries["draft_vocab_size"] = len(draft_ids)
        tensors["d2t"] = offsets_of(draft_ids)
    write_arrays(directory / kind.files[0], tensors, precision)
    write_config(directory, entries)


def write_config(directory: Path, document: Mapping[str, Any]) -> None:
    """Write config.json of a head."""
    (directory / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def offsets_of(draft_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) `d2t` of a draft vocabulary."""
    return draft_ids.astype("<i8") - np.arange(len(draft_ids))


def _stored(kind: HeadKind[Any], place: Path) -> tuple[dict[str, Any], Arrays, Path]:
    """What the files of a head hold: config.json, arrays, and the file to name in messages."""
    if not is_gguf(place):
        return read_config(place), *read_arrays(place, kind.files)
    if kind.read_gguf is None:
        raise CheckpointError(
            f"{place} is a GGUF file, but heads of the kind {kind.name!r} are folders; name a folder."
        )
    return *kind.read_gguf(place), place


def _layout_of(kind: HeadKind[Any], document: Mapping[str, Any], names: Collection[str]) -> HeadLayout | None:
    """The layout of other programs in which a head of a kind is; None for eyas's own."""
    if "head_kind" in document:
        return None
    known = (each for each in kind.layouts if each.knows is not None and each.knows(document, names))
    return next(known, None)


def _take_draft_ids(arrays: Arrays, document: Mapping[str, Any], source: Path) -> NDArray[np.int64] | None:
    """(M,) ascending target ids from `d2t`, which leaves `arrays`; None for the whole vocabulary."""
    offsets, size = arrays.pop("d2t", None), document.get("draft_vocab_size")
    if offsets is None:
        if size is not None:
            raise CheckpointError(f"{source} lacks d2t, although draft_vocab_size is {size}.")
        return None
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) != size:
        raise CheckpointError(
            f"{source}: d2t has shape {list(offsets.shape)} of {offsets.dtype}, but draft_vocab_size {size} "
            "requires that many int64 offsets."
        )
    ids: NDArray[np.int64] = offsets + np.arange(len(offsets))
    if len(ids) == 0 or ids[0] < 0 or bool(np.any(np.diff(ids) <= 0)):
        raise CheckpointError(f"{source}: the ids that d2t gives are not ascending; the file is broken.")
    return ids


def _drop_copies(arrays: Arrays, copies: Mapping[str, str], source: Path) -> None:
    """Leave only the originals; a copy that differs is an error."""
    for copy, original in copies.items():
        array = arrays.pop(copy, None)
        if array is not None and not np.array_equal(array, arrays.get(original, array)):
            raise CheckpointError(f"{source}: {copy} and {original} differ, but they are one tensor.")
