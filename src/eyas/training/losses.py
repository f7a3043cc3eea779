"""What the head is asked for: the next feature, and the target's next-token distribution.

Source: EAGLE (arXiv 2401.15077), Sec. 4.2: L = w_reg * SmoothL1(f^, f) + w_cls * CE(softmax(W f), softmax(W
f^)). Means are over rows by weight, so the size of a batch's padding does not matter.
"""

import torch
from torch import Tensor
from torch.nn import functional


def regression_loss(output: Tensor, feature: Tensor, scale: Tensor | None, weights: Tensor) -> Tensor:
    """Smooth L1 of (R, H) outputs against features, mean over H, then over rows by `weights` (R,).

    `scale` (H,) divides both: a feature dimension of large spread would rule the sum. None leaves them.
    """
    output, feature = output.to(torch.float32), feature.to(torch.float32)
    if scale is not None:
        output, feature = output / scale, feature / scale
    rows = functional.smooth_l1_loss(output, feature, reduction="none").mean(dim=-1)
    return weighted_mean(rows, weights)


def classification_loss(logits: Tensor, target_probs: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of (R, M) draft logits against the target's probabilities, mean by `weights` (R,)."""
    log_probs = logits.to(torch.float32).log_softmax(dim=-1)
    return weighted_mean(-(target_probs * log_probs).sum(dim=-1), weights)


def weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """Mean of (R,) by non-negative weights; 0 if all are 0."""
    return (rows * weights).sum() / weights.sum().clamp(min=1e-9)
