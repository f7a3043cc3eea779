"""Which head serves a method: where heads are looked for, and those that ship with eyas."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyas.drafters.heads import find_head_kind, kind_of, kind_of_gguf, or_train, read_config
from eyas.errors import CheckpointError
from eyas.models import heads_dir, is_gguf

HeadCheck = Literal["fingerprint", "shapes"]
SHIPPED = Path(__file__).parents[1] / "heads"


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """The head found for a target, if any."""

    path: Path | None
    check: HeadCheck | None  # what ties it to the target: a fingerprint, or (published heads) shapes only
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


@dataclass(frozen=True)
class HeadFinder:
    """Finds a target's heads: the one asked for, next to the model, in the cache, among those shipped.

    Heads of most kinds lie in a folder called like the kind; EAGLE heads one above (`HeadKind.folder`). Next
    to a model is `head/` in its directory, or the folder NAME.head beside NAME.gguf.

    Args:
        named: a directory that was asked for, or a whole model for `sps`; it serves every kind.
        model: the target's directory or GGUF file.
        fingerprint: the target's.

    Raises:
        CheckpointError: `named` is neither a directory with a config.json nor a GGUF file.
    """

    named: Path | None
    model: Path
    fingerprint: str | None

    def __post_init__(self) -> None:
        named = self.named
        if named is not None and not is_gguf(named) and not (named / "config.json").is_file():
            raise CheckpointError(f"{named} holds no config.json; give --head the directory of a head.")

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
            return HeadChoice(self.named, _check(self.named))
        places = [self.model.with_suffix(".head") if is_gguf(self.model) else self.model / "head"]
        if self.fingerprint is not None:
            places += [heads_dir() / self.fingerprint, SHIPPED / self.fingerprint]
        known = find_head_kind(kind)
        places = [place / known.folder for place in places]
        for path in places:
            if (path / "config.json").is_file():
                return HeadChoice(path, _check(path), tuple(places))
        return HeadChoice(None, None, tuple(places), known.training)


def _check(path: Path) -> HeadCheck:
    if is_gguf(path):
        return "shapes"
    return "fingerprint" if read_config(path).get("target_fingerprint") else "shapes"
