"""From rows to rates, speed-ups and intervals. Pure functions; every formula of `eyas bench` is here.

* The acceptance length (tau) of a set pools its cycles: all tokens divided by all cycles.
* The speed of a question is its tokens after the first, divided by their seconds, over its turns and seeds;
  seconds are medians over repeats. A speed-up is the mean speed over a set's questions, divided by plain
  decoding's mean speed over the same questions (Spec-Bench's ratio of means, but tokens are counted alike on
  both sides and prefill is left out).
* A figure over sets is the mean of the sets' figures, so that a long set does not outweigh the others; for
  speed-ups, which are ratios, it is the geometric mean.
* Intervals are percentiles of a bootstrap over questions, within sets, paired where two methods are compared.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyas.bench.results import PromptKey, Results, prompt_key, sound
from eyas.bench.rows import Row
from eyas.engine.tree import Floats, Ints

DRAWS = 2000  # of a bootstrap
LEVEL = 95  # per cent of an interval
Interval = tuple[float, float]
Question = tuple[Any, Any]  # set, question id


@dataclass(frozen=True)
class Sample:
    """One prompt as one contender answered it.

    Attributes:
        row: the checked row, with ids, counts and `stats`.
        decode: seconds after the first token, of each timed repeat.
        prefill: seconds to the first token, of each timed repeat.
    """

    row: Row
    decode: tuple[float, ...]
    prefill: tuple[float, ...]

    @property
    def question(self) -> Question:
        """The question that it belongs to."""
        return self.row["set"], self.row["question_id"]

    @property
    def stats(self) -> Mapping[str, Any]:
        """Counts of the checked answer."""
        stats: Mapping[str, Any] = self.row["stats"]
        return stats

    @property
    def is_timed(self) -> bool:
        """Whether it has a speed: timed repeats, and tokens after the first."""
        return bool(self.decode) and self.stats["new_tokens"] > 1 and statistics.median(self.decode) > 0


Samples = dict[PromptKey, Sample]


def samples(results: Results, contender: str, temperature: float) -> Samples:
    """A contender's answers by prompt, without errors and failed checks."""
    times: dict[PromptKey, list[Row]] = {}
    for row in results.timed(contender, temperature):
        times.setdefault(prompt_key(row), []).append(row)
    found = {}
    for row in results.checked(contender, temperature):
        if sound(row):
            stats = [timed["stats"] for timed in times.get(prompt_key(row), ())]
            found[prompt_key(row)] = Sample(
                row,
                tuple(s["decode_seconds"] for s in stats),
                tuple(s["prefill_seconds"] for s in stats),
            )
    return found


def of_set(found: Samples, name: str) -> Samples:
    """The samples of one question set."""
    return {key: sample for key, sample in found.items() if key[0] == name}


def tau(found: Iterable[Sample]) -> float | None:
    """Tokens per cycle over all cycles; None without cycles, or where they are not known."""
    rows = [sample.stats for sample in found if sample.stats.get("cycles")]
    cycles = sum(row["cycles"] for row in rows)
    return sum(row["cycle_tokens"] for row in rows) / cycles if cycles else None


def rates(found: Iterable[Sample], *, prefill: bool = False) -> dict[Question, float]:
    """Tokens per second of each question; with `prefill`, of the whole answer, first token included."""
    sums: dict[Question, list[float]] = {}
    for sample in found:
        if sample.is_timed:
            total = sums.setdefault(sample.question, [0.0, 0.0])
            total[0] += sample.stats["new_tokens"] - (not prefill)
            total[1] += statistics.median(sample.decode)
            total[1] += statistics.median(sample.prefill) if prefill else 0.0
    return {question: tokens / seconds for question, (tokens, seconds) in sums.items()}


def common(left: Samples, right: Samples) -> tuple[Samples, Samples]:
    """The prompts that both answered: only these can be compared if a run is unfinished or lost answers."""
    keys = [key for key in left if key in right]
    return {key: left[key] for key in keys}, {key: right[key] for key in keys}


def shared(mine: Samples, plain: Samples) -> tuple[Samples, Samples]:
    """The prompts for which both have a speed."""
    timed = ({key: sample for key, sample in each.items() if sample.is_timed} for each in (mine, plain))
    return common(*timed)


def speedup(mine: Samples, plain: Samples, *, prefill: bool = False) -> float | None:
    """Mean speed over questions, divided by plain decoding's over the same ones; None if none was timed."""
    mine, plain = shared(mine, plain)
    if not mine:
        return None
    fast = rates(mine.values(), prefill=prefill).values()
    slow = rates(plain.values(), prefill=prefill).values()
    return statistics.fmean(fast) / statistics.fmean(slow)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of the ratios that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.geometric_mean(known) if known else None


def over_sets(function: Callable[..., float | None], sets: Iterable[str], *found: Samples) -> float | None:
    """The mean over sets of a function of each set's samples."""
    return mean(function(*(of_set(each, name) for each in found)) for name in sets)


def speedup_over_sets(
    sets: Iterable[str], mine: Samples, plain: Samples, *, prefill: bool = False
) -> float | None:
    """The geometric mean over sets of `speedup`."""
    return geometric_mean(speedup(of_set(mine, name), of_set(plain, name), prefill=prefill) for name in sets)


def tau_of(found: Samples) -> float | None:
    """`tau` of samples by prompt."""
    return tau(found.values())


def repeat_spread(found: Samples) -> float | None:
    """How much repeats of an answer differ: the median over prompts of (longest - shortest) / median."""
    spreads = [
        (max(sample.decode) - min(sample.decode)) / statistics.median(sample.decode)
        for sample in found.values()
        if sample.is_timed and len(sample.decode) > 1
    ]
    return statistics.median(spreads) if spreads else None


# ---- intervals ----


def resampled(sizes: Sequence[int], seed: int = 0) -> list[Ints]:
    """For each group, (DRAWS, size) indices drawn with replacement."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, (DRAWS, size)) for size in sizes]


def interval(draws: Floats) -> Interval:
    """The middle `LEVEL` per cent."""
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _can_vary(groups: Sequence[Sized]) -> bool:
    """Whether a bootstrap is meaningful: a single question would be drawn every time."""
    return bool(groups) and all(len(group) > 1 for group in groups)


def tau_interval(found: Samples, minus: Samples | None = None) -> Interval | None:
    """Interval of the mean tau over sets, or of its difference from other samples of the same questions."""
    groups = _counts(found) if minus is None else paired_counts(found, minus)
    if not _can_vary(groups):
        return None
    draws = []
    for counts, drawn in zip(groups, resampled([len(counts) for counts in groups]), strict=True):
        tokens, cycles, other_tokens, other_cycles = (counts[:, at][drawn].sum(axis=1) for at in range(4))
        draws.append(tokens / cycles - (other_tokens / other_cycles if minus is not None else 0.0))
    return interval(np.mean(draws, axis=0))


def speedup_interval(mine: Samples, plain: Samples) -> Interval | None:
    """Interval of the geometric mean of the sets' speed-ups."""
    mine, plain = shared(mine, plain)
    fast, slow = rates(mine.values()), rates(plain.values())
    groups = [[(fast[q], slow[q]) for q in fast if q[0] == name] for name in {q[0]: None for q in fast}]
    if not _can_vary(groups):
        return None
    draws = []
    for pairs, drawn in zip(groups, resampled([len(pairs) for pairs in groups]), strict=True):
        picked = np.array(pairs)[drawn]  # (DRAWS, questions, 2)
        draws.append(picked[..., 0].mean(axis=1) / picked[..., 1].mean(axis=1))
    return interval(np.exp(np.mean(np.log(draws), axis=0)))


def _counts(found: Samples) -> list[Floats]:
    return paired_counts(found, found)


def paired_counts(left: Samples, right: Samples) -> list[Floats]:
    """Per set, (questions, 4): tokens and cycles of the left, then of the right, where both have cycles."""
    sums: dict[Any, dict[Question, Floats]] = {}
    for key, sample in left.items():
        a, b = sample.stats, right[key].stats if key in right else {}
        if a.get("cycles") and b.get("cycles"):
            held = sums.setdefault(key[0], {}).setdefault(sample.question, np.zeros(4))
            held += (a["cycle_tokens"], a["cycles"], b["cycle_tokens"], b["cycles"])
    return [np.array(list(questions.values())) for questions in sums.values()]


def phase_seconds(found: Iterable[Sample]) -> tuple[dict[str, float], int]:
    """Seconds of each phase over all cycles, and the number of cycles."""
    total: dict[str, float] = {}
    cycles = 0
    for sample in found:
        if sample.row.get("cycles"):
            cycles += sample.stats["cycles"]
            for phase, seconds in sample.row["cycles"]["seconds"].items():
                total[phase] = total.get(phase, 0.0) + seconds
    return total, cycles
