"""Losses of heads: on the next feature, and on the target's next-token distribution.

Source: EAGLE (arXiv 2401.15077), Sec. 4.2: L = w_reg * SmoothL1(f^, f) + w_cls * CE(softmax(W f), softmax(W
f^)). Means are over rows by weight, so the size of a batch's padding does not matter.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 256  # rows whose logits are in memory at a time: what fits a processor's cache
LARGE_CHUNK = 8192  # where launching a kernel costs more than memory does


def regression_loss(
    output: Tensor, feature: Tensor, scale: Tensor | None, weights: Tensor, total: Tensor | None = None
) -> Tensor:
    """Smooth L1 of (R, H) outputs against features, mean over H, then over rows by `weights` (R,).

    `scale` (H,) divides both: a dimension of large spread would dominate the sum. None scales nothing.
    `total` stands for the sum of the weights where other processes have further rows.
    """
    output, feature = output.to(torch.float32), feature.to(torch.float32)
    if scale is not None:
        output, feature = output / scale, feature / scale
    rows = functional.smooth_l1_loss(output, feature, reduction="none").mean(dim=-1)
    return weighted_mean(rows, weights, total)


def classification_loss(
    output: Tensor,
    feature: Tensor,
    head: Tensor,
    weights: Tensor,
    total: Tensor | None = None,
    own: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Cross-entropy of softmax(W' f^) against softmax(W f), mean by `weights`, and how often they agree.

    Args:
        output: (R, H) the draft's features f^.
        feature: (R, H) the target's features f.
        head: (M, H) rows W of the LM head; products are in its precision, sums in float32.
        weights: (R,) of the rows.
        total: stands for the sum of the weights where other processes have further rows.
        own: (M, H) rows W' of the draft's own LM head, which learn too; None where it has none.

    Returns:
        The loss, and the share of the first `CHUNK` rows where both have the same best token.
    """
    output, feature = output.to(head.dtype), feature.to(head.dtype)
    shares = weights / _at_least_some(weights.sum() if total is None else total)
    own = head if own is None else own
    loss: Tensor = _SoftCrossEntropy.apply(output, own, feature, head, shares)  # type: ignore[no-untyped-call]
    drafted, wanted = (
        (rows[:CHUNK].detach() @ matrix.detach().to(rows.dtype).T).argmax(dim=-1)
        for rows, matrix in ((output, own), (feature, head))
    )
    return loss, float((drafted == wanted).float().mean()) if len(output) else 0.0


class _SoftCrossEntropy(torch.autograd.Function):
    """The gradients, with D = softmax(W' f^) - softmax(W f): D W' and D^T f^.

    They are computed with the loss, so no logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, own: Tensor, feature: Tensor, head: Tensor, shares: Tensor
    ) -> Tensor:
        rounded, gradient = own.to(head.dtype), torch.empty_like(output)
        own_gradient = torch.zeros_like(own) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), device=output.device)
        size = CHUNK if output.device.type == "cpu" else LARGE_CHUNK
        for first in range(0, len(output), size):
            rows = slice(first, first + size)
            probs = (feature[rows] @ head.T).softmax(dim=-1, dtype=torch.float32)
            log_probs = (output[rows] @ rounded.T).log_softmax(dim=-1, dtype=torch.float32)
            loss -= torch.linalg.vecdot(probs, log_probs) @ shares[rows]
            excess = log_probs.exp_().sub_(probs).to(head.dtype)
            gradient[rows] = (excess @ rounded) * shares[rows, None]
            if own_gradient is not None:
                own_gradient += excess.T @ (output[rows] * shares[rows, None]).to(head.dtype)
        ctx.save_for_backward(gradient, own_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradient, own_gradient = ctx.saved_tensors
        learnt = None if own_gradient is None else own_gradient * outer[0]
        return gradient * outer[0], learnt, None, None, None


def weighted_mean(rows: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean of (R,) by non-negative weights; 0 if all are 0."""
    return (rows * weights).sum() / _at_least_some(weights.sum() if total is None else total)


def _at_least_some(total: Tensor) -> Tensor:
    return total.clamp(min=1e-9)
