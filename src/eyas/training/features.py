"""The target's features of whole sequences, computed on demand.

Nothing is stored by default. With a folder and a limit, features are kept there in bfloat16 (1.2 kB a token
at hidden size 576) until the limit is reached and computed again beyond it; later epochs then cost the head
alone. With a folder they are rounded at the first read too: a run that was interrupted sees the same ones.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyas.engine.interfaces import FINAL, Taps
from eyas.errors import ConfigError, DataError
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.data import Sample, why_unwritten

logger = logging.getLogger(__name__)


class FeatureSource:
    """Features of samples, from the target or from its cache.

    Args:
        runtime: the target on torch.
        max_length: tokens of a sample beyond this are left out.
        folder: where features are kept; None keeps none. Names are those of the samples, under the target's
            fingerprint.
        limit_bytes: of the folder.
        taps: hidden states that make up a feature, side by side; the final one comes last.

    Raises:
        ConfigError: the limit leaves no room.
        DataError: the folder cannot be made.
        ModelError: a tap beyond the target's layers.
    """

    def __init__(
        self,
        runtime: TorchRuntime,
        max_length: int,
        folder: Path | None = None,
        limit_bytes: float = 1e9,
        taps: Taps = (FINAL,),
    ) -> None:
        assert taps[-1] == FINAL, "labels are made of the final feature"
        self.taps = taps
        if not 0 < limit_bytes < math.inf:
            raise ConfigError(f"feature_cache_gb is {limit_bytes / 1e9:g}, but it must be a number above 0.")
        self.max_length = max_length
        self._runtime = runtime
        self._folder = None if folder is None else _made(folder, runtime.target.fingerprint)
        self._left = limit_bytes
        if self._folder is not None:
            self._left -= sum(file.stat().st_size for file in self._folder.iterdir())

    def get(self, samples: Sequence[Sample]) -> list[Tensor]:
        """(T, len(taps) * H) features of each sample, prompt and answer, cut at `max_length`."""
        found = [self._read(sample) for sample in samples]
        missing = [index for index, rows in enumerate(found) if rows is None]
        if missing:
            computed = self._compute([samples[index] for index in missing])
            for index, rows in zip(missing, computed, strict=True):
                found[index] = rows if self._folder is None else rows.to(torch.bfloat16).to(rows.dtype)
                self._keep(samples[index], rows)
        return [rows for rows in found if rows is not None]

    @torch.inference_mode()
    def _compute(self, samples: Sequence[Sample]) -> list[Tensor]:
        """One padded pass: padding comes last, so causal rows never see it."""
        sequences = [sample.token_ids[: self.max_length] for sample in samples]
        longest = max(map(len, sequences))
        ids = torch.zeros((len(sequences), longest), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        decoder = self._runtime.model.get_decoder()
        with self._runtime.layer_taps.watching(self.taps) as taken:
            final = decoder(input_ids=ids.to(self._runtime.device), use_cache=False)[0]
        states = torch.cat([{**taken, FINAL: final}[tap] for tap in self.taps], dim=-1)
        return [states[row, : len(sequence)].cpu().clone() for row, sequence in enumerate(sequences)]

    def _path(self, sample: Sample) -> Path | None:
        inner = "".join(f"-{tap}" for tap in self.taps[:-1])
        return None if self._folder is None else self._folder / f"{sample.digest}{inner}.pt"

    def _read(self, sample: Sample) -> Tensor | None:
        path = self._path(sample)
        if path is None or not path.is_file():
            return None
        rows = _loaded(path, len(self.taps) * self._runtime.target.hidden_size)
        if rows is None or len(rows) < min(len(sample) - 1, self.max_length):
            return None  # computed again; the last token's feature teaches nothing, and may be missing
        return rows[: self.max_length].to(self._runtime.dtype)

    def _keep(self, sample: Sample, rows: Tensor) -> None:
        path = self._path(sample)
        if path is None:
            return
        old = path.stat().st_size if path.is_file() else 0  # one that was of no use
        if 2 * rows.numel() + 2048 > self._left + old:
            return
        try:
            save_features(path, rows)
            self._left += old - path.stat().st_size  # as the next run counts it
        except DataError as error:
            logger.warning("no more features are kept: %s", error)
            self._left = 0


def save_features(path: Path, rows: Tensor) -> None:
    """Write (T, H) features in bfloat16, whole or not at all.

    Raises:
        DataError: the disk is full, or refuses.
    """
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(rows.to(torch.bfloat16), temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        with suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{path} cannot be written ({why_unwritten(error)}); free some space, or give features less."
        ) from error


def keeper(folder: Path, fingerprint: str | None) -> Callable[[Sample, Sequence[Any]], None]:
    """What files an answer's features, given in pieces (T_i, H), for a `FeatureSource` on `folder`.

    Raises:
        DataError: the folder cannot be made.
    """
    place = _made(folder, fingerprint)

    def keep(sample: Sample, pieces: Sequence[Any]) -> None:
        rows = torch.cat([torch.as_tensor(piece) for piece in pieces])
        save_features(place / f"{sample.digest}.pt", rows)

    return keep


def _made(folder: Path, fingerprint: str | None) -> Path:
    """The folder of a target's features."""
    place = folder / str(fingerprint)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"--feature-cache {folder} cannot be made a folder ({why_unwritten(error)}); name another."
        ) from error
    return place


def _loaded(path: Path, width: int) -> Tensor | None:
    """(T, width) features; None for a file that is cut short or holds something else."""
    try:
        rows = torch.load(path, weights_only=True)
    except Exception:  # unpickling raises nearly anything
        return None
    fits = isinstance(rows, Tensor) and rows.is_floating_point() and rows.dim() == 2
    return rows if fits and rows.shape[1] == width else None
