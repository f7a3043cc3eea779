"""Building blocks of draft networks besides decoder layers: LM heads, linear layers, residual blocks."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from eyas.engine.interfaces import Coupling, Features, TopK
from eyas.engine.tree import Floats, Ints
from eyas.runtimes.faults import broken_draft
from eyas.runtimes.torch.layers import RMSNorm
from eyas.runtimes.torch.topk import best_of_rows


def to_torch(array: NDArray[Any]) -> Tensor:
    """A weight as a tensor of its own precision; others, such as bfloat16, become float32."""
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float32)
    # A copy: arrays that map a file are read-only, and torch has no such tensors.
    return torch.from_numpy(np.array(array, order="C"))


def as_tensor(rows: Features) -> Tensor:
    """The features as a tensor: all features of this runtime are."""
    assert isinstance(rows, Tensor), "features of this runtime"
    return rows


class TorchLinear:
    """y = W [x1; x2; ...] + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self._bias = bias

    @torch.inference_mode()
    def __call__(self, *inputs: Features) -> Tensor:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        joined = torch.cat([as_tensor(rows) for rows in inputs], dim=-1)
        return functional.linear(joined, self.weight, self._bias)


class TorchNorm:
    """RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._norm = RMSNorm(len(weight), eps).to(weight).requires_grad_(False)
        self._norm.weight.copy_(weight)

    @torch.inference_mode()
    def __call__(self, rows: Features) -> Tensor:
        """Rows (T, n), as many for the result."""
        normed: Tensor = self._norm(as_tensor(rows))
        return normed


class TorchResBlock:
    """y = R x + SiLU(W x + b), or x + SiLU(W x + b)."""

    def __init__(self, inner: TorchLinear, shortcut: TorchLinear | None) -> None:
        self._inner = inner
        self._shortcut = shortcut

    @torch.inference_mode()
    def __call__(self, *inputs: Features) -> Tensor:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        if self._shortcut is not None:
            straight = self._shortcut(*inputs)
        else:
            straight = torch.cat([as_tensor(rows) for rows in inputs], dim=-1)
        return straight + functional.silu(self._inner(*inputs))


class HeadRows(NamedTuple):
    """Rows of an LM head.

    Attributes:
        weight: (M, H).
        bias: (M,) or None.
    """

    weight: Tensor
    bias: Tensor | None


class TorchLMHead:
    """The target's LM head, or some of its rows.

    Args:
        weight: (M, H).
        bias: (M,) or None.
        transform: applied to the logits, such as a soft-cap.
        token_ids: (M,) target ids of the rows, ascending; None if they are 0..M-1.
        vocab_size: V of the target.
        rows: the target's rows of other ids, for `plus`; None for a head that takes none.
        norm: of what it reads.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        transform: Callable[[Tensor], Tensor],
        token_ids: Ints | None,
        vocab_size: int,
        rows: Callable[[Ints], HeadRows] | None = None,
        norm: TorchNorm | None = None,
    ) -> None:
        self.weight = weight
        self._bias = bias
        self._transform = transform
        self._token_ids = token_ids
        self._vocab_size = vocab_size
        self._rows = rows
        self._norm = norm
        self._own_ids = token_ids
        self._more: HeadRows | None = None  # of ids that were added, in the order of their addition
        self._order: Tensor | None = None  # columns of own and added rows in the order of their ids

    def plus(self, token_ids: Sequence[int]) -> "TorchLMHead":
        """This head with the rows of further ids; only rows that are new are fetched from the target's."""
        if self._token_ids is None or self._rows is None or self._own_ids is None:
            return self
        new = np.setdiff1d(np.array(token_ids, dtype=np.int64), self._token_ids)
        if not len(new):
            return self
        grown = copy(self)
        grown._more = _below(self._more, self._rows(new))
        grown._own_ids = np.concatenate((self._own_ids, new))
        order = np.argsort(grown._own_ids)  # ties go to the lower id
        grown._token_ids = grown._own_ids[order]
        grown._order = torch.from_numpy(order).to(self.weight.device)
        return grown

    @torch.inference_mode()
    def logits(self, hidden: Features) -> Floats:
        """(T, V) unprocessed logits; -inf for tokens that have no row."""
        own = self.raw_logits(hidden).to(torch.float64).cpu().numpy()
        logits = np.full((len(own), self._vocab_size), -np.inf)
        logits[:, slice(own.shape[1]) if self._token_ids is None else self._token_ids] = own
        if np.isnan(logits).any():
            raise broken_draft()
        return logits

    @torch.inference_mode()
    def raw_logits(self, hidden: Features) -> Tensor:
        """(T, M) in the model's precision."""
        rows = as_tensor(hidden if self._norm is None else self._norm(hidden)).to(self.weight.device)
        logits = functional.linear(rows, self.weight, self._bias)
        if self._more is not None:
            more = functional.linear(rows, self._more.weight, self._more.bias)
            logits = torch.cat((logits, more), dim=-1)[:, self._order]
        return self._transform(logits)

    @torch.inference_mode()
    def top_k(self, hidden: Features, k: int, coupling: Coupling | None = None) -> TopK:
        """The best k continuations of each token, or all M if k is larger; ties go to the lower id.

        A coupled row with fewer than k tokens that can win is filled up with others of probability 0.
        """
        logits = self.raw_logits(hidden)
        k = min(k, logits.shape[1])
        if coupling is None:
            columns, best = best_of_rows(logits, k)
            total = logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(dim=-1)
            log_probs = best - total.to(torch.float64).cpu().numpy()[:, None]
        else:
            rows: Floats = logits.to(torch.float64).cpu().numpy()
            if np.isnan(rows).any():
                raise broken_draft()
            columns, log_probs = coupling.best(rows, k, self._token_ids)
        if np.isnan(log_probs).any():
            raise broken_draft()
        ids = columns if self._token_ids is None else self._token_ids[columns]
        return TopK(token_ids=ids, log_probs=np.minimum(log_probs, 0.0))


def _below(above: HeadRows | None, rows: HeadRows) -> HeadRows:
    if above is None:
        return rows
    bias = None if above.bias is None or rows.bias is None else torch.cat((above.bias, rows.bias))
    return HeadRows(torch.cat((above.weight, rows.weight)), bias)
