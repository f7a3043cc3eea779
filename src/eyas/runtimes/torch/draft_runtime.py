"""What draft networks need of a target on torch: its embedding, its LM head, and blocks in its precision."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from eyas.engine.interfaces import (
    DraftStack,
    Features,
    Linear,
    NormWeights,
    Runtime,
    Shortcut,
    Taps,
    TargetInfo,
    Weights,
)
from eyas.engine.sequence import sequence_features
from eyas.engine.tree import Floats, Ints
from eyas.errors import ConfigError, ModelError
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.blocks import (
    HeadRows,
    TorchLinear,
    TorchLMHead,
    TorchNorm,
    TorchResBlock,
    as_tensor,
    to_torch,
)
from eyas.runtimes.torch.stack import TorchDraftStack
from eyas.runtimes.torch.stock_config import logit_transform

LayerWeights = Callable[[int], dict[str, Tensor]]


class TorchDraftRuntime:
    """A target without its layers: enough to train a head, where its features are known.

    Made by `load_torch_draft_runtime`; `TorchRuntime` adds the layers.

    Args:
        text_config: transformers' config of the language model.
        embedding: (V, H) table of the input embedding.
        head: rows of the LM head.
        info: names and sizes.
        layer_weights: the weights of the layer of a number, by stock names within the layer.
        norm_weight: (H,) of the norm before the LM head, if there is one.
        whole: loads a runtime of the target with its layers, which computes features; None where none can.
    """

    head_is_plain = True  # logits are the LM head of the features

    def __init__(
        self,
        *,
        text_config: Any,
        embedding: Tensor,
        head: HeadRows,
        info: TargetInfo,
        layer_weights: LayerWeights,
        norm_weight: Tensor | None,
        whole: Callable[[], Runtime] | None = None,
    ) -> None:
        self.text_config = text_config
        self.dtype: torch.dtype = embedding.dtype
        self.device: torch.device = embedding.device
        self.layer_weights = layer_weights
        self.norm_weight = norm_weight
        self._embedding = embedding
        self._head_weight, self._head_bias = head
        self._transform = logit_transform(text_config)
        self._target = info
        self._whole = whole
        self._computing: Runtime | None = None

    @property
    def target(self) -> TargetInfo:
        """Names and sizes."""
        return self._target

    @property
    def computes_features(self) -> bool:
        """Whether `hidden_states` can be asked for."""
        return self._whole is not None

    def hidden_states(self, sequences: Sequence[Sequence[int]], taps: Taps) -> list[Tensor]:
        """(T, len(taps) * H) hidden states of each sequence of T tokens, on the CPU.

        Raises:
            ConfigError: no runtime here has the target's layers.
            ModelError: a tap beyond the layers.
        """
        if self._computing is None:
            if self._whole is None:
                raise ConfigError(
                    f"no runtime of this installation computes features of {self._target.name}."
                )
            self._computing = self._whole()
        states = [sequence_features(self._computing, ids, taps) for ids in sequences]
        return [torch.as_tensor(rows).to(self.dtype) for rows in states]

    @torch.inference_mode()
    def embed(self, token_ids: Ints) -> Tensor:
        """(T, H) embeddings, without a scale that the model may apply to them."""
        return functional.embedding(self._ids(token_ids).to(self._embedding.device), self._embedding)

    @torch.inference_mode()
    def lm_head(self, token_ids: Ints | None = None, norm: NormWeights = None) -> TorchLMHead:
        """The LM head, or its rows for `token_ids` (M,), ascending; `norm` is applied to its inputs.

        Raises:
            ModelError: the model computes its logits in a way that we do not know.
        """
        if not self.head_is_plain:
            raise ModelError(
                f"{self._target.name} (family {self._target.family!r}) computes its logits in a way that "
                "eyas does not know, so no head can draft for it; use method 'pld'."
            )
        if token_ids is None:
            rows = HeadRows(self._head_weight, self._head_bias)
        else:
            rows = self._head_rows(token_ids)
        return TorchLMHead(
            *rows,
            self._transform,
            token_ids,
            self._target.vocab_size,
            rows=self._head_rows,
            norm=norm and self.norm(*norm),
        )

    @torch.inference_mode()
    def _head_rows(self, token_ids: Ints) -> HeadRows:
        """The LM head's rows of some ids."""
        index = self._ids(token_ids).to(self._head_weight.device)
        return HeadRows(self._head_weight[index], None if self._head_bias is None else self._head_bias[index])

    def own_lm_head(
        self,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        token_ids: Ints | None = None,
        norm: NormWeights = None,
    ) -> TorchLMHead:
        """An LM head of weight (M, H) and bias (M,), in the target's precision."""
        return TorchLMHead(
            self._own(weight),
            None if bias is None else self._own(bias),
            lambda logits: logits,
            token_ids,
            self._target.vocab_size,
            norm=norm and self.norm(*norm),
        )

    @torch.inference_mode()
    def join(self, parts: Sequence[Features]) -> Tensor:
        """Features (T_i, H) as one (sum T_i, H)."""
        return torch.cat([as_tensor(rows) for rows in parts])

    @torch.inference_mode()
    def select(self, features: Features, rows: Sequence[int] | Ints) -> Tensor:
        """A copy of some tokens' features."""
        return as_tensor(features)[list(rows)]

    def linear(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> TorchLinear:
        """A linear layer of weight (outputs, inputs) and bias (outputs,), in the target's precision."""
        return TorchLinear(self._own(weight), None if bias is None else self._own(bias))

    def res_block(self, weight: NDArray[Any], bias: NDArray[Any] | None, shortcut: Shortcut) -> TorchResBlock:
        """A residual block, in the target's precision."""
        return TorchResBlock(self.linear(weight, bias), None if shortcut is None else self.linear(*shortcut))

    def decoder_stack(self, spec: StackSpec, weights: Weights) -> TorchDraftStack:
        """Decoder layers in the target's precision, from weights by their names in checkpoints."""
        return TorchDraftStack(spec, weights, dtype=self.dtype, device=self.device)

    def norm(self, weight: NDArray[Any], eps: float) -> TorchNorm:
        """An RMSNorm, in the target's precision."""
        return TorchNorm(self._own(weight), eps)

    def tree_grower(self, fc: Linear | None, stack: DraftStack) -> None:
        """Trees are drafted level by level here."""

    def round_score(self, values: Floats) -> Floats:
        """`values` rounded to the target's precision."""
        rounded: Floats = torch.from_numpy(values).to(self.dtype).to(torch.float64).numpy()
        return rounded

    def _own(self, array: NDArray[Any]) -> Tensor:
        return to_torch(array).to(device=self.device, dtype=self.dtype)

    def _ids(self, token_ids: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(token_ids, dtype=np.int64)).to(self.device)
