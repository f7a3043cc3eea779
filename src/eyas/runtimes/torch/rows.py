"""The results of a target's forward: features, choices, logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eyas.engine.sampling import SampledToken, Sampler
from eyas.engine.tree import Floats
from eyas.runtimes.faults import broken_logits


class TorchRows:
    """Results of one call; a logits row leaves torch only when it is asked for.

    Args:
        features: (T, len(taps) * H) hidden states that the call asked for.
        logits: (R, V) of the last R <= T rows, in the model's own precision.
        origin: model and precision, for messages.
    """

    def __init__(self, features: Tensor, logits: Tensor, origin: str) -> None:
        self._features = features
        self._logits = logits
        self._origin = origin

    @property
    def features(self) -> Tensor:
        """(T, len(taps) * H) hidden states that the call asked for."""
        return self._features

    @torch.inference_mode()
    def choose(
        self, row: int, sampler: Sampler, generated: Sequence[int], num_log_probs: int | None = None
    ) -> SampledToken:
        """The token after `row`, see `eyas.engine.interfaces.TargetRows.choose`.

        Raises:
            ModelError: the row has a logit that is not a number.
        """
        if sampler.is_argmax and num_log_probs is None:
            return SampledToken(self._argmax(row))
        logits = self.logits(row)
        # NumPy's argmax gives the lowest id of equal logits, as torch's does.
        token_id = int(np.argmax(logits)) if sampler.is_argmax else sampler.choose(logits, generated)
        if num_log_probs is None:
            return SampledToken(token_id)
        return SampledToken.reported(token_id, logits, num_log_probs)

    @torch.inference_mode()
    def logits(self, row: int) -> Floats:
        """(V,) unprocessed logits of a row, in float64."""
        logits: Floats = self._row(row).to(torch.float64).cpu().numpy()
        if np.isnan(logits).any():
            raise broken_logits(self._origin)
        return logits

    def _argmax(self, row: int) -> int:
        # One row at a time: verification visits few of them. `max` is faster than `argmax` in bfloat16, takes
        # the first of equal entries as well, and its value is NaN if any entry is.
        value, token_id = self._row(row).max(dim=-1)
        if torch.isnan(value):
            raise broken_logits(self._origin)
        return int(token_id)

    def _row(self, row: int) -> Tensor:
        index = row - (len(self._features) - len(self._logits))
        assert 0 <= index < len(self._logits), f"the call kept no logits of row {row}"
        return self._logits[index]
