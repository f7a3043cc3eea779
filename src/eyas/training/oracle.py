"""A drafter with the target's own probabilities: the upper bound of heads.

Its trees are the best that any head could grow without knowing the sampler's noise, so their simulated
acceptance length is the upper bound of uncoupled drafting at temperatures above 0. It drafts as slowly as the
target decodes, so the command line does not offer it; `benchmarks/oracle.py` measures it.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from eyas.drafters.eagle2 import Eagle2Options, grow_tree
from eyas.drafters.ranked import Frontier
from eyas.engine.interfaces import DraftContext, DraftFiles, Features, Runtime, TargetCall
from eyas.engine.tree import DraftTree, Floats, Ints, root_only


class Oracle:
    """EAGLE-2 trees whose confidences are the target's own probabilities, at temperature 1."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @classmethod
    def load(cls, runtime: Runtime, files: DraftFiles) -> Self:  # noqa: ARG003 - the target is enough
        """Nothing to load."""
        return cls(runtime)

    def open(self) -> "OracleSession":
        """A session with an empty cache."""
        return OracleSession(self._runtime)


class OracleSession:
    """One sequence's second cache of the target."""

    def __init__(self, runtime: Runtime) -> None:
        self.num_forwards = 0
        self._runtime = runtime
        self._head = runtime.lm_head()

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002 - it starts afresh
        """Start an answer."""
        self.num_forwards = 0
        assert isinstance(context.options, Eagle2Options), "the oracle drafts EAGLE-2's trees"
        self._options, self._stops = context.options, context.stop_token_ids
        self._cache = self._runtime.new_cache()

    def fork(self) -> "OracleSession":
        """A new session: it starts afresh with each answer."""
        return OracleSession(self._runtime)

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:
        """Nothing to remember: `propose` reads all tokens."""

    def propose(self, token_ids: Sequence[int], max_depth: int) -> DraftTree:
        """Expand by the target's own probabilities, then keep the best nodes of all levels."""
        if max_depth < 1:
            return root_only(token_ids[-1])
        fresh = np.array(token_ids[self._cache.length :])
        root = self._forward(fresh, None)[-1:]
        self._cache.commit(range(len(fresh)))
        first = [-1]  # first pending row of the frontier above

        def expand(frontier: Frontier | None, k: int) -> tuple[Ints, Floats]:
            features = root
            if frontier is not None:
                rows = frontier.parent_rows
                parents = np.full(len(rows), -1) if first[0] < 0 else first[0] + rows
                first[0] = self._cache.num_pending
                features = self._forward(frontier.token_ids, parents)
            top = self._head.top_k(features, k)
            return top.token_ids, top.log_probs

        try:
            return grow_tree(token_ids[-1], self._options, expand, max_depth=max_depth, terminal=self._stops)
        finally:
            self._cache.commit([])

    def _forward(self, token_ids: Ints, parents: Ints | None) -> Features:
        self.num_forwards += 1
        call = TargetCall(self._cache, token_ids, parents, last_only=True)
        [rows] = self._runtime.forward([call])
        return rows.features
