"""The parts of draft networks: the target's LM head, linear layers, decoder layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.interfaces import Coupling, Features, LMHead, PathCache, TopK, TreeCoupling
from eyas.engine.sampling import Sampler
from eyas.engine.tree import Floats, Ints
from eyas.errors import ModelError
from eyas.runtimes.faults import broken_draft
from eyas.runtimes.native.samplers import NativeSamplers, answer


def as_rows(features: Features) -> NDArray[np.float32]:
    """Features of this runtime are NumPy arrays."""
    assert isinstance(features, np.ndarray), "features of this runtime"
    return np.ascontiguousarray(features)


class NativeLinear:
    """y = W [x1; x2; ...] + b."""

    def __init__(self, engine: _native.Engine, matrix: _native.Matrix) -> None:
        self.matrices = [matrix]
        self._linear = _native.Linear(engine, matrix)

    def __call__(self, *inputs: Features) -> NDArray[np.float32]:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        return self._linear.forward([as_rows(rows) for rows in inputs])


class NativePiecewiseLinear:
    """y = W1 x1 + W2 x2 + .. + b, a matrix for each piece of H inputs: int8 with scales of their own.

    Args:
        linears: from the first piece to the last; one of them has the bias.
    """

    def __init__(self, linears: Sequence[NativeLinear]) -> None:
        self.matrices = [matrix for linear in linears for matrix in linear.matrices]
        self._linears = linears

    def __call__(self, *inputs: Features) -> NDArray[np.float32]:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        joined = np.concatenate([as_rows(rows) for rows in inputs], axis=1)
        pieces = np.split(joined, len(self._linears), axis=1)
        total = self._linears[0](pieces[0])
        for linear, piece in zip(self._linears[1:], pieces[1:], strict=True):
            total += linear(piece)
        return total


AnyLinear = NativeLinear | NativePiecewiseLinear


class NativeNorm:
    """RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, weight: NDArray[np.float32], eps: float) -> None:
        self._weight = weight
        self._eps = np.float32(eps)

    def __call__(self, rows: Features) -> NDArray[np.float32]:
        """Rows (T, n), as many for the result."""
        rows = as_rows(rows)
        mean = np.square(rows).mean(axis=1, keepdims=True)
        normed: NDArray[np.float32] = rows / np.sqrt(mean + self._eps) * self._weight
        return normed


class NativeResBlock:
    """y = R x + SiLU(W x + b), or x + SiLU(W x + b)."""

    def __init__(self, inner: AnyLinear, shortcut: AnyLinear | None) -> None:
        self._inner = inner
        self._shortcut = shortcut

    def __call__(self, *inputs: Features) -> NDArray[np.float32]:
        """Inputs (T, H_i) each; the result is (T, outputs)."""
        inner = self._inner(*inputs)
        with np.errstate(over="ignore"):  # exp(-x) of a very negative x is infinite, and SiLU 0
            inner /= 1 + np.exp(-inner)
        if self._shortcut is not None:
            return self._shortcut(*inputs) + inner
        return np.concatenate([as_rows(rows) for rows in inputs], axis=1) + inner


class NativeLMHead:
    """The target's LM head, or some of its rows.

    Args:
        compiled: the head.
        samplers: of the engine.
        vocab_size: V of the target.
        takes_more: whether the rows of further ids can join.
    """

    def __init__(
        self, compiled: _native.LMHead, samplers: NativeSamplers, vocab_size: int, *, takes_more: bool
    ) -> None:
        self.compiled = compiled
        self._samplers = samplers
        self._vocab_size = vocab_size
        self._takes_more = takes_more

    def plus(self, token_ids: Sequence[int]) -> "NativeLMHead":
        """This head and the rows of further ids; only rows that are new are read and packed.

        Raises:
            ModelError: a row that the draft's precision cannot hold.
        """
        try:
            grown = self.compiled.plus(token_ids) if self._takes_more else None
        except OverflowError as error:
            raise ModelError(f"the LM head holds {error}; choose another draft_dtype.") from error
        if grown is None:
            return self
        return NativeLMHead(grown, self._samplers, self._vocab_size, takes_more=True)

    def top_k(self, hidden: Features, k: int, coupling: Coupling | None = None) -> TopK:
        """The best k continuations of each row, or all M if k is larger."""
        if coupling is None:
            best = self.compiled.top_k(as_rows(hidden), k)
        elif compiled := self._samplers.compiled(coupling.sampler):
            best = self.compiled.coupled(
                as_rows(hidden),
                k,
                compiled,
                [answer(coupling.sampler, generated) for generated in coupling.generated],
                coupling.scale,
            )
        else:
            k = min(k, self.compiled.size)
            return TopK(*coupling.best(self.logits(hidden), k))
        if best is None:
            raise broken_draft()
        return TopK(*best)

    def logits(self, hidden: Features) -> Floats:
        """(T, V) unprocessed logits; -inf for tokens that have no column."""
        rows = as_rows(hidden)
        self.compiled.forward(rows)
        token_ids = self.compiled.token_ids
        logits = np.full((len(rows), self._vocab_size), -np.inf)
        for row in range(len(rows)):
            logits[row, token_ids] = self.compiled.logits(row)
        if np.isnan(logits).any():
            raise broken_draft()
        return logits


class NativeDraftStack:
    """Runs tokens through draft layers; their keys and values go to a cache of this stack."""

    def __init__(self, stack: _native.Stack, limit: int) -> None:
        self.compiled = stack
        self._limit = limit

    def new_cache(self) -> PathCache:
        """An empty cache, grown as needed."""
        return self.compiled.new_cache(self._limit)

    def forward(
        self,
        cache: PathCache,
        inputs: Features,
        parents: Ints | None = None,
        embeddings: Features | None = None,
    ) -> NDArray[np.float32]:
        """Append tokens (T, H) under `parents` (None: a chain); returns their outputs (T, H)."""
        assert isinstance(cache, _native.Cache), "a cache of this stack"
        beside = None if embeddings is None else as_rows(embeddings)
        return self.compiled.forward(cache, as_rows(inputs), parents, beside)


class NativeTreeGrower:
    """The networks of an EAGLE head, which draft a whole tree in one call of the engine.

    Args:
        head: its input layer and its stack.
        samplers: of the engine.
    """

    def __init__(self, head: _native.EagleHead, samplers: NativeSamplers) -> None:
        self._head = head
        self._samplers = samplers

    def accepts(self, sampler: Sampler) -> bool:
        """Whether drafts can be coupled to this sampler: compiled, and without edits of the logits."""
        compiled = self._samplers.compiled(sampler)
        return compiled is not None and not compiled.edits and sampler.grammar is None

    def grow(
        self,
        builder: object,
        cache: PathCache,
        lm_head: LMHead,
        waiting: tuple[Features, Ints],
        k: int,
        coupling: TreeCoupling | None,
    ) -> int:
        """All levels of a tree, see `eyas.engine.interfaces.TreeGrower`."""
        assert isinstance(builder, _native.TreeBuilder), "a compiled builder"
        assert isinstance(cache, _native.Cache), "a cache of the head's stack"
        assert isinstance(lm_head, NativeLMHead), "an LM head of this runtime"
        features, token_ids = waiting
        sampler, answer_length = None, 0
        scales: Sequence[float] = ()
        if coupling is not None:
            sampler = self._samplers.compiled(coupling.sampler)
            answer_length, scales = coupling.answer_length, coupling.scales
        passes = self._head.grow(
            builder, cache, lm_head.compiled, token_ids, as_rows(features), k, sampler, answer_length, scales
        )
        if not passes:
            raise broken_draft()
        return passes


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """A weight as the module takes it."""
    return np.ascontiguousarray(array, dtype=np.float32)
