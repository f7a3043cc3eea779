"""A compiled sampler for each `Sampler`: same settings, same draws, same ids."""

import sys
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from eyas import _native
from eyas.engine.sampling import Sampler


class NativeSamplers:
    """Makes the compiled sampler of each sampler once, and lets it go with the sampler."""

    def __init__(self, engine: _native.Engine) -> None:
        self._engine = engine
        self._compiled: WeakKeyDictionary[Sampler, _native.Sampler | None] = WeakKeyDictionary()

    def compiled(self, sampler: Sampler) -> _native.Sampler | None:
        """The compiled sampler with the settings of `sampler`.

        None where one of its options has no compiled function: then `sampler` itself gives the ids, from a
        copy of the logits.
        """
        if sampler not in self._compiled:
            self._compiled[sampler] = self._make(sampler)
        return self._compiled[sampler]

    def _make(self, sampler: Sampler) -> _native.Sampler | None:
        config = sampler.config
        known = _native.Sampler.filter_names()
        if sampler.processors or any(name not in known for name, _ in config.filters):
            return None
        return _native.Sampler(
            self._engine,
            temperature=config.temperature,
            repetition_penalty=config.repetition_penalty,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            filters=[(name, float(min(value, sys.maxsize))) for name, value in config.filters],
            bias=list(config.logit_bias.items()),
            seed=sampler.seed,
            choice=sampler.choice,
            prompt_ids=sampler.prompt_ids.tolist(),
            num_prompt_tokens=sampler.num_prompt_tokens,
            vocab_size=sampler.vocab_size,
            withheld=sampler.withheld.tolist(),
            min_new_tokens=sampler.min_new_tokens,
        )


# The length of an answer, its ids if the sampler reads them, and the bits of the tokens that may follow.
Answer = tuple[int, list[int], NDArray[np.uint8] | None]


def answer(sampler: Sampler, generated: Sequence[int]) -> Answer:
    """An answer as the compiled sampler of `sampler` takes it."""
    mask = None if sampler.grammar is None else sampler.grammar.mask(generated)
    return len(generated), [*generated] if sampler.edits_logits else [], mask
