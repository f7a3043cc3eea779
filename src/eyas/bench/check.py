"""Compares two result folders: which contenders got slower or lost acceptance beyond the noise.

Answers are paired by request (question, contender with its options, seed), whatever code, model or head gave
them. A change counts if it exceeds its tolerance *and* the interval of a paired bootstrap excludes zero. The
bootstrap draws questions, and for speeds also one repeat of each question per side, so a noisy machine widens
the interval.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from eyas.bench import statistics as st
from eyas.bench.equality import PLAIN
from eyas.bench.results import Results
from eyas.bench.statistics import Interval, Question, Sample, Samples
from eyas.bench.tables import Column, Table
from eyas.engine.tree import Floats, Ints
from eyas.errors import ConfigError, DataError

FEWEST = 5  # questions needed to tell a change from noise
WORSE = ("slower", "lost acceptance", "lost answers", "lost speeds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Relative changes that pass even if they are certain."""

    speed: float = 0.05
    tau: float = 0.01
    normalise: bool = False  # compare speed-ups over plain decoding, for folders of two machines

    def __post_init__(self) -> None:
        for name in ("speed", "tau"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}, but it must be a number of at least 0.")


@dataclass(frozen=True, slots=True)
class Change:
    """One comparison; `change` and its interval are relative."""

    contender: str
    temperature: float
    what: str  # tau, speed, or the number of answers or of questions with a speed
    before: float
    after: float
    change: float
    interval: Interval | None
    questions: int
    outcome: str

    @property
    def is_worse(self) -> bool:
        """Whether it should fail a check."""
        return self.outcome in WORSE


def compare_folders(before: Results, after: Results, tolerance: Tolerance) -> list[Change]:
    """Compare every contender and temperature of `before`; what `after` lacks counts as lost.

    Raises:
        DataError: they have no answer in common.
    """
    asked = {row["asked"] for row in after.rows}
    changes: list[Change] = []
    if any(row["asked"] in asked for row in before.rows):
        for name, temperature in product(before.methods, before.temperatures):
            changes += _compare(before, after, name, temperature, tolerance)
    if not changes:
        raise DataError(
            f"{before.path} and {after.path} have no answer in common; run both with the same questions, "
            "contenders, options and seeds."
        )
    return changes


def table(changes: list[Change]) -> Table:
    """The changes as a table."""
    columns: list[Column] = [("contender", "text"), ("T", "text"), ("what", "text")]
    columns += [("before", "f2"), ("after", "f2"), ("change", "pct"), ("low", "pct"), ("high", "pct")]
    columns += [("questions", "int"), ("result", "text")]
    rows = [
        [
            *(c.contender, f"{c.temperature:g}", c.what, c.before, c.after, c.change),
            *(c.interval or (None, None)),
            *(c.questions, c.outcome),
        ]
        for c in changes
    ]
    note = f"Low and high: {st.LEVEL} % interval of the change, by a bootstrap over shared questions."
    return Table("check", "Changes", columns, rows, note)


def _compare(
    before: Results, after: Results, name: str, temperature: float, tolerance: Tolerance
) -> Iterator[Change]:
    left, right = (st.samples(folder, name, temperature) for folder in (before, after))
    asked = {row["asked"] for row in after.checked(name, temperature)}
    if both := {row["asked"] for row in before.checked(name, temperature)} & asked:
        left, right = _only(left, both), _only(right, both)
    else:  # a folder of fewer questions is compared on those; one without any has lost them
        right = {}
    if lost := sum(key not in right for key in left):
        questions = len({sample.question for sample in left.values()})
        yield _lost(name, temperature, "answers", len(left), lost, questions)
    shared = [key for key in left if key in right]
    left, right = ({key: found[key] for key in shared} for found in (left, right))
    if name != PLAIN:
        yield from _tau(name, temperature, left, right, tolerance.tau)
    plains = None
    if tolerance.normalise:
        if name == PLAIN:
            return
        plains = tuple(st.samples(folder, PLAIN, temperature) for folder in (before, after))
    yield from _speed(name, temperature, left, right, plains, tolerance.speed)


def _lost(name: str, temperature: float, what: str, of: int, lost: int, questions: int) -> Change:
    change = -lost / of
    return Change(name, temperature, what, of, of - lost, change, None, questions, f"lost {what}")


def _only(found: Samples, asked: set[str]) -> Samples:
    return {key: sample for key, sample in found.items() if sample.row["asked"] in asked}


def _tau(name: str, temperature: float, left: Samples, right: Samples, limit: float) -> Iterator[Change]:
    groups = st.paired_counts(left, right)
    if not groups:
        return
    draws = np.mean([_taus(counts[drawn]) for counts, drawn in _drawn(groups)], axis=0)  # (DRAWS, 2)
    before, after = np.mean([_taus(counts[None]) for counts in groups], axis=0)[0]
    found = st.interval(draws[:, 1] / draws[:, 0] - 1)
    change, questions = after / before - 1, sum(map(len, groups))
    outcome = _outcome(change, found, limit, questions, ("lost acceptance", "gained acceptance"))
    yield Change(name, temperature, "tau", before, after, change, found, questions, outcome)


def _drawn(groups: list[Floats]) -> Iterator[tuple[Floats, Ints]]:
    return zip(groups, st.resampled([len(counts) for counts in groups]), strict=True)


def _taus(counts: Floats) -> Floats:
    """(.., 2) acceptance lengths of both sides, from (.., questions, 4) counts."""
    sums = counts.sum(axis=-2)
    return np.stack((sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]), axis=-1)


def _speed(
    name: str,
    temperature: float,
    left: Samples,
    right: Samples,
    plains: tuple[Samples, ...] | None,
    limit: float,
) -> Iterator[Change]:
    sides = [_repeat_rates(found) for found in (left, right)]
    for side, plain in zip(sides, plains or (), strict=False):
        reference = st.rates(plain.values())
        for question in list(side):
            if question in reference:
                side[question] = side[question] / reference[question]
            else:
                del side[question]
    questions = [question for question in sides[0] if question in sides[1]]
    if lost := len(sides[0]) - len(questions):
        yield _lost(name, temperature, "speeds", len(sides[0]), lost, len(sides[0]))
    if not questions:
        return
    repeats = min(len(side[question]) for side in sides for question in questions)
    logs = [np.log([side[question][:repeats] for question in questions]) for side in sides]  # (Q, R) each
    rng = np.random.default_rng(0)
    picked = rng.integers(0, len(questions), (st.DRAWS, len(questions)))
    means = [side[picked, rng.integers(0, repeats, picked.shape)].mean(axis=1) for side in logs]
    found = st.interval(np.expm1(means[1] - means[0]))
    before, after = (float(np.exp(np.median(side, axis=1).mean())) for side in logs)
    change = after / before - 1
    outcome = _outcome(change, found, limit, len(questions), ("slower", "faster"))
    what = "speed-up" if plains else "tokens/s"
    yield Change(name, temperature, what, before, after, change, found, len(questions), outcome)


def _repeat_rates(found: Samples) -> dict[Question, Floats]:
    """Tokens per second of each question, repeat by repeat."""
    groups: dict[Question, list[Sample]] = {}
    for sample in found.values():
        if sample.is_timed:
            groups.setdefault(sample.question, []).append(sample)
    rates = {}
    for question, parts in groups.items():
        repeats = min(len(sample.decode) for sample in parts)
        seconds = np.sum([sample.decode[:repeats] for sample in parts], axis=0)
        rates[question] = sum(sample.stats["new_tokens"] - 1 for sample in parts) / seconds
    return rates


def _outcome(change: float, found: Interval, limit: float, questions: int, names: tuple[str, str]) -> str:
    if questions < FEWEST:
        return "too few questions to tell"
    if change < -limit and found[1] < 0:
        return names[0]
    if change > limit and found[0] > 0:
        return names[1]
    return "as before"
