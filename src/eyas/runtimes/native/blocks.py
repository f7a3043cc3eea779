"""The parts of draft networks: the target's LM head, linear layers, decoder layers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.interfaces import Coupling, Features, LMHead, PathCache, TopK, TreeCoupling
from eyas.engine.sampling import Sampler
from eyas.engine.tree import Floats, Ints
from eyas.models.spec import LMHead as LogitSpec
from eyas.runtimes.faults import broken_draft
from eyas.runtimes.native.samplers import NativeSamplers, answer

_ALL: Ints = np.zeros(0, dtype=np.int64)  # stands for the whole vocabulary


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


class HeadSource(NamedTuple):
    """Shared by all LM heads over one target."""

    engine: _native.Engine
    samplers: NativeSamplers
    vocab_size: int
    rows: Callable[[Ints], _native.Matrix]  # of the target's LM head, by their ids
    logits: LogitSpec  # how logits follow from the products


class NativeLMHead:
    """The target's LM head, or some of its rows.

    Args:
        source: of the runtime.
        matrix: its rows.
        token_ids: (M,) ascending target ids of these; None if they are 0..M-1.
        more: ids of the target's rows that are added.
    """

    def __init__(
        self, source: HeadSource, matrix: _native.Matrix, token_ids: Ints | None, more: Ints = _ALL
    ) -> None:
        self._source = source
        self._matrix = matrix
        self._own_ids = _ALL if token_ids is None else token_ids
        self._more = more
        parts = [matrix, source.rows(more)] if len(more) else [matrix]
        logits = source.logits
        self._head = _native.LMHead(source.engine, parts, logits.scale, logits.softcap)
        self._token_ids = np.concatenate((self._own_ids, more)) if len(more) else self._own_ids

    @property
    def columns(self) -> tuple[_native.LMHead, Ints]:
        """The compiled head, and the ids of its columns; none for 0..M-1."""
        return self._head, self._token_ids

    def plus(self, token_ids: Ints) -> "NativeLMHead":
        """This head and the rows of further ids."""
        if self._own_ids is _ALL:
            return self
        places = np.searchsorted(self._own_ids, token_ids)
        own = self._own_ids.take(places, mode="clip") == token_ids
        more = sorted({*self._more.tolist(), *token_ids[~own].tolist()})
        return NativeLMHead(self._source, self._matrix, self._own_ids, np.array(more, dtype=np.int64))

    def top_k(self, hidden: Features, k: int, coupling: Coupling | None = None) -> TopK:
        """The best k continuations of each row, or all M if k is larger."""
        if coupling is None:
            best = self._head.top_k(as_rows(hidden), k)
        elif compiled := self._source.samplers.compiled(coupling.sampler):
            best = self._head.coupled(
                as_rows(hidden),
                k,
                compiled,
                self._token_ids,
                [answer(coupling.sampler, generated) for generated in coupling.generated],
                coupling.scale,
            )
        else:
            k = min(k, self._head.size)
            return TopK(*coupling.best(self.logits(hidden), k))
        if best is None:
            raise broken_draft()
        columns, log_probs = best
        return TopK(columns if self._token_ids is _ALL else self._token_ids.take(columns), log_probs)

    def logits(self, hidden: Features) -> Floats:
        """(T, V) unprocessed logits; -inf for tokens that have no column."""
        rows = as_rows(hidden)
        self._head.forward(rows)
        columns = slice(self._head.size) if self._token_ids is _ALL else self._token_ids
        logits = np.full((len(rows), self._source.vocab_size), -np.inf)
        for row in range(len(rows)):
            logits[row, columns] = self._head.logits(row)
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

    def forward(self, cache: PathCache, inputs: Features, parents: Ints | None = None) -> NDArray[np.float32]:
        """Append tokens (T, H) under `parents` (None: a chain); returns their outputs (T, H)."""
        assert isinstance(cache, _native.Cache), "a cache of this stack"
        return self.compiled.forward(cache, as_rows(inputs), parents)


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
        return compiled is not None and not compiled.edits

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
            builder, cache, *lm_head.columns, token_ids, as_rows(features), k, sampler, answer_length, scales
        )
        if not passes:
            raise broken_draft()
        return passes


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """A weight as the module takes it."""
    return np.ascontiguousarray(array, dtype=np.float32)
