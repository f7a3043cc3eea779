"""What a measurement does, in its order, and the identity of each of its rows.

A *prompt* is one turn of a question at one temperature and seed. Every contender answers it once to have its
ids checked (repeat 0), then again until `repeats` answers are timed. Counting cycles takes a little time, so
the checked answer is a timed one only where cycles are not counted. Repeats are interleaved over contenders,
so that a busy neighbour slows all of them alike. Each prompt and repeat starts with another contender, so
that none always follows the same one.

`eyas eval` is such a plan without timed repeats.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from eyas.api.options import GenerationOptions
from eyas.bench.contenders import Contender
from eyas.bench.equality import PLAIN
from eyas.bench.provenance import sources_hash
from eyas.bench.questions import Question, QuestionSet
from eyas.engine.interfaces import TargetInfo
from eyas.errors import ConfigError
from eyas.models.machine import cpu_model, engine_hash

CHECKED = 0  # the repeat whose ids are checked
PLAIN_CONTENDER = Contender(PLAIN, PLAIN)
WINDOW = 4  # prompts per slot of a batch: enough to keep it full, few enough to leave whole comparisons early


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """How much to measure."""

    temperatures: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)  # used at temperatures above 0
    limit: int | None = None  # first questions of each file; None is all
    turns: int | None = None  # first turns of each question; None is all
    repeats: int = 3  # timed answers to a prompt; 0 measures acceptance only
    cycles: bool = True  # store counts by confidence and position, and the seconds of each phase of a cycle
    compare: bool = True  # compare ids with plain decoding's
    batch: int = 1  # answers generated at a time; above 1 their seconds cannot be told apart

    def __post_init__(self) -> None:
        for name in ("temperatures", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{name} is empty; give at least one value.")
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} has a value twice: {', '.join(str(v) for v in values)}.")
        for name, least in (("limit", 1), ("turns", 1), ("repeats", 0), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, but it must be at least {least}.")
        if (self.batch > 1 or not self.compare) and (self.repeats or self.turns != 1):
            raise ConfigError(
                "answers in a batch, or without a comparison of ids, have no speed and no second turn; "
                "set repeats=0 and turns=1."
            )

    @property
    def is_checked_timed(self) -> bool:
        """Whether the answer that is checked is also the first timed one."""
        return self.repeats > 0 and not self.cycles

    @property
    def num_answers(self) -> int:
        """Answers of a contender to a prompt, the checked one included."""
        return self.repeats + (not self.is_checked_timed)

    def is_timed(self, repeat: int) -> bool:
        """Whether a repeat's seconds count."""
        return repeat != CHECKED or self.is_checked_timed


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """One turn of a question, at one temperature and seed."""

    questions: QuestionSet
    question: Question
    turn: int  # from 1 on
    temperature: float
    seed: int
    rank: int  # among all prompts; decides which contender starts

    @property
    def named(self) -> dict[str, Any]:
        """Its columns in a row."""
        return {
            "set": self.questions.name,
            "question_id": self.question.question_id,
            "category": self.question.category,
            "turn": self.turn,
            "temperature": self.temperature,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One answer to make: a row.

    Attributes:
        options: of the answer. An outside baseline is asked for as many greedy tokens as plain decoding gave.
        asked: identity of the request: question, contender with all options, seed, repeat. Folders are
            compared by it.
        key: identity of the row: the request, and the code, model and machine that answer it.
    """

    prompt: BenchPrompt
    contender: Contender
    options: GenerationOptions
    repeat: int
    asked: str
    key: str

    @property
    def named(self) -> dict[str, Any]:
        """The columns of its row that say what is asked."""
        return {
            **self.prompt.named,
            "contender": self.contender.name,
            "method": self.contender.method,
            "repeat": self.repeat,
        }


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """All rows of a measurement.

    Attributes:
        contenders: methods with options; with plain decoding among them, it comes first.
        peers: outside baselines, which answer at temperature 0.
        base: generation options that all contenders share.
        made: digest of the code, model and machine that answer.
        heads: hash of each contender's draft networks, by its name; None for none.
    """

    sets: Sequence[QuestionSet]
    contenders: Sequence[Contender]
    peers: Sequence[Contender]
    config: BenchConfig
    base: Mapping[str, Any]
    made: str
    heads: Mapping[str, str | None]
    _known: dict[tuple[Any, ...], GenerationOptions] = field(default_factory=dict)

    def prompts(self) -> Iterator[BenchPrompt]:
        """Every prompt: question by question, so that an early stop leaves whole comparisons."""
        rank = 0
        for questions in self.sets:
            for question in questions.questions[: self.config.limit]:
                for temperature in self.config.temperatures:
                    for seed in self.config.seeds if temperature > 0 else (0,):
                        for turn in range(1, 1 + len(question.turns[: self.config.turns])):
                            yield BenchPrompt(questions, question, turn, temperature, seed, rank)
                            rank += 1

    def tasks(self, prompt: BenchPrompt) -> list[BenchTask]:
        """A prompt's rows in order: the checked answers, plain decoding's first, then the other repeats."""
        peers = self.peers if prompt.temperature == 0 else ()
        order = [*self.contenders, *peers]
        plain = [contender for contender in order if contender.method == PLAIN][:1]
        others = [contender for contender in order if contender not in plain]
        if self.config.is_checked_timed:
            others = _rotated(others, prompt.rank)
        tasks = [self.task(prompt, contender, CHECKED) for contender in (*plain, *others)]
        for repeat in range(1, self.config.num_answers):
            first = prompt.rank + repeat - 1
            tasks += [self.task(prompt, contender, repeat) for contender in _rotated(order, first)]
        return tasks

    def task(self, prompt: BenchPrompt, contender: Contender, repeat: int) -> BenchTask:
        """One row of a prompt."""
        options = self._settings(contender, prompt)
        asked = digest(
            {
                "set": prompt.questions.name,
                "questions": prompt.questions.sha256,
                "question_id": prompt.question.question_id,
                "turn": prompt.turn,
                "contender": contender.name,
                "method": contender.method,
                "options": options.to_dict(),
                "repeat": repeat,
            }
        )
        key = digest({"asked": asked, "made": self.made, "head": self.heads.get(contender.name)})
        return BenchTask(prompt, contender, options, repeat, asked, key)

    def plain(self, prompt: BenchPrompt) -> BenchTask:
        """Plain decoding's checked answer to a prompt."""
        return self.task(prompt, PLAIN_CONTENDER, CHECKED)

    def steps(self) -> Iterator[list[BenchTask]]:
        """All rows in the order in which they are made; those of one step are answered in one batch."""
        if self.config.batch == 1:
            for prompt in self.prompts():
                yield from ([task] for task in self.tasks(prompt))
            return
        prompts = self.prompts()
        while window := list(islice(prompts, WINDOW * self.config.batch)):
            # Sorted by setting: a prompt asked again under the next one finds its prefix in a finished cache.
            window.sort(key=lambda prompt: (prompt.temperature, prompt.seed))
            for contender in self.contenders:
                yield [self.task(prompt, contender, CHECKED) for prompt in window]

    def __len__(self) -> int:
        answers = len(self.contenders) * sum(1 for _ in self.prompts())
        answers += len(self.peers) * sum(prompt.temperature == 0 for prompt in self.prompts())
        return answers * self.config.num_answers

    def _settings(self, contender: Contender, prompt: BenchPrompt) -> GenerationOptions:
        schema = prompt.question.json_schema
        known = (contender.name, prompt.temperature, prompt.seed, schema)
        if known not in self._known:
            base = self.base if schema is None else {**self.base, "json_schema": schema}
            self._known[known] = contender.settings(base, prompt.temperature, prompt.seed)
        return self._known[known]


def _rotated(order: list[Contender], first: int) -> list[Contender]:
    first %= max(1, len(order))
    return order[first:] + order[:first]


def maker(target: TargetInfo, draft_dtype: str) -> dict[str, Any]:
    """What answers: code, model, precision, machine. A head belongs to its contender."""
    return {
        "sources": sources_hash(),
        "engine": engine_hash(),
        "model": target.fingerprint or target.name,
        "runtime": target.runtime,
        "dtype": target.dtype,
        "kv_dtype": target.kv_dtype,
        "draft_dtype": draft_dtype,
        "threads": target.threads,
        "device": target.device,
        "cpu": cpu_model(),
    }


def digest(document: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that identify a document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
