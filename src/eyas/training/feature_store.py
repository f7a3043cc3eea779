"""A folder of the target's hidden states, kept for training.

A shard is a safetensors file of some answers' features, written whole or not at all. Its name holds a
checksum of its bytes, which is compared before anything in it is used: a shard that a disk or a kill has
damaged is dropped, and its answers count as missing. Each shard says which target and which hidden states it
holds.

Answers are found by their `Sample.digest`. Imports no framework.
"""

import logging
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from eyas.config import Option, Options
from eyas.engine.interfaces import FINAL, Taps
from eyas.errors import ConfigError, DataError, ModelError
from eyas.models.weights import array_at, read_header, read_metadata, write_safetensors
from eyas.training.data import why_unwritten
from eyas.training.feature_formats import FeatureDtype, Stored, decode, encode

logger = logging.getLogger(__name__)

SHARD_BYTES = 32 << 20  # a kill loses the features, and the answers, of one shard
_SHARD_NAME = re.compile(r"features-([0-9a-f]{16})\.safetensors")
_UNFINISHED = ".unfinished-"
_SCALE = ".scale"  # tensor of an int8 answer's scales, behind the digest
_ENTRY_BYTES, _SHARD_HEADER_BYTES = 320, 512  # of headers, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions(Options):
    """How features are kept."""

    title: ClassVar[str] = "features"

    feature_dtype: Annotated[
        FeatureDtype,
        Option("precision of kept features; int8, with a scale for 32 numbers, takes half as much"),
    ] = "bfloat16"
    feature_gb: Annotated[float, Option("keep this many gigabytes of features at most", above=0)] = 8.0

    def check(self) -> None:
        """Raise ConfigError for a size without an end."""
        if not self.feature_gb < math.inf:
            raise ConfigError(f"feature_gb is {self.feature_gb:g}, but it must be a number above 0.")


@dataclass
class _Shard:
    """A file whose header has been read, or answers that wait to become one.

    Attributes:
        taps: the hidden states of its features.
        tensors: header entries, or arrays, by name.
        data: all bytes of the file, once its checksum has been found right.
    """

    taps: Taps = ()
    tensors: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    data: NDArray[np.uint8] | None = None

    def rows(self, digest: str) -> int:
        """T of an answer's features; 0 where the shard has none."""
        entry = self.tensors.get(digest)
        return 0 if entry is None else int((entry.shape if self.path is None else entry["shape"])[0])

    def stored(self, digest: str) -> Stored:
        """An answer's features."""
        values, scale = (self._array(digest + suffix) for suffix in ("", _SCALE))
        assert values is not None, "the shard has this answer"
        return Stored(values, scale)

    def _array(self, name: str) -> NDArray[Any] | None:
        entry = self.tensors.get(name)
        if entry is None or self.path is None:
            return entry
        assert self.data is not None, "the checksum has been compared"
        return array_at(self.data, entry)


class FeatureStore:
    """Features of one target's answers in a folder.

    Args:
        folder: made if necessary.
        target: fingerprint of the target.
        hidden_size: H of the target.
        options: precision and size of what is added; the size is that of all that the folder holds.
        shard_bytes: of a shard, about.

    Raises:
        DataError: the folder cannot be made, or holds features of another target.
    """

    def __init__(
        self,
        folder: Path,
        target: str | None,
        hidden_size: int,
        options: FeatureOptions | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        options = options or FeatureOptions()
        self.folder = folder
        self._dtype = options.feature_dtype
        self._target = str(target)
        self._hidden_size = hidden_size
        self._limit = options.feature_gb * 1e9
        self._shard_bytes = shard_bytes
        self._shards: dict[str, _Shard] = {}
        self._waiting, self._waiting_bytes = _Shard(), 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{folder} cannot be made a folder of features ({why_unwritten(error)}); name another."
            ) from error
        self._refresh()

    @property
    def is_waiting(self) -> bool:
        """Whether answers were added that are not on disk yet."""
        return bool(self._waiting.tensors)

    def has(self, digest: str, rows: int, taps: Taps = (FINAL,)) -> bool:
        """Whether at least `rows` features of an answer are kept, with these hidden states among theirs.

        Damaged shards count until `check` or `read` finds them.
        """
        return self._shard_of(digest, rows, taps) is not None

    def read(self, digest: str, rows: int, taps: Taps = (FINAL,)) -> NDArray[np.float32] | None:
        """(T, len(taps) * H) features of an answer, T >= `rows`; None where they are missing."""
        while (shard := self._shard_of(digest, rows, taps)) is not None:
            if self._is_whole(shard):
                states = np.split(decode(shard.stored(digest)), len(shard.taps), axis=1)
                return np.concatenate([states[shard.taps.index(tap)] for tap in taps], axis=1)
        return None

    def rounded(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (T, W) as they would be read again."""
        return decode(encode(features, self._dtype))

    def add(self, digest: str, features: NDArray[np.float32], taps: Taps = (FINAL,)) -> bool:
        """Let (T, len(taps) * H) features of an answer wait for the next shard; False if there is no room."""
        stored = encode(features, self._dtype)
        size = stored.num_bytes + _ENTRY_BYTES
        if self._waiting.taps != taps:
            self.flush()
            self._waiting.taps = taps
        if self._stored + self._waiting_bytes + size + _SHARD_HEADER_BYTES > self._limit:
            return False
        self._waiting.tensors[digest] = stored.values
        if stored.scale is not None:
            self._waiting.tensors[digest + _SCALE] = stored.scale
        self._waiting_bytes += size
        return self._waiting_bytes < self._shard_bytes or self.flush()

    def flush(self) -> bool:
        """Write the answers that wait; False if they cannot be written, and none will be any more."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, _Shard(self._waiting.taps), 0
        if not waiting.tensors:
            return True
        try:
            self._write(waiting)
        except OSError as error:
            logger.warning("eyas: no more features are kept in %s (%s)", self.folder, why_unwritten(error))
            self._limit = 0.0
            return False
        self._refresh()
        return True

    def check(self) -> None:
        """Compare the checksums of all shards, and remove what kills have left."""
        for path in self.folder.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)
        for shard in list(self._shards.values()):
            self._is_whole(shard)

    def _shard_of(self, digest: str, rows: int, taps: Taps) -> _Shard | None:
        for shard in (self._waiting, *self._shards.values()):
            if shard.rows(digest) >= max(1, rows) and set(taps) <= set(shard.taps):
                return shard
        return None

    def _is_whole(self, shard: _Shard) -> bool:
        """Whether a shard is what was written; a file that is not is dropped."""
        if shard.path is None or shard.data is not None:
            return True
        with suppress(OSError, ValueError):  # gone, or empty
            data = np.memmap(shard.path, dtype=np.uint8, mode="r")
            if _shard_name(data) == shard.path.name:
                shard.data = data
                return True
        self._drop(shard.path)
        return False

    def _drop(self, path: Path) -> None:
        logger.warning("eyas: %s is damaged; the features in it count as missing", path)
        self._shards.pop(path.name, None)
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def _write(self, waiting: _Shard) -> None:
        temporary = self.folder / f"{_UNFINISHED}{uuid4().hex}"
        metadata = {"target": self._target, "taps": ",".join(map(str, waiting.taps))}
        try:
            write_safetensors(temporary, waiting.tensors, metadata)
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(self.folder / _shard_name(np.memmap(temporary, dtype=np.uint8, mode="r")))
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _refresh(self) -> None:
        """Learn of the shards in the folder, those of other processes too, and of their size."""
        self._stored = 0
        for path in sorted(path for path in self.folder.iterdir() if _SHARD_NAME.fullmatch(path.name)):
            try:
                self._stored += path.stat().st_size
                if path.name not in self._shards:
                    self._shards[path.name] = self._opened(path)
            except (KeyError, ModelError, OSError, ValueError):
                self._drop(path)

    def _opened(self, path: Path) -> _Shard:
        header, metadata = read_header(path), read_metadata(path)
        if metadata["target"] != self._target:
            raise DataError(
                f"{self.folder} holds features of the target with fingerprint {metadata['target']}, not of "
                f"this one, {self._target}; name another folder."
            )
        return _Shard(tuple(int(tap) for tap in metadata["taps"].split(",")), header, path)


def _shard_name(content: NDArray[np.uint8]) -> str:
    """The name of a shard of these bytes."""
    return f"features-{sha256(content.data).hexdigest()[:16]}.safetensors"
