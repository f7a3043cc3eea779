"""The draft vocabulary: the tokens that answers use most (FR-Spec, arXiv 2502.14856; EAGLE-3)."""

from collections.abc import Collection, Sequence

import numpy as np

from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.training.data import Sample

PROMPT_WEIGHT = 0.1  # a prompt token counts a tenth of an answer token: answers repeat prompts


def frequent_tokens(
    samples: Sequence[Sample], size: int, vocab_size: int, always: Collection[int] = ()
) -> Ints | None:
    """(size,) ascending ids of the most frequent tokens, `always` among them; None for all of them.

    Raises:
        ConfigError: a size outside 1..vocab_size.
    """
    if not 1 <= size <= vocab_size:
        raise ConfigError(f"draft_vocab is {size}, but it must lie in 1..{vocab_size}.")
    if size == vocab_size:
        return None
    counts = np.zeros(vocab_size)
    for sample in samples:
        counts += np.bincount(sample.response_ids, minlength=vocab_size)
        counts += PROMPT_WEIGHT * np.bincount(sample.prompt_ids, minlength=vocab_size)
    counts[list(always)] = np.inf
    return np.sort(np.argsort(-counts, kind="stable")[:size])
