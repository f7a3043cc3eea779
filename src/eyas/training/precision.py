"""What a head loses by the precision it is used in: int8 weights, the native runtime's default for drafts.

Only weights are rounded here. That engine rounds activations too, with a scale for every 64 numbers, which
loses far less.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.engine.interfaces import DraftStack, Linear, LMHead, NormWeights, ResBlock, Shortcut, Weights
from eyas.engine.tree import Ints
from eyas.models.int8 import rounded
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.blocks import to_torch
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.measure import Case

MOST_LOST = 0.01  # share of the acceptance length that a precision may cost in silence


class Int8Drafts:
    """A torch runtime that rounds the weights of draft networks to int8 and back."""

    def __init__(self, runtime: TorchDraftRuntime) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)  # the target, and blocks without weights

    def lm_head(self, token_ids: Ints | None = None, norm: NormWeights = None) -> LMHead:
        """The target's LM head, as drafts read it."""
        head = copy(self._runtime.lm_head(token_ids, norm))
        weight = rounded(head.weight.float().cpu().numpy(), head.weight.shape[1])
        head.weight = to_torch(weight).to(head.weight)
        return head

    def own_lm_head(
        self,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        token_ids: Ints | None = None,
        norm: NormWeights = None,
    ) -> LMHead:
        """An LM head of a network's own."""
        return self._runtime.own_lm_head(self._rounded(weight), bias, token_ids, norm)

    def linear(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> Linear:
        """A linear layer."""
        return self._runtime.linear(self._rounded(weight), bias)

    def res_block(self, weight: NDArray[Any], bias: NDArray[Any] | None, shortcut: Shortcut) -> ResBlock:
        """A residual block."""
        if shortcut is not None:
            shortcut = (self._rounded(shortcut[0]), shortcut[1])
        return self._runtime.res_block(self._rounded(weight), bias, shortcut)

    def decoder_stack(self, spec: StackSpec, weights: Weights) -> DraftStack:
        """Decoder layers."""
        made = {name: self._rounded(array) if array.ndim == 2 else array for name, array in weights.items()}
        return self._runtime.decoder_stack(spec, made)

    def _rounded(self, weight: NDArray[Any]) -> NDArray[np.float32]:
        return rounded(weight, self._runtime.target.hidden_size)


def in_int8(case: Case) -> Case:
    """The same case under the name of its precision."""
    return replace(case, name=f"{case.name}, int8 weights")


def what_int8_costs(measured: Mapping[str, Any], case: Case) -> str | None:
    """A line for the user where int8 costs a head more than `MOST_LOST`; None where it does not.

    Args:
        measured: acceptance lengths by temperature and case, with `case` in both precisions.
        case: the one that was measured twice.
    """
    worst, found = MOST_LOST, None
    for name, numbers in measured.items():
        before = numbers["acceptance_length"]
        after = measured.get(name + in_int8(case).name.removeprefix(case.name), {}).get("acceptance_length")
        if not name.endswith(f", {case.name}") or not before or after is None:
            continue
        if 1 - after / before > worst:
            worst = 1 - after / before
            found = (
                f"int8 weights, the native runtime's default for drafts, cost this head {100 * worst:.0f} % "
                f"of its acceptance length ({name}: {after} instead of {before}); "
                "use --draft-dtype bfloat16."
            )
    return found
