"""The engine's twin of a `Sampler`: same settings, same draws, same ids."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from eyas import _native
from eyas.engine.sampling import Sampler


class NativeSamplers:
    """Makes the twin of each sampler once, and lets it go with the sampler."""

    def __init__(self, engine: _native.Engine) -> None:
        self._engine = engine
        self._twins: WeakKeyDictionary[Sampler, _native.Sampler] = WeakKeyDictionary()

    def twin(self, sampler: Sampler) -> _native.Sampler:
        """The compiled sampler with the settings of `sampler`."""
        found = self._twins.get(sampler)
        if found is None:
            found = self._twins[sampler] = self._make(sampler)
        return found

    def _make(self, sampler: Sampler) -> _native.Sampler:
        config = sampler.config
        return _native.Sampler(
            self._engine,
            temperature=config.temperature,
            top_k=min(config.top_k, sampler.vocab_size),  # a machine word holds it
            top_p=config.top_p,
            min_p=config.min_p,
            repetition_penalty=config.repetition_penalty,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            bias=list(config.logit_bias.items()),
            seed=sampler.seed,
            choice=sampler.choice,
            prompt_ids=sampler.prompt_ids.tolist(),
            num_prompt_tokens=sampler.num_prompt_tokens,
            vocab_size=sampler.vocab_size,
            withheld=sampler.withheld.tolist(),
            min_new_tokens=sampler.min_new_tokens,
        )


def answer(sampler: Sampler, generated: Sequence[int]) -> tuple[int, list[int]]:
    """The answer up to a row as the engine wants it: its ids only where they matter."""
    return len(generated), [*generated] if sampler.edits_logits else []
