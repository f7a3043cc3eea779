"""The heads that eyas ships, one folder per target fingerprint, and where heads are looked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyas.errors import CheckpointError
from eyas.models import heads_dir, read_head_fingerprint

HeadCheck = Literal["fingerprint", "shapes"]
SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """The head found for a target, if any."""

    path: Path | None
    check: HeadCheck | None  # what ties it to the target: a fingerprint, or (published heads) shapes only
    searched: tuple[Path, ...] = ()

    def require(self) -> Path:
        """The head's directory.

        Raises:
            CheckpointError: none was found; says where was looked and how to get one.
        """
        if self.path is None:
            places = ", ".join(str(path) for path in self.searched)
            raise CheckpointError(
                f"no draft head for this target in {places}; give one with --head DIR, or train one with "
                "`eyas train head`."
            )
        return self.path


def find_head(head: str | Path | None, model_dir: Path, fingerprint: str | None) -> HeadChoice:
    """Look for the target's head: the one named, beside the model, in the cache, among those shipped.

    Raises:
        CheckpointError: a head was named and is no directory with a config.json.
    """
    if head is not None:
        path = Path(head).expanduser()
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} holds no config.json; --head wants a head's directory.")
        return HeadChoice(path, _check(path))
    places = [model_dir / "head"]
    if fingerprint is not None:
        places += [heads_dir() / fingerprint, SHIPPED / fingerprint]
    for path in places:
        if (path / "config.json").is_file():
            return HeadChoice(path, _check(path), tuple(places))
    return HeadChoice(None, None, tuple(places))


def _check(path: Path) -> HeadCheck:
    return "fingerprint" if read_head_fingerprint(path) else "shapes"
