"""One target on the native engine, and the parts that its draft networks are built from."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.interfaces import (
    FINAL,
    DraftStack,
    Features,
    Linear,
    NormWeights,
    PathCache,
    Shortcut,
    TargetCall,
    TargetInfo,
    Weights,
)
from eyas.engine.tree import Floats, Ints
from eyas.errors import ModelError
from eyas.models.families.common import DRAFT
from eyas.models.int8 import pieces_apart
from eyas.models.spec import LMHead, StackSpec
from eyas.models.weights import BFLOAT16
from eyas.runtimes.native.blocks import (
    AnyLinear,
    NativeDraftStack,
    NativeLinear,
    NativeLMHead,
    NativeNorm,
    NativePiecewiseLinear,
    NativeResBlock,
    NativeTreeGrower,
    as_rows,
    to_float32,
)
from eyas.runtimes.native.layers import cache_type, make_stack
from eyas.runtimes.native.matrices import (
    as_native,
    has_bias,
    layer_matrix,
    make_matrix,
    numbers_format,
    unpacked,
)
from eyas.runtimes.native.packing import HEAD, PackedWeights
from eyas.runtimes.native.rows import NativeRows
from eyas.runtimes.native.samplers import NativeSamplers


class NativeRuntime:
    """Made by `load_native_runtime`.

    Args:
        engine: instruction set and threads.
        network: the target's stack, head and embedding.
        head: its LM head.
        logits: how logits follow from its products.
        stack: its layers.
        packed: its matrices.
        info: names and sizes.
        draft_dtype: precision of draft networks.
    """

    def __init__(
        self,
        engine: _native.Engine,
        *,
        network: _native.Target,
        head: _native.LMHead,
        logits: LMHead,
        stack: _native.Stack,
        packed: PackedWeights,
        info: TargetInfo,
        draft_dtype: str,
    ) -> None:
        self.engine = engine
        self.draft_dtype = draft_dtype
        self.packed = packed
        self._network = network
        self._head = head
        self._logits = logits
        self._stack = stack
        self._target = info
        self._samplers = NativeSamplers(engine)
        self._draft_vocabularies: dict[bytes, _native.Matrix] = {}

    @property
    def target(self) -> TargetInfo:
        """Names and sizes."""
        return self._target

    def new_cache(self) -> PathCache:
        """An empty cache of the target, grown as needed."""
        return self._stack.new_cache(self._target.context_limit)

    def forward(self, calls: Sequence[TargetCall]) -> list[NativeRows]:
        """One pass over the tokens of all calls, which become pending in their caches.

        Raises:
            ModelError: a tap beyond the layers.
        """
        inner = self._inner_taps(calls)
        final, states = self._network.forward([_native_call(call) for call in calls], inner)
        tapped = {FINAL: final, **dict(zip(inner, states, strict=True))}
        origin = f"{self._target.name} in {self._target.dtype}"
        results, first, start = [], 0, 0
        for call in calls:
            end = first + len(call.token_ids)
            count = 1 if call.last_only else len(call.token_ids)
            parts = [tapped[tap][first:end] for tap in call.taps]
            features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            results.append(NativeRows(features, self._head, start, count, self._samplers, origin))
            first, start = end, start + count
        return results

    def _inner_taps(self, calls: Sequence[TargetCall]) -> list[int]:
        """The union of what the calls ask for besides the final features."""
        inner = sorted({tap for call in calls for tap in call.taps if tap != FINAL})
        last = self._stack.num_layers - 1
        for tap in inner:
            if not 0 <= tap <= last:
                raise ModelError(
                    f"tap {tap} is beyond the layers of {self._target.name}; it lies in 0..{last}, "
                    f"or is {FINAL} for the final features."
                )
        return inner

    def embed(self, token_ids: Ints) -> NDArray[np.float32]:
        """(T, H) rows of the input embedding's table."""
        return self._network.embed(token_ids)

    def lm_head(self, token_ids: Ints | None = None, norm: NormWeights = None) -> NativeLMHead:
        """The LM head, or its rows for `token_ids` (M,); `norm` is applied to its inputs."""
        if token_ids is None:
            return self._lm_head(self.packed.matrix(HEAD), None, norm)
        key = token_ids.tobytes()
        if key not in self._draft_vocabularies:
            # Not by the map that stays: so many rows would leave most of the table in memory.
            rows = unpacked(self.packed.head_table()[token_ids], self.packed.weight_format(HEAD))
            self._draft_vocabularies[key] = make_matrix(rows, self.draft_dtype, "the LM head")
        return self._lm_head(self._draft_vocabularies[key], token_ids, norm)

    def own_lm_head(
        self,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        token_ids: Ints | None = None,
        norm: NormWeights = None,
    ) -> NativeLMHead:
        """An LM head of weight (M, H) and bias (M,), in the draft's precision."""
        matrix = self._matrix(weight, bias, "a draft's LM head")
        return self._lm_head(matrix, token_ids, norm, is_own=True)

    def join(self, parts: Sequence[Features]) -> NDArray[np.float32]:
        """Features below each other."""
        return np.concatenate([as_rows(rows) for rows in parts])

    def select(self, features: Features, rows: Sequence[int] | Ints) -> NDArray[np.float32]:
        """A copy of some rows; `take` is the quicker way where a pass has emptied the caches."""
        return as_rows(features).take(rows, axis=0)

    def linear(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> AnyLinear:
        """A linear layer of weight (outputs, inputs) and bias (outputs,), in the draft's precision.

        In int8 pieces of joined inputs are multiplied apart where one scale per row would lose one.
        """
        pieces = 1
        if self.draft_dtype == "int8":
            pieces = pieces_apart(weight, self._target.hidden_size)
        layers = [
            NativeLinear(self.engine, self._matrix(part, None if number else bias, "a layer"))
            for number, part in enumerate(np.split(weight, pieces, axis=1))
        ]
        return NativePiecewiseLinear(layers) if pieces > 1 else layers[0]

    def res_block(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, shortcut: Shortcut
    ) -> NativeResBlock:
        """A residual block, in the draft's precision."""
        return NativeResBlock(self.linear(weight, bias), None if shortcut is None else self.linear(*shortcut))

    def decoder_stack(self, spec: StackSpec, weights: Weights) -> NativeDraftStack:
        """Decoder layers in the draft's precision, from weights by their names in checkpoints."""

        def get(name: str) -> NDArray[np.float32]:
            return to_float32(weights[DRAFT.find(name).tensor])

        def vector(layer: int, name: str) -> NDArray[np.float32]:
            return get(f"layers.{layer}.{name}.weight")

        def matrices(layer: int, name: str) -> list[_native.Matrix]:
            def part(weight: str) -> NDArray[np.float32]:
                return get(f"layers.{layer}.{weight}")

            bias = (
                to_float32(layer_matrix(part, name, "bias")) if has_bias(spec.layers[layer], name) else None
            )
            return [make_matrix(layer_matrix(part, name), self.draft_dtype, f"layers.{layer}.{name}", bias)]

        final_norm = get("final_norm.weight") if spec.final_norm is not None else None
        stack = make_stack(self.engine, spec, vector, matrices, final_norm, cache_type(self.draft_dtype))
        return NativeDraftStack(stack, self._target.context_limit)

    def norm(self, weight: NDArray[Any], eps: float) -> NativeNorm:
        """An RMSNorm in float32."""
        return NativeNorm(to_float32(weight), eps)

    def tree_grower(self, fc: Linear | None, stack: DraftStack) -> NativeTreeGrower:
        """An EAGLE head of these blocks, which drafts whole trees."""
        assert fc is None or isinstance(fc, NativeLinear | NativePiecewiseLinear), "of this runtime"
        assert isinstance(stack, NativeDraftStack), "a stack of this runtime"
        matrices = [] if fc is None else fc.matrices
        return NativeTreeGrower(_native.EagleHead(self._network, matrices, stack.compiled), self._samplers)

    def round_score(self, values: Floats) -> Floats:
        """`values` rounded to the target's precision (int8 computes its scores in float32)."""
        rounded = values.astype(np.float32)
        if self._target.dtype == "bfloat16":
            rounded = rounded.astype(BFLOAT16).astype(np.float32)
        return rounded.astype(np.float64)

    def _lm_head(
        self, matrix: _native.Matrix, columns: Ints | None, norm: NormWeights, *, is_own: bool = False
    ) -> NativeLMHead:
        logits = LMHead() if is_own else self._logits
        more = None if columns is None or is_own else self._head_rows
        weight, eps = (None, 0.0) if norm is None else (to_float32(norm[0]), norm[1])
        head = _native.LMHead(self.engine, [matrix], logits.scale, logits.softcap, columns, more, weight, eps)
        return NativeLMHead(head, self._samplers, self._target.vocab_size, takes_more=more is not None)

    def _matrix(self, weight: NDArray[Any], bias: NDArray[Any] | None, what: str) -> _native.Matrix:
        own = None if bias is None else to_float32(bias)
        return make_matrix(to_float32(weight), self.draft_dtype, what, own)

    @cached_property
    def _head_rows(self) -> _native.RowSource:
        """Rows of the LM head as it lies in its file: answers ask for some now and then."""
        table = self.packed.head_table()
        stored = self.packed.weight_format(HEAD) if table.dtype == np.uint8 else None
        return _native.RowSource(
            as_native(table), stored, numbers_format(self.draft_dtype, self._target.hidden_size)
        )


def _native_call(call: TargetCall) -> tuple[_native.Cache, Ints, Ints | None, bool]:
    assert isinstance(call.cache, _native.Cache), "a cache of this runtime"
    return call.cache, call.token_ids, call.parents, call.last_only
