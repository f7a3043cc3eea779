"""The target's hidden states of a text that is known, such as an answer that it has given."""

from collections.abc import Sequence

import numpy as np

from eyas.engine.cycle import PREFILL_TOKENS
from eyas.engine.interfaces import FINAL, Features, Runtime, Taps, TargetCall


def sequence_features(runtime: Runtime, token_ids: Sequence[int], taps: Taps = (FINAL,)) -> Features:
    """(T, len(taps) * H) hidden states of T tokens, read like a prompt.

    On a runtime with batch invariance (docs/laws.md, L8) they have the bits of those that decoding gave.

    Raises:
        ModelError: a tap beyond the target's layers.
    """
    cache, parts = runtime.new_cache(), []
    for start in range(0, len(token_ids), PREFILL_TOKENS):
        chunk = np.array(token_ids[start : start + PREFILL_TOKENS], dtype=np.int64)
        [rows] = runtime.forward([TargetCall(cache, chunk, last_only=True, taps=taps)])
        cache.commit(range(len(chunk)))
        parts.append(rows.features)
    return runtime.join(parts)
