"""A stock transformers model as a runtime: the target's forward, besides what draft networks need of it."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eyas.engine.interfaces import FINAL, Taps, TargetCall, TargetInfo
from eyas.runtimes.torch.blocks import HeadRows
from eyas.runtimes.torch.cache import TargetCache
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.rows import TorchRows
from eyas.runtimes.torch.stock_config import mask_plan, refusal
from eyas.runtimes.torch.taps import LayerTaps, side_by_side


class TorchRuntime(TorchDraftRuntime):
    """One target on torch. Made by `load_torch_runtime`.

    Args:
        model: a causal LM of transformers, in eval mode and on its device.
        name: what messages call it.
        limit: positions that it can serve, and what sets that limit.
        fingerprint: of its files.
        base_fingerprint: which all quantisations of the model share.
        reason: why this runtime was chosen.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        limit: tuple[int, str],
        fingerprint: str | None = None,
        base_fingerprint: str | None = None,
        reason: str | None = None,
    ) -> None:
        text = model.config.get_text_config(decoder=True)
        family = str(model.config.model_type)
        self.model = model
        decoder = model.get_decoder()
        head = model.get_output_embeddings()
        if decoder is None or decoder is model or not isinstance(getattr(head, "weight", None), Tensor):
            raise refusal(family, name, "it has no decoder with an LM head on top")
        parameters = inspect.signature(model.forward).parameters
        self._takes_keep = "logits_to_keep" in parameters
        # transformers 5.24 calls it `cache`; `past_key_values` goes in 5.40.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._states: Tensor | None = None
        decoder.register_forward_hook(self._remember)
        self.layer_taps = LayerTaps(decoder, int(text.num_hidden_layers), name)
        self.mask_plan = mask_plan(text)
        info = TargetInfo(
            name=name,
            family=family,
            runtime="torch",
            runtime_reason=reason,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            hidden_size=int(head.weight.shape[1]),
            vocab_size=int(head.weight.shape[0]),
            num_layers=int(text.num_hidden_layers),
            context_limit=limit[0],
            context_reason=limit[1],
            threads=torch.get_num_threads(),
            fingerprint=fingerprint,
            base_fingerprint=base_fingerprint,
        )
        super().__init__(
            text_config=text,
            embedding=model.get_input_embeddings().weight,
            head=HeadRows(head.weight, getattr(head, "bias", None)),
            info=info,
            layer_weights=lambda index: dict(decoder.layers[index].state_dict()),
            norm_weight=getattr(getattr(decoder, "norm", None), "weight", None),
        )

    @property
    def computes_features(self) -> bool:
        """All is here."""
        return True

    @torch.inference_mode()
    def hidden_states(self, sequences: Sequence[Sequence[int]], taps: Taps) -> list[Tensor]:
        """One padded pass: padding comes last, so causal rows never see it."""
        longest = max(map(len, sequences))
        ids = torch.zeros((len(sequences), longest), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        with self.layer_taps.watching(taps) as taken:
            final = self.model.get_decoder()(input_ids=ids.to(self.device), use_cache=False)[0]
        states = torch.cat([{**taken, FINAL: final}[tap] for tap in taps], dim=-1)
        return [states[row, : len(sequence)].cpu().clone() for row, sequence in enumerate(sequences)]

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
