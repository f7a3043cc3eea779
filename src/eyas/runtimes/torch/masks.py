"""The additive attention mask of tokens in a tree.

A token sees the committed prefix, its pending ancestors and itself. In a layer with a sliding window it sees
those of them whose *position* is less than the window below its own: siblings share a position, so a distance
between slots would be wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eyas.engine.tree import Bools
from eyas.runtimes.torch.pending import Placement


@dataclass(frozen=True)
class MaskPlan:
    """The masks that a model needs: by layer type, the window in positions (None is unlimited)."""

    windows: Mapping[str, int | None]

    def masks(
        self, placement: Placement, dtype: torch.dtype, device: torch.device
    ) -> Tensor | dict[str, Tensor] | None:
        """The `attention_mask` to pass: (1, 1, T, length + P + T), or one such mask per layer type.

        None for a chain without pending tokens: slots are positions there, so the model's own causal mask
        is exact, and the cheapest.
        """
        if placement.sees is None:
            return None
        visible = visible_keys(placement)
        masks = {
            kind: _additive(visible if window is None else visible & _near(placement, window), dtype, device)
            for kind, window in self.windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))


def visible_keys(placement: Placement) -> Bools:
    """(T, length + P + T) the slots that each new token sees without a window."""
    sees = placement.sees
    if sees is None:
        sees = np.tril(np.ones((placement.count, placement.count), dtype=np.bool_))
    prefix = np.ones((placement.count, placement.length), dtype=np.bool_)
    return np.concatenate((prefix, sees), axis=1)


def tree_mask(placement: Placement, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """(1, 1, T, length + P + T) without windows, for draft layers; None if each token sees all keys."""
    if placement.count == 1 and placement.sees is None:
        return None
    return _additive(visible_keys(placement), dtype, device)


def _near(placement: Placement, window: int) -> Bools:
    distance = placement.positions[:, None] - placement.key_positions[None, :]
    return np.asarray(distance < window)


def _additive(visible: Bools, dtype: torch.dtype, device: torch.device) -> Tensor:
    # The lowest finite number, as stock models use it: exp(lowest - max) is exactly 0.
    hidden = torch.from_numpy(~visible).to(device)
    mask = torch.zeros(visible.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]
