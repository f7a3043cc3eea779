"""Hidden states of a stock model's inner layers, taken where they pass.

`output_hidden_states` would copy every layer's; a hook on the input of those that are asked for costs nothing
else. A tap k is the input of layer k, which is the residual stream after k layers (EAGLE-3, arXiv 2503.01840,
counts its layers so).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eyas.engine.interfaces import FINAL, Taps
from eyas.errors import ModelError


class LayerTaps:
    """Reads the hidden states of one decoder.

    Args:
        decoder: of a causal language model.
        num_layers: its layers, all in one `ModuleList`.
        name: how messages call the model.
    """

    def __init__(self, decoder: nn.Module, num_layers: int, name: str) -> None:
        lists = (module for module in decoder.modules() if isinstance(module, nn.ModuleList))
        self._layers = next((layers for layers in lists if len(layers) == num_layers), None)
        self._name = name

    @contextmanager
    def watching(self, taps: Taps) -> Iterator[dict[int, Tensor]]:
        """Collects (1, T, H) states of the passes within the block, by tap; the caller adds the final one.

        Raises:
            ModelError: a tap beyond the layers, or a model whose layers are not found.
        """
        states: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for tap in sorted({tap for tap in taps if tap != FINAL}):
                hooks.callback(self._watch(tap, states).remove)
            yield states

    def _watch(self, tap: int, states: dict[int, Tensor]) -> Any:
        if self._layers is None:
            raise ModelError(
                f"the layers of {self._name} are not found; only its final features can be read."
            )
        if not 0 <= tap < len(self._layers):
            raise ModelError(
                f"tap {tap} is beyond the layers of {self._name}; it lies in 0..{len(self._layers) - 1}, "
                f"or is {FINAL} for the final features."
            )

        def keep(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            states[tap] = args[0] if args else named["hidden_states"]

        return self._layers[tap].register_forward_pre_hook(keep, with_kwargs=True)


def side_by_side(states: dict[int, Tensor], taps: Sequence[int]) -> Tensor:
    """(T, len(taps) * H) of (1, T, H) states, in the order of `taps`."""
    if len(taps) == 1:
        return states[taps[0]][0]
    return torch.cat([states[tap][0] for tap in taps], dim=-1)
