"""Results of a target pass: features, sampled tokens, logits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.sampling import SampledToken, Sampler
from eyas.engine.tree import DraftTree, Floats
from eyas.runtimes.faults import broken_logits
from eyas.runtimes.native.samplers import NativeSamplers, answer


class NativeRows:
    """Results of one call. Its logits stay in the engine until the next forward.

    Args:
        features: (T, len(taps) * H) hidden states that the call asked for.
        head: the LM head, which holds the logits.
        start: where this call's logits begin in the LM head.
        count: tokens with logits, the last ones of T.
        samplers: the engine's compiled samplers.
        origin: model and precision, for messages.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        head: _native.LMHead,
        start: int,
        count: int,
        samplers: NativeSamplers,
        origin: str,
    ) -> None:
        self._features = features
        self._head = head
        self._start = start
        self._skipped = len(features) - count
        self._samplers = samplers
        self._origin = origin

    @property
    def features(self) -> NDArray[np.float32]:
        """(T, H) outputs after the target's final norm."""
        return self._features

    def choose(
        self, row: int, sampler: Sampler, generated: Sequence[int], num_log_probs: int | None = None
    ) -> SampledToken:
        """The token after `row`, see `eyas.engine.interfaces.TargetRows.choose`.

        Raises:
            ModelError: the row has a logit that is not a number.
        """
        place = self._place(row)
        if sampler.grammar is not None:
            sampler.grammar.require(generated)
        if sampler.is_argmax:
            token_id = self._head.argmax(place)
        elif compiled := self._samplers.compiled(sampler):
            [token_id] = self._head.choose([place], [compiled], [answer(sampler, generated)])
        else:
            token_id = sampler.choose(self.logits(row), generated)
        if token_id < 0:
            raise broken_logits(self._origin)
        if num_log_probs is None:
            return SampledToken(token_id)
        return SampledToken.reported(token_id, self.logits(row), num_log_probs)

    def follow(
        self, tree: DraftTree, sampler: Sampler, generated: Sequence[int]
    ) -> tuple[list[int], list[int]] | None:
        """See `eyas.engine.verification.Verifier.follow`.

        Raises:
            ModelError: a row on the path has a logit that is not a number.
        """
        if sampler.grammar is not None:  # the tokens that may follow are found node by node
            return None
        compiled = None if sampler.is_argmax else self._samplers.compiled(sampler)
        if compiled is None and not sampler.is_argmax:
            return None
        found = answer(sampler, generated)
        path, token_ids = self._head.follow(self._place(0), tree.token_ids, tree.parents, compiled, [found])
        if token_ids[-1] < 0:
            raise broken_logits(self._origin)
        return path, token_ids

    def logits(self, row: int) -> Floats:
        """(V,) unprocessed logits of a row, in float64."""
        logits: Floats = self._head.logits(self._place(row)).astype(np.float64)
        if np.isnan(logits).any():
            raise broken_logits(self._origin)
        return logits

    def _place(self, row: int) -> int:
        assert row >= self._skipped, f"the call kept no logits of row {row}"
        return self._start + row - self._skipped
