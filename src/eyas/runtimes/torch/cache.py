"""Keys and values of one sequence, in buffers that grow and are not copied at each call.

`TargetCache` is what a stock model gets as its cache; `StackCache` serves our own draft layers. Both
implement `eyas.engine.interfaces.PathCache`: new tokens are written behind the pending ones, a commit moves
those that are kept in place, and a forward that is interrupted leaves the counts as they were.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from eyas.engine.tree import Ints
from eyas.runtimes.torch.pending import PathRows, Placement

FIRST_CAPACITY = 256  # slots; doubled whenever they are full


class SlotBuffer:
    """Keys and values of one layer, (1, G, capacity, E) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (1, G, T, E) keys and values into the slots from `start` on; returns views of all slots."""
        end = start + keys.shape[2]
        self.keys = _with_room(self.keys, start, end, keys)
        self.values = _with_room(self.values, start, end, values)
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def move(self, first: int, slots: Tensor) -> None:
        """Copy the slots (M,), ascending, to those from `first` on."""
        for rows in (self.keys, self.values):
            if rows is not None:
                rows[:, :, first : first + len(slots)] = rows[:, :, slots.to(rows.device)]

    def copy(self, other: "SlotBuffer", length: int) -> None:
        """Take the first `length` slots of another buffer over, into memory of our own."""
        if other.keys is not None and other.values is not None:
            self.write(0, other.keys[:, :, :length], other.values[:, :, :length])


def _with_room(rows: Tensor | None, used: int, end: int, like: Tensor) -> Tensor:
    if rows is not None and rows.shape[2] >= end:
        return rows
    capacity = max(end, FIRST_CAPACITY if rows is None else 2 * rows.shape[2])
    grown = like.new_empty((like.shape[0], like.shape[1], capacity, like.shape[3]))
    if rows is not None:
        grown[:, :, :used] = rows[:, :, :used]
    return grown


class _PathCache:
    """The protocol's methods, over buffers that a subclass lists."""

    rows: PathRows

    @property
    def length(self) -> int:
        """Committed tokens."""
        return self.rows.length

    @property
    def num_pending(self) -> int:
        """Tokens appended since the last commit."""
        return self.rows.num_pending

    def buffers(self) -> list[SlotBuffer]:
        """All layers' buffers."""
        raise NotImplementedError

    @torch.inference_mode()
    def commit(self, path: Sequence[int]) -> None:
        """Keep the pending tokens of `path`, drop the others."""
        first, slots = self.rows.moves(path)
        if len(slots):
            index = torch.from_numpy(slots)
            for buffer in self.buffers():
                buffer.move(first, index)
        self.rows.settle(len(path))

    def truncate(self, length: int) -> None:
        """Drop all pending tokens, and the committed ones from `length` on."""
        self.rows.cut(length)

    @torch.inference_mode()
    def fork(self, length: int) -> Self:
        """A cache with a copy of the first `length` committed rows."""
        assert 0 <= length <= self.length, f"{self.length} committed rows, not {length}, can be forked"
        fork = self._empty()
        for ours, theirs in zip(fork.buffers(), self.buffers(), strict=True):
            ours.copy(theirs, length)
        fork.rows.settle(length)
        return fork

    def _empty(self) -> Self:
        """A new cache with as many buffers as this one."""
        raise NotImplementedError

    def place(self, count: int, parents: Ints | None) -> Placement:
        """Slots and positions of `count` new tokens; nothing is kept yet."""
        return self.rows.place(count, parents)

    def append(self, placement: Placement) -> None:
        """The forward of `placement` succeeded: its tokens are pending now."""
        self.rows.append(placement)


class StackCache(_PathCache):
    """The cache of a stack of `num_layers` draft layers."""

    def __init__(self, num_layers: int) -> None:
        self.rows = PathRows()
        self.layers = [SlotBuffer() for _ in range(num_layers)]

    def _empty(self) -> "StackCache":
        return StackCache(len(self.layers))

    def buffers(self) -> list[SlotBuffer]:
        """All layers' buffers."""
        return self.layers


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of a target's cache, as stock models use it.

    It never slides: a layer with a window keeps all tokens, and the mask hides those outside.
    """

    is_sliding = False

    def __init__(self, rows: PathRows) -> None:
        super().__init__()
        self.rows = rows
        self.buffer = SlotBuffer()
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers are made with the first tokens."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values behind the pending ones; returns all of them, as views."""
        return self.buffer.write(self.rows.num_slots, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that `query_length` new tokens see, and the slot of the first one."""
        return self.rows.num_slots + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.rows.num_slots

    def get_max_length(self) -> int:
        """-1: no limit of its own."""
        return -1


class TargetCache(_PathCache, Cache):  # type: ignore[misc]
    """A target's cache: transformers' interface for the model, ours for the engine."""

    def __init__(self) -> None:
        self.rows = PathRows()
        # Layers are made with their first tokens, since only the model knows which of them keep any.
        super().__init__(layer_class_to_replicate=lambda: SlotLayer(self.rows))

    def buffers(self) -> list[SlotBuffer]:
        """All layers' buffers."""
        return [layer.buffer for layer in self.layers]

    def _empty(self) -> "TargetCache":
        cache = TargetCache()
        cache.layers = [SlotLayer(cache.rows) for _ in self.layers]
        return cache
