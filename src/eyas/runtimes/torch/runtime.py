"""A stock transformers model as a runtime: the target's forward, and the blocks of draft networks."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eyas.engine.interfaces import (
    FINAL,
    DraftStack,
    Features,
    Linear,
    Shortcut,
    TargetCall,
    TargetInfo,
    Weights,
)
from eyas.engine.tree import Floats, Ints
from eyas.errors import ModelError
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.blocks import HeadRows, TorchLinear, TorchLMHead, TorchResBlock, as_tensor, to_torch
from eyas.runtimes.torch.cache import TargetCache
from eyas.runtimes.torch.rows import TorchRows
from eyas.runtimes.torch.stack import TorchDraftStack
from eyas.runtimes.torch.stock_config import logit_transform, mask_plan, refusal
from eyas.runtimes.torch.taps import LayerTaps, side_by_side


class TorchRuntime:
    """One target on torch, and everything that draft networks need. Made by `load_torch_runtime`.

    Args:
        model: a causal LM of transformers, in eval mode and on its device.
        name: what messages call it.
        limit: positions that it can serve, and what sets that limit.
        fingerprint: of its files.
        reason: why this runtime was chosen.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        limit: tuple[int, str],
        fingerprint: str | None = None,
        reason: str | None = None,
    ) -> None:
        text = model.config.get_text_config(decoder=True)
        family = str(model.config.model_type)
        self.model = model
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        decoder = model.get_decoder()
        head = model.get_output_embeddings()
        if decoder is None or decoder is model or not isinstance(getattr(head, "weight", None), Tensor):
            raise refusal(family, name, "it has no decoder with an LM head on top")
        self._head_weight: Tensor = head.weight
        self._head_bias: Tensor | None = getattr(head, "bias", None)
        self._embedding: Tensor = model.get_input_embeddings().weight
        self._transform = logit_transform(text)
        parameters = inspect.signature(model.forward).parameters
        self._takes_keep = "logits_to_keep" in parameters
        # transformers 5.24 calls it `cache`; `past_key_values` goes in 5.40.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self.head_is_plain = True  # logits are the LM head of the features; the probe knows
        self._states: Tensor | None = None
        decoder.register_forward_hook(self._remember)
        self.layer_taps = LayerTaps(decoder, int(text.num_hidden_layers), name)
        self.mask_plan = mask_plan(text)
        self._target = TargetInfo(
            name=name,
            family=family,
            runtime="torch",
            runtime_reason=reason,
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            hidden_size=int(self._head_weight.shape[1]),
            vocab_size=int(self._head_weight.shape[0]),
            context_limit=limit[0],
            context_reason=limit[1],
            threads=torch.get_num_threads(),
            fingerprint=fingerprint,
        )

    @property
    def target(self) -> TargetInfo:
        """Names and sizes."""
        return self._target

    def new_cache(self) -> TargetCache:
        """An empty cache of the target, grown as needed."""
        return TargetCache()

    @torch.inference_mode()
    def forward(self, calls: Sequence[TargetCall]) -> list[TorchRows]:
        """One pass over the tokens of each call; they become pending tokens of its cache."""
        return [self._forward(call) for call in calls]

    def _forward(self, call: TargetCall) -> TorchRows:
        cache = call.cache
        assert isinstance(cache, TargetCache), "a cache of this runtime"
        placement = cache.place(len(call.token_ids), call.parents)
        keep = {"logits_to_keep": 1} if call.last_only and self._takes_keep else {}
        with self.layer_taps.watching(call.taps) as states:
            logits = self.model(
                input_ids=self._ids(call.token_ids)[None],
                attention_mask=self.mask_plan.masks(placement, self.dtype, self.device),
                position_ids=self._ids(placement.positions)[None],
                use_cache=True,
                **{self._cache_name: cache},
                **keep,
            ).logits[0]
        cache.append(placement)
        assert self._states is not None, "the decoder has run"
        states[FINAL] = self._states
        features = side_by_side(states, call.taps)
        origin = f"{self._target.name} in {self._target.dtype}"
        return TorchRows(features, logits[-1:] if call.last_only else logits, origin)

    def _remember(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._states = output[0]  # last_hidden_state, after the final norm

    def _ids(self, token_ids: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(token_ids, dtype=np.int64)).to(self.device)

    @torch.inference_mode()
    def embed(self, token_ids: Ints) -> Tensor:
        """(T, H) embeddings, without a scale that the model may apply to them."""
        return nn.functional.embedding(self._ids(token_ids).to(self._embedding.device), self._embedding)

    @torch.inference_mode()
    def lm_head(self, token_ids: Ints | None = None) -> TorchLMHead:
        """The LM head, or its rows for `token_ids` (M,), ascending.

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
        return TorchLMHead(*rows, self._transform, token_ids, self._target.vocab_size, self._head_rows)

    @torch.inference_mode()
    def _head_rows(self, token_ids: Ints) -> HeadRows:
        """The LM head's rows of some ids."""
        index = self._ids(token_ids).to(self._head_weight.device)
        return HeadRows(self._head_weight[index], None if self._head_bias is None else self._head_bias[index])

    def own_lm_head(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> TorchLMHead:
        """An LM head of weight (V, H) and bias (V,), in the target's precision."""
        own = None if bias is None else self._own(bias)
        return TorchLMHead(self._own(weight), own, lambda logits: logits, None, self._target.vocab_size)

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

    def tree_grower(self, fc: Linear, stack: DraftStack) -> None:
        """Trees are drafted level by level here."""

    def round_score(self, values: Floats) -> Floats:
        """`values` rounded to the target's precision."""
        rounded: Floats = torch.from_numpy(values).to(self.dtype).to(torch.float64).numpy()
        return rounded

    def _own(self, array: NDArray[Any]) -> Tensor:
        return to_torch(array).to(device=self.device, dtype=self.dtype)
