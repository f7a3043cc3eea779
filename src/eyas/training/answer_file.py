"""The file of answers that distilling appends to, and the features that are kept with them.

An answer's line is written once its features are on disk. So a kill at any moment leaves either both, or the
features alone, which the next run finds when it gives the same answer again.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from eyas.engine.interfaces import FINAL, Taps
from eyas.errors import DataError
from eyas.models.appending import hold, without_cut_line
from eyas.training.data import Sample, parse_samples, why_unwritten
from eyas.training.feature_store import FeatureStore

_BEGINNING = b'{"id": "'  # of every line that `_line` makes


class AnswerFile:
    """Answers of one target on disk.

    Attributes:
        known: that the file had when it was opened.

    Args:
        file: opened for appending.
        known: what it holds.
        store: where features go; None keeps none.
        taps: the hidden states of these features.
    """

    def __init__(
        self, file: BinaryIO, known: list[Sample], store: FeatureStore | None, taps: Taps = (FINAL,)
    ) -> None:
        self.known = known
        self._file = file
        self._store = store
        self._taps = taps
        self._lines: list[bytes] = []  # of answers whose features wait to be written
        self._samples = list(known)

    def append(self, sample: Sample, features: NDArray[np.float32] | None) -> None:
        """Add an answer and (T, len(taps) * H) features of all its tokens but the last, where these are kept.

        Raises:
            OSError: the file cannot be written.
        """
        self._samples.append(sample)
        self._lines.append(_line(sample))
        if self._store is not None and features is not None and not self.has_features(sample):
            self._store.add(sample.digest, features, self._taps)
        if self._store is None or not self._store.is_waiting:
            self._write()

    def keep(self, sample: Sample, features: NDArray[np.float32]) -> bool:
        """Keep the features of an answer that the file has; False where there is no room for them."""
        assert self._store is not None, "features are kept"
        return self._store.add(sample.digest, features, self._taps)

    def has_features(self, sample: Sample) -> bool:
        """Whether an answer's features are kept."""
        assert self._store is not None, "features are kept"
        return self._store.has(sample.digest, len(sample) - 1, self._taps)

    def without_features(self) -> list[Sample]:
        """Answers whose features are not kept, where they are kept at all."""
        if self._store is None:
            return []
        return [sample for sample in self._samples if not self.has_features(sample)]

    def close(self) -> None:
        """Write what waits.

        Raises:
            OSError: the file cannot be written.
        """
        if self._store is not None:
            self._store.flush()
        self._write()
        os.fsync(self._file.fileno())

    def _write(self) -> None:
        lines, self._lines = self._lines, []  # a line that was cut off is never followed by another
        self._file.write(b"".join(lines))
        self._file.flush()


@contextmanager
def open_answers(
    out: Path, target: str | None, store: FeatureStore | None = None, taps: Taps = (FINAL,)
) -> Iterator[AnswerFile]:
    """The file `out`, locked against other runs. All answers are on disk when the block ends, in any way.

    Raises:
        DataError: it holds something other than answers of this target, is in use, or cannot be written.
    """
    if out.suffix == ".gz":
        raise DataError(
            f"{out} would be compressed, and a compressed file cannot be continued; name one without .gz."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(out, "--out")
        try:
            with out.open("a+b") as file:
                answers = AnswerFile(file, _known(file, out, target), store, taps)
                try:
                    yield answers
                finally:
                    answers.close()
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({why_unwritten(error)}); name another file, or free some space and "
            "run the same command again: it continues after the answers that are there."
        ) from error


def _line(sample: Sample) -> bytes:
    row = {
        "id": sample.id,
        "category": sample.category,
        "target": sample.target,
        "temperature": sample.temperature,
        "prompt_ids": sample.prompt_ids,
        "response_ids": sample.response_ids,
    }
    return json.dumps(row).encode() + b"\n"


def _known(file: BinaryIO, out: Path, target: str | None) -> list[Sample]:
    """The answers in a file. A last line that was cut off is removed, a missing newline added.

    Raises:
        DataError: the file holds something else, or answers of another target; it is left unchanged.
    """
    file.seek(0)
    content = file.read()
    whole = without_cut_line(content, _BEGINNING)
    try:
        samples = parse_samples(whole.splitlines(), out)
    except DataError as error:
        raise DataError(f"{error} Use another --out to keep that file.") from error
    other = next((s.target for s in samples if s.target and target and s.target != target), None)
    if other is not None:
        raise DataError(
            f"{out} holds answers of the target with fingerprint {other}, not of this one, {target}; use "
            "another --out."
        )
    if len(whole) < len(content):
        file.truncate(len(whole))
    elif len(whole) > len(content):
        file.write(b"\n")
    return samples
