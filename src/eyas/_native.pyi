"""The native CPU engine (see eyas.runtimes.native)."""

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

def isas() -> list[str]:
    """Names of the instruction sets that this machine has, the best first."""

def weight_formats() -> list[str]:
    """Names of the formats that matrices may have."""

def pack(rows: NDArray[Any], format: str) -> tuple[NDArray[numpy.uint8], NDArray[numpy.float32], int]:
    """
    Packed bytes, scales per output, and how many of the (n, k) weights, or scales of blocks, are not
    finite. Formats of files are made from (n, bytes of a row).
    """

def unpack(rows: NDArray[Any], format: str) -> NDArray[numpy.float32]:
    """The float32 numbers of (n, bytes of a row) blocks."""

def quantise(rows: NDArray[Any], format: str, threads: int = 1) -> tuple[NDArray[numpy.uint8], int]:
    """
    Rows of (n, k) weights as GGUF's blocks (n, bytes), and how many of the weights no format can hold.
    """

def packed_sizes(format: str, n: int, k: int) -> tuple[int, int]:
    """Bytes of a packed matrix, and the number of its scales."""

class Engine:
    def __init__(self, threads: int, isa: str | None = None) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def read_bandwidth(self, data: NDArray[numpy.uint8]) -> float:
        """Bytes a second that all threads together read from `data`."""

class Matrix:
    def __init__(
        self,
        format: str,
        n: int,
        k: int,
        data: NDArray[numpy.uint8],
        scale: NDArray[numpy.float32] | None = None,
        bias: NDArray[numpy.float32] | None = None,
    ) -> None: ...

class RowSource:
    """
    Rows of a table, packed in `format` when they are asked for. The table is (n, k) float32, bfloat16
    as uint16, or (n, bytes of a row) in `table_format`.
    """

    def __init__(self, table: NDArray[Any], table_format: str | None, format: str) -> None: ...

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
        heads: int,
        kv_heads: int,
        head_dim: int,
        ropes: Sequence[tuple[NDArray[numpy.float32], float]],
        kv_dtype: str,
    ) -> None:
        """
        `ropes` holds the rotary embeddings that layers refer to: (rotated numbers / 2,) inverse
        frequencies, and the factor of the cosines and sines.
        """

class Mixture:
    def __init__(
        self,
        *,
        router: Matrix,
        gate_up: Sequence[Matrix | Sequence[Matrix]],
        down: Sequence[Matrix],
        top_k: int,
        is_normalised: bool = True,
    ) -> None:
        """
        Experts' matrices, of each as a layer has them, and the router's (experts, H). Of each token the
        `top_k` best are taken; `is_normalised`: their weights sum to 1.
        """

class Layer:
    def __init__(
        self,
        *,
        qkv: Matrix | Sequence[Matrix],
        output: Matrix,
        gate_up: Matrix | Sequence[Matrix] = [],
        down: Matrix | None = None,
        mixture: Mixture | None = None,
        attention_norm: NDArray[numpy.float32] | None = None,
        hidden_norm: NDArray[numpy.float32] | None = None,
        attention_post_norm: NDArray[numpy.float32] | None = None,
        mlp_norm: NDArray[numpy.float32] | None = None,
        mlp_post_norm: NDArray[numpy.float32] | None = None,
        query_norm: NDArray[numpy.float32] | None = None,
        key_norm: NDArray[numpy.float32] | None = None,
        residual_is_normed: bool = False,
        wide_norms: bool = False,
        eps: float = 1e-06,
        activation: str = "silu",
        window: int = 0,
        rope: int = 0,
        scale: float | None = None,
        softcap: float = 0.0,
        residual_multiplier: float = 1.0,
    ) -> None:
        """
        Matrices and options of one layer; what is not given is absent. Where formats differ, `qkv` is a
        list of three matrices and `gate_up` one of two; a mixture of experts stands in place of `gate_up`
        and `down`. A layer with `hidden_norm` reads embeddings beside the hidden states. `rope` counts the
        stack's, -1 is none; `scale` None is head_dim^(-1/2).
        """

class Stack:
    def __init__(
        self,
        engine: Engine,
        shape: StackShape,
        layers: Sequence[Layer],
        final_norm: NDArray[numpy.float32] | None = None,
        final_eps: float = 1e-06,
    ) -> None: ...
    @property
    def num_layers(self) -> int: ...
    def new_cache(self, limit: int) -> Cache: ...
    def forward(
        self,
        cache: Cache,
        x: NDArray[numpy.float32],
        parents: NDArray[numpy.int64] | None = None,
        embeddings: NDArray[numpy.float32] | None = None,
    ) -> NDArray[numpy.float32]:
        """
        Append the tokens (T, H) under `parents` (None: a chain); returns their outputs (T, H). `embeddings`
        (T, H) are for a stack whose first layer reads them.
        """

class Linear:
    def __init__(self, engine: Engine, matrix: Matrix) -> None: ...
    def forward(self, inputs: Sequence[NDArray[numpy.float32]]) -> NDArray[numpy.float32]: ...

class Sampler:
    def __init__(
        self,
        engine: Engine,
        temperature: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        filters: Sequence[tuple[str, float]],
        bias: Sequence[tuple[int, float]],
        seed: int,
        choice: int,
        prompt_ids: Sequence[int],
        num_prompt_tokens: int,
        vocab_size: int,
        withheld: Sequence[int],
        min_new_tokens: int,
    ) -> None: ...
    @staticmethod
    def filter_names() -> list[str]: ...
    @property
    def edits(self) -> bool: ...

class LMHead:
    """
    Logits scale * W x, then softcap * tanh(logits / softcap) unless softcap is 0. Without `token_ids` a
    column is its id. With `norm`, the weights of an RMSNorm, x is normed first.
    """

    def __init__(
        self,
        engine: Engine,
        matrices: Sequence[Matrix],
        scale: float = 1.0,
        softcap: float = 0.0,
        token_ids: NDArray[numpy.int64] | None = None,
        more: RowSource | None = None,
        norm: NDArray[numpy.float32] | None = None,
        eps: float = 0.0,
    ) -> None: ...
    def plus(self, token_ids: Sequence[int]) -> LMHead | None:
        """
        This head and the rows of `more` for these ids, in ascending order; None if it has them all. It takes
        over the memory of this head's last forward.
        """

    @property
    def size(self) -> int: ...
    @property
    def token_ids(self) -> NDArray[numpy.int64]: ...
    def forward(self, x: NDArray[numpy.float32]) -> None: ...
    def top_k(
        self, x: NDArray[numpy.float32], k: int
    ) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]] | None: ...
    def choose(
        self,
        tokens: Sequence[int],
        samplers: Sequence[Sampler],
        generated: Sequence[tuple[int, Sequence[int], NDArray[numpy.uint8] | None]],
    ) -> list[int]: ...
    def follow(
        self,
        first: int,
        token_ids: NDArray[numpy.int64],
        parents: NDArray[numpy.int64],
        sampler: Sampler | None,
        generated: Sequence[tuple[int, Sequence[int], NDArray[numpy.uint8] | None]],
    ) -> tuple[list[int], list[int]]:
        """
        Nodes and tokens of the path that the target's own tokens take through a tree; the last token is no
        child. Its nodes are the tokens of the last forward from `first` on. Without a sampler the largest
        logit is the token; -1 where a logit is not a number.
        """

    def coupled(
        self,
        x: NDArray[numpy.float32],
        k: int,
        sampler: Sampler,
        generated: Sequence[tuple[int, Sequence[int], NDArray[numpy.uint8] | None]],
        scale: float,
    ) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]] | None: ...
    def logits(self, token: int) -> NDArray[numpy.float32]: ...
    def argmax(self, token: int) -> int: ...

class Target:
    def __init__(
        self,
        stack: Stack,
        head: LMHead,
        embedding: NDArray[Any],
        round: bool,
        embedding_scale: float = 1.0,
        embedding_format: str | None = None,
    ) -> None:
        """
        The embedding is (V, H) float32, bfloat16 as uint16, or (V, bytes of a row) in `embedding_format`.
        """

    def forward(
        self,
        calls: Sequence[tuple[Cache, NDArray[numpy.int64], NDArray[numpy.int64] | None, bool]],
        taps: Sequence[int] = [],
    ) -> tuple[NDArray[numpy.float32], list[NDArray[numpy.float32]]]:
        """
        Run calls (cache, token ids, parents or None, logits of the last token only). Returns the
        features (T, H) of all tokens, and for each tap the states (T, H) that enter that layer; the
        number of layers stands for what leaves the last one, before the final norm.
        """

    def embed(self, token_ids: NDArray[numpy.int64]) -> NDArray[numpy.float32]: ...

class CycleTimes:
    """Milliseconds by which trees are sized."""

    def __init__(self, cycle_ms: Sequence[float], level_ms: Sequence[float], root_ms: float) -> None: ...

class TreeRules:
    def __init__(
        self,
        top_k: int,
        terminal: Sequence[int],
        by_value: bool,
        knots: NDArray[numpy.float64] | None = None,
        rates: NDArray[numpy.float64] | None = None,
        first_child: Sequence[int] = [],
        num_children: Sequence[int] = [],
    ) -> None: ...

class TreeBuilder:
    def __init__(
        self, rules: TreeRules, depth: int, chain: Sequence[int] = [], chain_rates: Sequence[float] = []
    ) -> None: ...
    def size_by_costs(
        self,
        times: CycleTimes,
        left_ms: float,
        max_nodes: int,
        other_ms: float,
        other_tokens: float,
        worth: NDArray[numpy.float64],
    ) -> None: ...
    def begins(self) -> bool: ...
    def step(
        self, token_ids: NDArray[numpy.int64], log_confidences: NDArray[numpy.float64]
    ) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]] | None: ...
    def finish(
        self, root: int, count: int | None = None
    ) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64], NDArray[numpy.float64]]: ...
    def expanded(
        self, root: int, count: int
    ) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64], NDArray[numpy.float64]]: ...
    @property
    def spent_ms(self) -> float: ...
    @property
    def cycle_ms(self) -> float: ...

class EagleHead:
    def __init__(self, target: Target, fc: Sequence[Matrix], stack: Stack) -> None: ...
    def grow(
        self,
        builder: TreeBuilder,
        cache: Cache,
        lm_head: LMHead,
        token_ids: NDArray[numpy.int64],
        features: NDArray[numpy.float32],
        k: int,
        sampler: Sampler | None = None,
        answer_length: int = 0,
        scales: Sequence[float] = [],
    ) -> int:
        """
        Read and commit the pairs of token ids (T,) and features (T, H), then grow the tree level by level.
        With a sampler children are chosen by its draws. Returns the number of levels, each a pass of the
        head; 0 if a logit is not a number.
        """
