"""A draft network's decoder layers with caches that hold trees."""

import numpy as np
import torch
from torch import Tensor

from eyas.engine.interfaces import Features, PathCache, Weights
from eyas.engine.tree import Ints
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.blocks import as_tensor
from eyas.runtimes.torch.cache import StackCache
from eyas.runtimes.torch.layers import DecoderStack, grouped_attention
from eyas.runtimes.torch.masks import tree_mask


class TorchDraftStack:
    """Runs tokens through draft layers; their keys and values go to a cache of this stack."""

    def __init__(
        self, spec: StackSpec, weights: Weights, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._stack = DecoderStack(spec)
        self._stack.load_weights(weights)
        self._stack.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._dtype = dtype
        self._device = device

    def new_cache(self) -> StackCache:
        """An empty cache, grown as needed."""
        return StackCache(self._stack.spec.num_layers)

    @torch.inference_mode()
    def forward(
        self,
        cache: PathCache,
        inputs: Features,
        parents: Ints | None = None,
        embeddings: Features | None = None,
    ) -> Tensor:
        """Append (T, H) rows under `parents` (None: a chain); returns their outputs (T, H)."""
        assert isinstance(cache, StackCache), "a cache of this stack"
        rows = as_tensor(inputs).to(self._device)
        placement = cache.place(len(rows), parents)
        first = cache.rows.num_slots
        mask = tree_mask(placement, self._dtype, self._device)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cache.layers[layer].write(first, key, value)
            return grouped_attention(query, keys, values, mask, causal=False)

        positions = torch.from_numpy(np.ascontiguousarray(placement.positions)).to(self._device)
        beside = None if embeddings is None else as_tensor(embeddings).to(self._device)[None]
        outputs: Tensor = self._stack(rows[None], positions, attend, beside)[0]
        cache.append(placement)
        return outputs
