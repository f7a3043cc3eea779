"""The EAGLE head as a module, and training-time test: the head runs on its own outputs, as in decoding.

Source: EAGLE (arXiv 2401.15077), Sec. 4; training-time test from EAGLE-3 (arXiv 2503.01840) and HASS (arXiv
2408.15766), here for the EAGLE-1/2 head.

Step s of a row j continues a draft that began s rows earlier, so it may see true pairs only up to j - s and
then the drafted ones of its own chain:

    step 0, row j      keys: true pairs 0..j
    step 1, row j      true 0..j-1, own pair of step 1 at j
    step 2, row j      true 0..j-2, pair of step 1 at j-1, own pair of step 2 at j

A pair of step r at row i is (output of step r - 1 at row i - 1, x_{i+1}): the prediction of f_i from one row
earlier. Masks and positions are therefore those of decoding, exactly.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eyas.config import StackConfig
from eyas.models.eagle_checkpoint import EagleCheckpoint
from eyas.runtimes.torch.layers import DecoderStack, grouped_attention


class HeadNetwork(nn.Module):
    """fc over [embedding; feature], then decoder layers. Parameter names are those of the checkpoint."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.stack = DecoderStack(config)

    def unroll(self, embeddings: Tensor, features: Tensor, steps: int) -> list[Tensor]:
        """Outputs of each step.

        Args:
            embeddings: (B, T, H) of the tokens x_1..x_T.
            features: (B, T, H) true features f_0..f_{T-1}.
            steps: 1 is teacher forcing alone; further steps feed outputs back.

        Returns:
            Per step (B, T, H): row j predicts f_{j+1}. In step s the rows below s are undefined.
        """
        rows = embeddings.shape[1]
        positions = torch.arange(rows, device=embeddings.device)
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.stack.layers]
        outputs: list[Tensor] = []
        for step in range(steps):
            mask = step_mask(rows, step, embeddings.device)

            def attend(
                layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = mask
            ) -> Tensor:
                kept[layer].append((key, value))
                keys = torch.cat([k for k, _ in kept[layer]], dim=2)
                values = torch.cat([v for _, v in kept[layer]], dim=2)
                return grouped_attention(query, keys, values, mask, causal=mask is None)

            joined = torch.cat((embeddings, features), dim=-1)
            output = self.stack(self.fc(joined), positions, attend)
            outputs.append(output)
            # Row i of the next step reads the prediction of f_i, made at row i - 1.
            features = torch.cat((torch.zeros_like(output[:, :1]), output[:, :-1]), dim=1).to(features.dtype)
        return outputs

    def to_weights(self) -> dict[str, NDArray[Any]]:
        """float32 arrays by the names of the checkpoint."""
        named = {name.removeprefix("stack."): tensor for name, tensor in self.state_dict().items()}
        return {name: tensor.detach().to(torch.float32).cpu().numpy() for name, tensor in named.items()}

    @classmethod
    def from_checkpoint(cls, checkpoint: EagleCheckpoint) -> "HeadNetwork":
        """A network with a checkpoint's weights; a missing fc.bias is zero."""
        network = cls(checkpoint.stack)
        hidden = checkpoint.stack.hidden_size
        weights = {"fc.bias": np.zeros(hidden, dtype=np.float32)} | checkpoint.weights
        network.load_state_dict(
            {
                name if name.startswith("fc.") else f"stack.{name}": torch.from_numpy(array.copy())
                for name, array in weights.items()
            }
        )
        return network


def step_mask(rows: int, step: int, device: torch.device | None = None) -> Tensor | None:
    """(rows, (step + 1) * rows) which keys of steps 0..step a row of `step` sees; None is plain causal.

    For 3 rows and step 1 (keys of step 0, then of step 1):

        row 0    . . .   x . .
        row 1    x . .   . x .
        row 2    x x .   . . x
    """
    if not step:
        return None
    row = torch.arange(rows, device=device)[:, None]
    key = torch.arange(rows, device=device)[None, :]
    blocks = [key <= row - step]
    blocks += [key == row - step + earlier for earlier in range(1, step + 1)]
    return torch.cat(blocks, dim=1)


def pad_rows(arrays: Sequence[Tensor], rows: int) -> Tensor:
    """(B, rows, ..) of arrays (T_i, ..), zeros behind each."""
    padded = arrays[0].new_zeros((len(arrays), rows, *arrays[0].shape[1:]))
    for index, array in enumerate(arrays):
        padded[index, : len(array)] = array
    return padded
