"""The compiled module, built from `native/`.

Arrays are C-contiguous and of the types below; nanobind copies others into that form first, which costs time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (T, H)
Answer = tuple[int, Sequence[int]]  # its length, and its ids where a sampler needs them

def best_isa() -> str: ...
def has_isa(name: str) -> bool: ...
def pack(rows: NDArray[Any], kind: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], int]:
    """Packed bytes, int8 scales, and how many of the (n, k) weights are not finite."""

def packed_sizes(kind: str, n: int, k: int) -> tuple[int, int]:
    """Bytes of a packed matrix, and the number of its scales."""

class Engine:
    def __init__(self, threads: int, isa: str | None = None) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def read_bandwidth(self, data: NDArray[np.uint8]) -> float:
        """Bytes a second that all threads together read from `data`."""

class Matrix:
    def __init__(
        self,
        kind: str,
        n: int,
        k: int,
        data: NDArray[np.uint8],
        scale: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
    ) -> None: ...

class Cache:
    @property
    def length(self) -> int: ...
    @property
    def num_pending(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def commit(self, path: Sequence[int]) -> None: ...
    def truncate(self, length: int) -> None: ...
    def fork(self, length: int) -> Cache: ...

class StackShape:
    def __init__(
        self,
        *,
        hidden: int,
        intermediate: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        eps: float,
        inverse_frequencies: NDArray[np.float32],
        rope_factor: float = 1.0,
    ) -> None: ...

class Stack:
    def __init__(
        self,
        engine: Engine,
        shape: StackShape,
        layers: list[dict[str, Any]],
        final_norm: NDArray[np.float32] | None = None,
    ) -> None: ...
    def new_cache(self, limit: int) -> Cache: ...
    def forward(self, cache: Cache, x: Rows, parents: NDArray[np.int64] | None = None) -> Rows: ...

class Linear:
    def __init__(self, engine: Engine, matrix: Matrix) -> None: ...
    def forward(self, inputs: Sequence[Rows]) -> Rows: ...

class Sampler:
    def __init__(
        self,
        engine: Engine,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        bias: Sequence[tuple[int, float]],
        seed: int,
        choice: int,
        prompt_ids: Sequence[int],
        num_prompt_tokens: int,
        vocab_size: int,
        withheld: Sequence[int],
        min_new_tokens: int,
    ) -> None: ...
    @property
    def edits(self) -> bool: ...

Best = tuple[NDArray[np.int64], NDArray[np.float64]]  # (T, k) columns and log-probabilities

Tree = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # (N,) token ids, parents, log values

class Candidates:
    def __init__(
        self,
        top_k: int,
        terminal: Sequence[int],
        by_value: bool,
        knots: NDArray[np.float64] | None = None,
        rates: NDArray[np.float64] | None = None,
    ) -> None: ...
    def expect(self, token_ids: Sequence[int], rates: Sequence[float]) -> None: ...
    def expected_values(self) -> list[float]: ...
    def add_rest(self) -> None: ...
    def grow(
        self, parents: Sequence[int], token_ids: NDArray[np.int64], log_confidences: NDArray[np.float64]
    ) -> None: ...
    def frontier(self) -> tuple[list[int], list[int], list[float], list[int]]: ...
    def newest_values(self) -> list[float]: ...
    def best(self, root: int, count: int) -> Tree: ...
    def expanded(self, root: int, count: int) -> Tree: ...

class Growth:
    def __init__(
        self,
        cycle: Sequence[float],
        levels: Sequence[float],
        root_ms: float,
        room: float,
        max_nodes: int,
        other_ms: float,
        other_tokens: float,
    ) -> None: ...
    @property
    def spent(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def time(self) -> float: ...
    def expect(self, values: Sequence[float]) -> None: ...
    def begins(self, share: float, worth: Sequence[float]) -> bool: ...
    def add(self, values: Sequence[float], expanded: int) -> None: ...
    def wanted(self, log_values: Sequence[float], worth: Sequence[float]) -> int: ...

class Head:
    def __init__(self, engine: Engine, matrices: Sequence[Matrix]) -> None: ...
    @property
    def size(self) -> int: ...
    def forward(self, x: Rows) -> None: ...
    def top_k(self, x: Rows, k: int) -> Best | None: ...
    def coupled(
        self,
        x: Rows,
        k: int,
        sampler: Sampler,
        token_ids: NDArray[np.int64],
        generated: Sequence[Answer],
        scale: float,
    ) -> Best | None: ...
    def choose(
        self, rows: Sequence[int], samplers: Sequence[Sampler], generated: Sequence[Answer]
    ) -> list[int]: ...
    def logits(self, row: int) -> NDArray[np.float32]: ...
    def argmax(self, row: int) -> int: ...

class Target:
    def __init__(self, stack: Stack, head: Head, embedding: NDArray[Any], round: bool) -> None: ...
    def forward(
        self, calls: Sequence[tuple[Any, NDArray[np.int64], NDArray[np.int64] | None, bool]]
    ) -> Rows: ...
    def embed(self, token_ids: NDArray[np.int64]) -> Rows: ...
