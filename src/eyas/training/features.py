"""The target's features of whole sequences: read where they are kept, else computed.

Without a store nothing is kept, and every read runs the target. With one, what is computed joins it until it
is full, and later epochs cost the head alone. Features are then rounded at the first read too: a run that was
interrupted sees the same ones.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from eyas.engine.interfaces import FINAL, Taps
from eyas.errors import DataError
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.data import Sample
from eyas.training.feature_store import FeatureStore

logger = logging.getLogger(__name__)


class FeatureSource:
    """Features of samples, from a store or from the target.

    Args:
        runtime: of the target.
        max_length: tokens of a sample beyond this are left out.
        store: of the target's features; None keeps none.
        taps: hidden states that make up a feature, side by side; the final one comes last.
    """

    def __init__(
        self,
        runtime: TorchDraftRuntime,
        max_length: int,
        store: FeatureStore | None = None,
        taps: Taps = (FINAL,),
    ) -> None:
        assert taps[-1] == FINAL, "labels are made of the final feature"
        self.taps = taps
        self.max_length = max_length
        self._runtime = runtime
        self._store = store

    def get(self, samples: Sequence[Sample]) -> list[Tensor]:
        """(T, len(taps) * H) features of each sample's tokens but the last one's, at most `max_length`.

        The last token's feature teaches nothing: what follows it is not known.
        """
        found = [self._read(sample) for sample in samples]
        missing = [index for index, rows in enumerate(found) if rows is None]
        if missing:
            sequences = [samples[index].token_ids[: self._rows(samples[index])] for index in missing]
            computed = self._runtime.hidden_states(sequences, self.taps)
            for index, rows in zip(missing, computed, strict=True):
                found[index] = self._kept(samples[index], rows)
        return [rows for rows in found if rows is not None]

    def check(self, samples: Sequence[Sample]) -> None:
        """Say how many samples are not in the store.

        Raises:
            DataError: some are not, and no runtime can compute their features.
        """
        store = self._store
        missing = [s for s in samples if store is None or not store.has(s.digest, self._rows(s), self.taps)]
        what = f"the features of {len(missing)} of {len(samples)} answers (layers {self._layers})"
        if missing and not self._runtime.computes_features:
            raise DataError(
                f"{what} are missing, and this installation cannot compute them; run `eyas train distil "
                "--keep-features` with the same answers, and give that folder."
            )
        if missing and store is not None:
            logger.warning("eyas: %s, which %s lacks, are computed as they are needed", what, store.folder)

    def close(self) -> None:
        """Write what waits to be kept."""
        if self._store is not None:
            self._store.flush()

    @property
    def _layers(self) -> str:
        return ", ".join("final" if tap == FINAL else str(tap) for tap in self.taps)

    def _rows(self, sample: Sample) -> int:
        return min(len(sample) - 1, self.max_length)

    def _read(self, sample: Sample) -> Tensor | None:
        if self._store is None:
            return None
        rows = self._store.read(sample.digest, self._rows(sample), self.taps)
        return None if rows is None else torch.from_numpy(rows[: self._rows(sample)]).to(self._runtime.dtype)

    def _kept(self, sample: Sample, computed: Tensor) -> Tensor:
        if self._store is None:
            return computed
        rows = computed.float().numpy()
        self._store.add(sample.digest, rows, self.taps)
        return torch.from_numpy(self._store.rounded(rows)).to(computed.dtype)
