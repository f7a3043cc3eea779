"""Acceptance length without running the target: the engine on a replayed answer.

An answer that the target has given fixes what it says after each of its own prefixes. Only paths that agree
with the answer are ever continued, so the real engine, drafter and tree run unchanged on a runtime whose
target forward looks features and tokens up. The result is exact, for greedy and for sampled answers.

At temperature > 0 the sampler's noise must be one that led to the answer. It is drawn from its posterior
given the sampled token: the winner's score is Gumbel(logsumexp of the logits), the other scores are Gumbel
numbers cut off above it ("top-down" sampling, Maddison et al. 2014, arXiv 1411.0030).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.engine.cycle import Engine, Request
from eyas.engine.interfaces import FINAL, Drafter, DraftOptions, Taps, TargetCall
from eyas.engine.metrics import GenerationStats
from eyas.engine.sampling import SampledToken, Sampler, SamplingConfig
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig
from eyas.engine.tree import Floats, Ints, node_depths
from eyas.engine.tree_options import TreeOptions
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.data import Sample


def simulate(
    runtime: TorchDraftRuntime,
    drafter: Drafter,
    sample: Sample,
    features: Tensor,
    tree: TreeOptions,
    options: DraftOptions | None = None,
    taps: Taps = (FINAL,),
) -> GenerationStats:
    """What decoding `sample` with this drafter would have counted.

    Args:
        runtime: the target's runtime, for its blocks; its target is not run.
        drafter: loaded on `runtime`.
        sample: an answer of this target.
        features: (T, len(taps) * H) the target's features of the whole sequence.
        tree: how draft tokens are chosen.
        options: of the drafter's own kind, if it has some.
        taps: the hidden states that the features hold; the final one comes last.
    """
    replay: Any = ReplayRuntime(runtime, sample, features, taps)
    # The last token stays out: whether it was drafted cannot be told apart from what follows it.
    limit = max(1, len(sample.response_ids) - 1)
    config = SamplingConfig(temperature=sample.temperature, seed=0)
    request = Request(
        prompt_ids=list(sample.prompt_ids),
        sampler=PosteriorSampler(config, sample, replay.logits_before),
        text=AnswerText(StoppingConfig(max_new_tokens=limit), NoText()),
        tree=tree,
        options=options or DraftOptions(),
    )
    for run, _ in Engine(replay, drafter).stream(request):
        last = run
    return last.stats()


class PosteriorSampler(Sampler):
    """The sampler of an answer that was drawn elsewhere: its noise is one that leads to this answer."""

    def __init__(self, config: SamplingConfig, sample: Sample, logits_before: Any) -> None:
        super().__init__(config, prompt_ids=sample.prompt_ids, vocab_size=len(logits_before(1)))
        self._tokens = sample.token_ids
        self._logits_before = logits_before

    def noise(self, position: int, token_ids: Ints) -> Floats:
        """g(position, v), equal for every caller."""
        if position not in self._noise:
            self._noise[position] = self._draw(position)
        return self._noise[position][token_ids]

    def _draw(self, position: int) -> Floats:
        rng = np.random.default_rng([position, *self._tokens[:8]])
        if position >= len(self._tokens):  # nothing is known beyond the answer's end
            return rng.gumbel(size=self.vocab_size)
        logits = self._logits_before(position) / self.config.temperature
        winner = self._tokens[position]
        return posterior_gumbel(logits, winner, rng)


def posterior_gumbel(logits: Floats, winner: int, rng: np.random.Generator) -> Floats:
    """(V,) noise g such that argmax(logits + g) is `winner`, with g's own law given that.

    The best score is Gumbel(logsumexp); every other one is Gumbel(logit) truncated below it:
    -log(exp(-best) + exp(-fresh)) for a fresh Gumbel(logit).
    """
    peak = logits.max()
    best = peak + np.log(np.exp(logits - peak).sum()) + rng.gumbel()
    scores = -np.logaddexp(-best, -(logits + rng.gumbel(size=len(logits))))
    scores[winner] = best
    return np.asarray(scores - logits)


@dataclass
class ReplayCache:
    """Counts rows, as a target's cache would."""

    length: int = 0
    num_pending: int = 0

    def commit(self, path: Sequence[int]) -> None:
        """Keep as many rows."""
        self.length, self.num_pending = self.length + len(path), 0

    def truncate(self, length: int) -> None:
        """Forget rows."""
        self.length, self.num_pending = length, 0


class ReplayRuntime:
    """A runtime whose target only repeats one answer; draft networks run as always."""

    def __init__(
        self, runtime: TorchDraftRuntime, sample: Sample, features: Tensor, taps: Taps = (FINAL,)
    ) -> None:
        self._taps = taps
        self._runtime = runtime
        self._tokens = sample.token_ids
        self._features = features.to(runtime.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)  # the blocks, and the target's sizes

    def new_cache(self) -> ReplayCache:
        """A cache that counts."""
        return ReplayCache()

    def forward(self, calls: Sequence[TargetCall]) -> list["ReplayRows"]:
        """Look rows up by their position."""
        return [self._rows(call) for call in calls]

    def _rows(self, call: TargetCall) -> "ReplayRows":
        count = len(call.token_ids)
        depths = np.arange(count) if call.parents is None else node_depths(call.parents)
        positions = np.minimum(call.cache.length + depths, len(self._features) - 1)
        assert isinstance(call.cache, ReplayCache), "a cache of this runtime"
        call.cache.num_pending += count
        rows = self._features[positions]
        if call.taps != self._taps:
            states = dict(zip(self._taps, rows.chunk(len(self._taps), dim=1), strict=True))
            rows = torch.cat([states[tap] for tap in call.taps], dim=1)
        return ReplayRows(rows, self._tokens)

    def logits_before(self, position: int) -> Floats:
        """(V,) the target's logits for the token at `position`."""
        final = self._features[position - 1 : position, -self._runtime.target.hidden_size :]
        logits: Floats = self._runtime.lm_head().logits(final)[0]
        return logits


@dataclass(frozen=True)
class ReplayRows:
    """Rows on the answer's path are the target's; those of other branches are never asked for."""

    features: Tensor
    tokens: Sequence[int]

    def choose(
        self, row: int, sampler: Sampler, generated: Sequence[int], num_log_probs: int | None = None
    ) -> SampledToken:
        """The answer's next token; beyond its end -1, which no tree contains."""
        del row, num_log_probs
        position = sampler.num_prompt_tokens + len(generated)
        return SampledToken(self.tokens[position] if position < len(self.tokens) else -1)
