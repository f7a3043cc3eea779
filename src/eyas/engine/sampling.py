"""Which token follows? Processed logits plus a fixed draw per position and token: Gumbel-max.

The draw is a function g(t, v) of absolute position and token id alone (docs/laws.md, L2), so the answer does
not depend on how its tokens were found: one by one or several in one tree. The token is

    argmax over v of  processed_logit(v) + g(t, v),   g = -log(-log u),  u = (r + 1/2) / 2^32

with r one word of Philox4x32-10 (Salmon et al., SC 2011) under key (seed, choice) and counter (t, v). That is
exactly a draw from softmax(processed logits) (Gumbel-max), without a normalising sum. A draft with the same
draws is Gumbel-coupled to the target (drafter-invariant sampling: Daliri, Musco, Suresh, arXiv 2408.07978).

Processors run in the order of transformers, each on the prefix of its own path (docs/laws.md, L3). This is
the reference implementation, in NumPy float64; a runtime may be faster, but gives the same ids.

One more option that cuts logits, such as min_p: a field of `SamplingConfig`, a function with its row in
`FILTERS`, and the same two in native/sampler.cpp. Until these are there the native runtime asks this file.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eyas.config import MAX_SEED, Option, Options, options_of
from eyas.engine.grammar import Grammar
from eyas.engine.processors import processor_options, processors
from eyas.engine.tree import Floats, Ints
from eyas.errors import ConfigError

# g lies in [-3.13, 22.88]: a token further than this below the best processed logit cannot win.
REACH = 26.01

# Streams of draws other than the sampler's own, which is 0.
DRAFT_STREAM = 1  # tokens that a draft network draws by itself
TEST_STREAM = 2  # whether speculative sampling accepts a token

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


# Logits that were edited and divided by a temperature stay finite within these.
LEAST_TEMPERATURE = 1e-300
LEAST_PENALTY, MOST_PENALTY = 1e-3, 1e3
MOST_BIAS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig(Options):
    """The distribution of the next token (docs/laws.md, L2 and L3) and its draws."""

    title: ClassVar[str] = "sampling"

    temperature: Annotated[
        float,
        Option(
            "how random the answer is: 0 always takes the most probable token", "T", at_least=0, common=True
        ),
    ] = 0.0
    top_k: Annotated[
        int, Option("sample among the K most probable tokens", "K", at_least=0, off=0, common=True)
    ] = 0
    top_p: Annotated[
        float,
        Option(
            "sample among the most probable tokens that together have this probability",
            "P",
            above=0,
            at_most=1,
            off=1,
            common=True,
        ),
    ] = 1.0
    min_p: Annotated[
        float,
        Option(
            "drop tokens less probable than this times the most probable one",
            "P",
            at_least=0,
            at_most=1,
            off=0,
            common=True,
        ),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Option(
            "divide the logits of tokens in the prompt and the answer by this",
            "R",
            at_least=LEAST_PENALTY,
            at_most=MOST_PENALTY,
            off=1,
            common=True,
        ),
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Option("subtract this from the logits of tokens in the answer", "P", at_least=-2, at_most=2, off=0),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Option(
            "subtract this from a token's logit for each time the answer has it",
            "P",
            at_least=-2,
            at_most=2,
            off=0,
        ),
    ] = 0.0
    logit_bias: Annotated[
        Mapping[int, float],
        Option(
            "add X to the logit of token ID; may be repeated", "ID=X", at_least=-MOST_BIAS, at_most=MOST_BIAS
        ),
    ] = field(default_factory=dict)
    seed: Annotated[
        int | None,
        Option(
            "seed of the random draws; without it a fresh one, which --json reports",
            "S",
            at_least=0,
            at_most=MAX_SEED,
            common=True,
        ),
    ] = None

    extra: Mapping[str, Any] = field(default_factory=dict)  # options of `eyas.engine.processors` by name

    def check(self) -> None:
        """Raise ConfigError for a temperature so low that logits divided by it overflow."""
        known = processor_options() if self.extra else {}
        for name, value in self.extra.items():
            if name not in known:
                raise ConfigError(f"extra names {name!r}, which is not a registered sampling option.")
            known[name].check(value)
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ConfigError(
                f"temperature is {self.temperature}, but it must be 0 (greedy) or at least "
                f"{LEAST_TEMPERATURE}."
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the token is an argmax, without draws."""
        return self.temperature == 0

    @property
    def filters(self) -> list[tuple[str, float]]:
        """The options of `FILTERS` that are on, with their values, in the order of their use."""
        off = {named.name: named.option.off for named in options_of(SamplingConfig)}
        values = {name: getattr(self, name) for name in FILTERS}
        return [(name, value) for name, value in values.items() if value != off[name]]

    def drawn_seed(self) -> int:
        """The seed to use: the one given, 0 when greedy, otherwise a fresh one."""
        if self.seed is not None:
            return self.seed
        return 0 if self.is_greedy else secrets.randbelow(MAX_SEED + 1)


def philox(counter: Sequence[NDArray[np.uint64]], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """Philox4x32-10: four words for each counter of four words (uint64 arrays that hold 32 bits)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _HALF) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def uniform(key: tuple[int, int], position: int, numbers: Ints, stream: int = 0) -> Floats:
    """A number in (0, 1) for each of `numbers` (M,), fixed by the arguments; streams are independent."""
    zeros = np.zeros(len(numbers), dtype=np.uint64)
    counter = [zeros + np.uint64(position), numbers.astype(np.uint64), zeros + np.uint64(stream), zeros]
    return (philox(counter, key)[0].astype(np.float64) + 0.5) / 2.0**32


def gumbel(seed: int, choice: int, position: int, token_ids: Ints, stream: int = 0) -> Floats:
    """g(position, v) for each v of `token_ids` (M,): standard Gumbel numbers, fixed by their arguments."""
    return -np.log(-np.log(uniform((seed, choice), position, token_ids, stream)))


def log_softmax(values: Floats) -> Floats:
    """Over the last axis, in float64; entries of -inf stay."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def best_of_row(values: Floats, k: int) -> Ints:
    """Columns of the k largest finite entries of (V,), best first; fewer if fewer are finite."""
    alive = np.flatnonzero(np.isfinite(values))
    if k < len(alive):
        kept = values[alive]
        alive = alive[kept >= np.partition(kept, -k)[-k]]
    return alive[np.argsort(-values[alive], kind="stable")][:k]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token of an answer. Log-probabilities are those of the *unprocessed* logits.

    Attributes:
        log_prob: None unless asked for.
        top: the best (token id, log-probability), as many as asked for.
        depth: level of the draft tree that it was accepted at; None for the target's own token.
    """

    id: int
    log_prob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    depth: int | None = None

    @classmethod
    def reported(cls, token_id: int, logits: Floats, count: int) -> "SampledToken":
        """The token with its log-probability and the `count` best ones, from (V,) unprocessed logits."""
        log_probs = log_softmax(logits)
        best = best_of_row(log_probs, count) if count else ()
        top = tuple((int(token), float(log_probs[token])) for token in best)
        return cls(token_id, float(log_probs[token_id]), top)

    def at_depth(self, depth: int) -> "SampledToken":
        """The same token, accepted from a draft tree."""
        return SampledToken(self.id, self.log_prob, self.top, depth)


class Sampler:
    """Draws the tokens of one answer.

    Args:
        config: the distribution.
        seed: first key word, see `SamplingConfig.drawn_seed`.
        choice: index among the n answers to one prompt, second key word.
        prompt_ids: seen by the repetition penalty; their number gives the first answer token's position.
        vocab_size: V.
        withheld: ids that cannot be chosen in the first `min_new_tokens` tokens (the stop tokens); what lies
            outside the vocabulary, where some models name one, is left out.
        grammar: of this answer: tokens that it forbids cannot be chosen.

    `prompt_ids` keeps each id once, ascending; `withheld` is ascending too.
    """

    def __init__(
        self,
        config: SamplingConfig,
        *,
        prompt_ids: Sequence[int],
        vocab_size: int,
        seed: int = 0,
        choice: int = 0,
        withheld: Iterable[int] = (),
        min_new_tokens: int = 0,
        grammar: Grammar | None = None,
    ) -> None:
        self.config = config
        self.grammar = grammar
        self.seed = seed
        self.choice = choice
        self.vocab_size = vocab_size
        self.num_prompt_tokens = len(prompt_ids)
        self.prompt_ids = np.unique(np.asarray(prompt_ids, dtype=np.int64))
        self.withheld = np.array(sorted(id_ for id_ in withheld if 0 <= id_ < vocab_size), dtype=np.int64)
        self.min_new_tokens = min_new_tokens
        self._bias_ids = np.array(list(config.logit_bias), dtype=np.int64)
        self._biases = np.array(list(config.logit_bias.values()), dtype=np.float64)
        if len(self._bias_ids) and self._bias_ids.max() >= vocab_size:
            raise ConfigError(
                f"logit_bias names token id {self._bias_ids.max()}, but the model's ids end at "
                f"{vocab_size - 1}."
            )
        used = processors() if config.extra else ()
        chosen = [(processor, processor.chosen(config.extra)) for processor in used]
        self.processors = [(processor, values) for processor, values in chosen if values is not None]
        self._noise: dict[int, Floats] = {}

    @cached_property
    def is_argmax(self) -> bool:
        """Whether the choice is the argmax of the raw logits: no noise, no processor."""
        return self.config.is_greedy and not self.edits_logits

    @cached_property
    def edits_logits(self) -> bool:
        """Whether the choice depends on more of the answer than its length, or the logits are edited."""
        config = self.config
        return bool(
            len(self._bias_ids)
            or config.repetition_penalty != 1
            or config.presence_penalty
            or config.frequency_penalty
            or self.min_new_tokens
            or self.processors
            or self.grammar
        )

    def choose(self, logits: Floats, generated: Sequence[int]) -> int:
        """The token after prompt + `generated`, given its (V,) float64 logits. Ties go to the lowest id.

        Raises:
            ConfigError: a registered processor or the grammar left no token.
        """
        if self.grammar is not None:
            self.grammar.require(generated)
        scores = self.scores(logits, generated)
        best = int(np.argmax(scores))
        if self.processors and scores[best] == -np.inf:
            names = ", ".join(processor.function.__name__ for processor, _ in self.processors)
            raise ConfigError(f"no token is left to sample after {names}; choose milder values.")
        return best

    def scores(self, logits: Floats, generated: Sequence[int], columns: Ints | None = None) -> Floats:
        """Processed logits plus noise, (M,); -inf for what cannot win.

        `columns` (M,), ascending, says which token ids the logits belong to; None means all of them.
        """
        processed = self.process(logits, generated, columns)
        if self.config.is_greedy:
            return processed
        able = np.flatnonzero(processed >= processed.max() - REACH)
        ids = able if columns is None else columns[able]
        scores = np.full(len(processed), -np.inf)
        scores[able] = processed[able] + self.noise(self.num_prompt_tokens + len(generated), ids)
        return scores

    def log_probs(self, logits: Floats, generated: Sequence[int]) -> Floats:
        """(V,) natural logs of the distribution that `choose` draws from; at temperature 0, that of T = 1.

        Where no token is left, which a draft may find, all of them are -inf.
        """
        processed = self.process(logits, generated)
        return log_softmax(processed) if processed.max() > -np.inf else processed

    def draw(self, log_probs: Floats, num_generated: int) -> int:
        """A token from (V,) `log_probs` after `num_generated` answer tokens.

        For the log-probabilities of processed logits it is the token of `choose`.
        """
        if self.config.is_greedy:
            return int(np.argmax(log_probs))
        return int(np.argmax(log_probs + self.noise(self.num_prompt_tokens + num_generated, _all(log_probs))))

    def draw_draft(self, log_probs: Floats, num_generated: int, count: int) -> Ints:
        """Up to `count` tokens from (V,) `log_probs`, in order, without replacement and apart from `draw`.

        The largest of log p + Gumbel noise are such a sample (Gumbel-top-k, arXiv 1903.06059).
        """
        position = self.num_prompt_tokens + num_generated
        noise = gumbel(self.seed, self.choice, position, _all(log_probs), DRAFT_STREAM)
        return best_of_row(log_probs + noise, count)

    def uniform(self, num_generated: int, index: int) -> float:
        """The `index`-th number in (0, 1) of a position, for tests of acceptance."""
        position = self.num_prompt_tokens + num_generated
        return float(uniform((self.seed, self.choice), position, np.array([index]), TEST_STREAM)[0])

    def noise(self, position: int, token_ids: Ints) -> Floats:
        """g(position, v) for each v of `token_ids`; whole rows are kept while their position is ahead."""
        if position not in self._noise:
            if 4 * len(token_ids) < self.vocab_size:
                return gumbel(self.seed, self.choice, position, token_ids)
            self._noise[position] = gumbel(self.seed, self.choice, position, np.arange(self.vocab_size))
        return self._noise[position][token_ids]

    def commit(self, generated: Sequence[int]) -> None:
        """This much of the answer is certain: drop what is kept of it."""
        if self.grammar is not None:
            self.grammar.commit(generated)
        first = self.num_prompt_tokens + len(generated)
        self._noise = {at: row for at, row in self._noise.items() if at >= first}

    def process(self, logits: Floats, generated: Sequence[int], columns: Ints | None = None) -> Floats:
        """Grammar, bias, penalties, temperature, filters and registered processors, in that order.

        docs/laws.md, L3.

        Where greedy, temperature and filters, which keep the argmax, are left out.

        Args:
            logits: (M,) float64, unprocessed; not changed.
            generated: the answer so far, the node's own path included.
            columns: as in `scores`.
        """
        row = np.array(logits, dtype=np.float64)
        if self.grammar is not None:
            self.grammar.restrict(row, generated, columns)
            if row.max() == -np.inf:  # a draft vocabulary may have none of the tokens that may follow
                return row
        if self.edits_logits:
            self._edit(row, np.asarray(generated, dtype=np.int64), columns)
        if not self.config.is_greedy:
            row /= self.config.temperature
            for name, keep in FILTERS.items():
                row = keep(row, getattr(self.config, name))
        return self._apply_processors(row, generated, columns) if self.processors else row

    def _apply_processors(self, row: Floats, generated: Sequence[int], columns: Ints | None) -> Floats:
        """The registered processors, which see the whole vocabulary (V,)."""
        whole = row
        if columns is not None:
            whole = np.full(self.vocab_size, -np.inf)
            whole[columns] = row
        for processor, values in self.processors:
            whole = processor.apply(whole, list(generated), values)
        return whole if columns is None else whole[columns]

    def _edit(self, row: Floats, generated: Ints, columns: Ints | None) -> None:
        """Logit bias, penalties and withheld stop tokens, in place."""
        config = self.config
        at, index = _locate(self._bias_ids, columns)
        row[at] += self._biases[index]
        if config.repetition_penalty != 1:
            at, _ = _locate(np.union1d(self.prompt_ids, generated), columns)
            seen = row[at]
            penalty = config.repetition_penalty
            row[at] = np.where(seen < 0, seen * penalty, seen / penalty)
        if (config.presence_penalty or config.frequency_penalty) and len(generated):
            ids, counts = np.unique(generated, return_counts=True)
            at, index = _locate(ids, columns)
            row[at] -= config.presence_penalty + config.frequency_penalty * counts[index]
        if len(generated) < self.min_new_tokens:
            at, _ = _locate(self.withheld, columns)
            row[at] = -np.inf


def _all(row: Floats) -> Ints:
    return np.arange(len(row))


def _locate(ids: Ints, columns: Ints | None) -> tuple[Ints, Ints]:
    """Where `ids` stand in a row over `columns`, and which of `ids` those are."""
    if columns is None:
        return ids, np.arange(len(ids))
    at = np.searchsorted(columns, ids)
    found = np.flatnonzero(columns[np.minimum(at, len(columns) - 1)] == ids)
    return at[found], found


def keep_top_k(logits: Floats, k: int) -> Floats:
    """Leave the k best logits, the others -inf; of equal ones at the edge the lower ids stay. 0 is off."""
    if not 0 < k < len(logits):
        return logits
    edge = np.partition(logits, -k)[-k]
    keep = logits > edge
    ties = np.flatnonzero(logits == edge)
    keep[ties[: k - np.count_nonzero(keep)]] = True
    return np.where(keep, logits, -np.inf)


def keep_top_p(logits: Floats, p: float) -> Floats:
    """Leave the smallest set of best tokens whose mass reaches p (nucleus); at least one. 1 is off."""
    if p >= 1:
        return logits
    alive = np.flatnonzero(np.isfinite(logits))
    order = alive[np.argsort(-logits[alive], kind="stable")]  # equal logits: lower id first
    # From the worst token upwards, as transformers sums it: what lies within 1 - p goes.
    tail_mass = np.cumsum(np.exp(log_softmax(logits[order]))[::-1])[::-1]
    keep = tail_mass > 1 - p
    keep[0] = True
    return _only(logits, order[keep])


def keep_min_p(logits: Floats, min_p: float) -> Floats:
    """Leave the tokens at least `min_p` times as probable as the best. 0 is off."""
    if min_p <= 0:
        return logits
    # As transformers: compare probabilities, so that both round alike at the edge.
    probs = np.exp(log_softmax(logits))
    return _only(logits, np.flatnonzero(probs >= min_p * probs.max()))


# Options of `SamplingConfig` that cut the logits divided by the temperature, in the order of their use.
FILTERS: Mapping[str, Callable[[Floats, Any], Floats]] = {
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
}


def _only(logits: Floats, keep: Ints) -> Floats:
    kept = np.full(len(logits), -np.inf)
    kept[keep] = logits[keep]
    return kept
