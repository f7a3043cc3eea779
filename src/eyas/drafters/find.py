"""Which head serves a method: where heads are looked for, and those that ship with eyas.

In this order: next to the model, in the cache, in packages that bring heads, among those that ship. A head
for this very model comes before one for another quantisation of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

from eyas.drafters.heads import (
    HeadKind,
    find_head_kind,
    head_kinds,
    kind_of,
    kind_of_gguf,
    or_train,
    read_config,
)
from eyas.errors import CheckpointError
from eyas.models import base_fingerprint, heads_dir, is_gguf, target_fingerprint

# What ties a head to its target: its fingerprint, that of another quantisation's base, or (published) shapes.
HeadCheck = Literal["fingerprint", "base", "shapes"]
SHIPPED = Path(__file__).parents[1] / "heads"


def is_for(fingerprint: str | None, base: str | None, target: str | None, target_base: str | None) -> bool:
    """Whether a head that says this of its target may serve that one; None says nothing."""
    if not fingerprint or not target or fingerprint == target:
        return True
    return base is not None and base == target_base


@cache
def packaged() -> tuple[Path, ...]:
    """Folders of installed packages that bring heads, by the entry points `eyas.heads`.

    An entry point names a module; heads lie in the folder of that module, as they do in the cache.
    """
    folders = []
    for entry_point in entry_points(group="eyas.heads"):
        spec = find_spec(entry_point.module)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent)
    return tuple(dict.fromkeys(folders))


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """The head found for a target, if any."""

    path: Path | None
    check: HeadCheck | None  # what ties it to the target
    searched: tuple[Path, ...] = ()
    training: str | None = None  # the command that makes one

    def require(self) -> Path:
        """The head's directory.

        Raises:
            CheckpointError: none was found; says where was looked and how to get one.
        """
        if self.path is None:
            places = ", ".join(str(path) for path in self.searched)
            raise CheckpointError(
                f"no draft head for this target in {places}; give one with --head DIR"
                f"{or_train(self.training)}."
            )
        return self.path


@dataclass(frozen=True, slots=True)
class FoundHead:
    """A head on this machine, and whether it is for a target.

    Attributes:
        problem: why it is not; None where it fits.
    """

    kind: str
    path: Path
    problem: str | None


@dataclass(frozen=True)
class HeadFinder:
    """Finds a target's heads: the one asked for, or those that lie where this module says.

    In the cache, a package and among the shipped ones, a target's heads lie in a folder called like its
    fingerprint; those of most kinds in a folder below, called like the kind (`HeadKind.folder`). Next to a
    model is `head/` in its directory; NAME.gguf has a folder NAME.head, or a file such as NAME.eagle3.gguf.

    Args:
        named: a directory that was asked for, or a whole model for `sps`; it serves every kind.
        model: the target's directory or GGUF file.
        fingerprint: the target's.
        base_fingerprint: which all quantisations of the target share.

    Raises:
        CheckpointError: `named` is neither a directory with a config.json nor a GGUF file.
    """

    named: Path | None
    model: Path
    fingerprint: str | None
    base_fingerprint: str | None = None

    def __post_init__(self) -> None:
        named = self.named
        if named is not None and not is_gguf(named) and not (named / "config.json").is_file():
            raise CheckpointError(f"{named} holds no config.json; give --head the directory of a head.")

    @classmethod
    def of(cls, model: Path) -> Self:
        """Looks for the heads of a model that is not loaded.

        Raises:
            ModelError: its files are missing or broken.
        """
        return cls(None, model, target_fingerprint(model), base_fingerprint(model))

    @property
    def named_kind(self) -> str | None:
        """The kind of the head that was asked for; None for none, or one that does not say."""
        if self.named is None:
            return None
        return kind_of_gguf(self.named) if is_gguf(self.named) else kind_of(read_config(self.named))

    def find(self, kind: str | None = "eagle") -> HeadChoice:
        """The head of a kind; None is the kind of a method that needs none."""
        if kind is None:
            return HeadChoice(None, None)
        if self.named is not None:
            return HeadChoice(self.named, self._check(self.named))
        known = find_head_kind(kind)
        places = [*self._beside(known)]
        if self.fingerprint is not None:
            places += [root / self.fingerprint / known.folder for root in _roots()]
        others = (path for path in _stored(known) if self._is_base(_entries(path)))
        for path in chain(places, others):
            if _is_there(path):
                return HeadChoice(path, self._check(path), tuple(places))
        return HeadChoice(None, None, tuple(places), known.training)

    def all(self) -> Iterator[FoundHead]:
        """Every head on this machine, of every kind."""
        for kind in head_kinds().values():
            for path in (*filter(_is_there, self._beside(kind)), *_stored(kind)):
                if is_gguf(path) or kind_of(_entries(path)) in (None, kind.name):
                    yield FoundHead(kind.name, path, self._problem(path))

    def _beside(self, kind: HeadKind[Any]) -> Iterator[Path]:
        if not is_gguf(self.model):
            yield self.model / "head" / kind.folder
            return
        yield self.model.with_suffix(".head") / kind.folder
        if kind.read_gguf is not None:
            yield self.model.with_suffix(f".{kind.name}.gguf")

    def _check(self, path: Path) -> HeadCheck:
        """What ties a head to this target; a head for another one is refused when it is loaded."""
        entries = _document(path)
        if not entries.get("target_fingerprint"):
            return "shapes"
        return "base" if self._is_base(entries) else "fingerprint"

    def _is_base(self, entries: dict[str, Any]) -> bool:
        """Whether a head was trained for another quantisation of the target."""
        base = entries.get("base_fingerprint")
        is_own = entries.get("target_fingerprint") == self.fingerprint
        return not is_own and base is not None and base == self.base_fingerprint

    def _problem(self, path: Path) -> str | None:
        try:
            entries = _document(path)
        except CheckpointError as error:
            return str(error)
        fingerprint, base = entries.get("target_fingerprint"), entries.get("base_fingerprint")
        if is_for(fingerprint, base, self.fingerprint, self.base_fingerprint):
            return None
        return f"for the target with fingerprint {fingerprint}, not {self.fingerprint}"


def _roots() -> tuple[Path, ...]:
    return heads_dir(), *packaged(), SHIPPED


def _stored(kind: HeadKind[Any]) -> Iterator[Path]:
    """The heads of a kind in the cache, in packages and among those shipped, whatever they are for."""
    for root in _roots():
        for folder in sorted(root.glob("*/")):
            if _is_there(folder / kind.folder):
                yield folder / kind.folder


def _is_there(path: Path) -> bool:
    return path.is_file() if path.suffix == ".gguf" else (path / "config.json").is_file()


def _document(path: Path) -> dict[str, Any]:
    """config.json of a head; a GGUF file has none."""
    return {} if is_gguf(path) else read_config(path)


def _entries(path: Path) -> dict[str, Any]:
    """The same; nothing where it is broken, which `FoundHead.problem` says."""
    try:
        return _document(path)
    except CheckpointError:
        return {}
