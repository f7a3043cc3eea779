"""The EAGLE head as a module, and training-time test: the head runs on its own outputs, as in decoding.

Source: EAGLE (arXiv 2401.15077), Sec. 4; training-time test from EAGLE-3 (arXiv 2503.01840) and HASS (arXiv
2408.15766), here for the EAGLE-1/2 head.

A chain begins at an anchor a, whose pair is true, and its step s is the pair at row a + s. It may see true
pairs only up to its anchor, and then the drafted ones of its own chain:

    step 0, row a        keys: true pairs 0..a
    step 1, row a + 1    true 0..a, own pair of step 1
    step 2, row a + 2    true 0..a, pair of step 1 at a + 1, own pair of step 2

A pair of step s at row i is (output of the chain's step s - 1, x_{i+1}): the prediction of f_i from one row
earlier. Masks and positions are therefore those of decoding, exactly. Chains cost by their number, so steps
after the first may ask a share of the rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eyas.drafters.eagle_head import EagleHeadConfig
from eyas.drafters.heads import HeadCheckpoint
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.layers import DecoderStack, grouped_attention


class HeadNetwork(nn.Module):
    """fc over [embedding; feature], then decoder layers. Parameter names are those of the checkpoint."""

    def __init__(self, config: StackSpec) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.stack = DecoderStack(config)

    def unroll(
        self, embeddings: Tensor, features: Tensor, steps: int, anchors: Tensor | None = None
    ) -> list[Tensor]:
        """Outputs of each step.

        Args:
            embeddings: (B, T, H) of the tokens x_1..x_T.
            features: (B, T, H) true features f_0..f_{T-1}.
            steps: 1 is teacher forcing alone; further steps feed outputs back.
            anchors: (B, N) rows where chains begin; None is every row.

        Returns:
            (B, T, H) of the first step: row j predicts f_{j+1}. Then (B, N, H) for each further step s:
            entry (b, i) is at row anchors[b, i] + s; where that is behind the last row it is undefined.
        """
        count, device = embeddings.shape[1], embeddings.device
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.stack.layers]
        rows = torch.arange(count, device=device)
        if anchors is None:
            anchors = rows.expand(len(embeddings), count)
        outputs = [self._advance(embeddings, features, rows, kept, None)]
        before = outputs[0].take_along_dim(anchors[..., None], dim=1) if steps > 1 else outputs[0]
        for step in range(1, steps):
            at = (anchors + step).clamp(max=count - 1)
            tokens = embeddings.take_along_dim(at[..., None], dim=1)
            mask = chain_mask(anchors, count, step)
            before = self._advance(tokens, before.to(features.dtype), at[:, None], kept, mask)
            outputs.append(before)
        return outputs

    def _advance(
        self,
        embeddings: Tensor,
        features: Tensor,
        positions: Tensor,
        kept: list[list[tuple[Tensor, Tensor]]],
        mask: Tensor | None,
    ) -> Tensor:
        """One step; its keys and values join those `kept` per layer."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            kept[layer].append((key, value))
            keys = torch.cat([k for k, _ in kept[layer]], dim=2)
            values = torch.cat([v for _, v in kept[layer]], dim=2)
            return grouped_attention(query, keys, values, mask, causal=mask is None)

        output: Tensor = self.stack(self.fc(torch.cat((embeddings, features), dim=-1)), positions, attend)
        return output

    def to_weights(self) -> dict[str, NDArray[Any]]:
        """float32 arrays by the names of the checkpoint."""
        named = {name.removeprefix("stack."): tensor for name, tensor in self.state_dict().items()}
        return {name: tensor.detach().to(torch.float32).cpu().numpy() for name, tensor in named.items()}

    @classmethod
    def from_checkpoint(cls, checkpoint: HeadCheckpoint[EagleHeadConfig]) -> "HeadNetwork":
        """A network with a checkpoint's weights; a missing fc.bias is zero."""
        network = cls(checkpoint.config.stack)
        hidden = checkpoint.config.stack.hidden_size
        weights = {"fc.bias": np.zeros(hidden, dtype=np.float32)} | checkpoint.weights
        network.load_state_dict(
            {
                name if name.startswith("fc.") else f"stack.{name}": torch.from_numpy(array.copy())
                for name, array in weights.items()
            }
        )
        return network


def chain_mask(anchors: Tensor, rows: int, step: int) -> Tensor:
    """(B, 1, N, rows + step * N) which keys each of N chains sees: the true ones, then those of its steps.

    For 3 rows, the chains of all of them, and step 1:

        row 0 + 1    x . .   x . .
        row 1 + 1    x x .   . x .
        row 2 + 1    x x x   . . x
    """
    true = torch.arange(rows, device=anchors.device) <= anchors[..., None]
    own = torch.eye(anchors.shape[1], dtype=torch.bool, device=anchors.device).expand(len(anchors), -1, -1)
    return torch.cat((true, *[own] * step), dim=-1)[:, None]


def pad_rows(arrays: Sequence[Tensor], rows: int) -> Tensor:
    """(B, rows, ..) of arrays (T_i, ..), zeros behind each."""
    padded = arrays[0].new_zeros((len(arrays), rows, *arrays[0].shape[1:]))
    for index, array in enumerate(arrays):
        padded[index, : len(array)] = array
    return padded
