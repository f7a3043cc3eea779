"""Answers question files with each method and with plain decoding, compares ids, and resumes after a kill.

Only first turns are asked. Rows go to DIR/answers.jsonl as they come. A row is known by everything that
determines it (question file and id, method, options, model, head); rows of other settings in the same file
are left alone and counted in no summary.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eyas.api.answer import Answer
from eyas.api.llm import LLM
from eyas.api.options import GenerationOptions
from eyas.bench.answers import AnswerFile, Row, described
from eyas.bench.equality import PLAIN, compare
from eyas.bench.provenance import head_hash, sources_hash
from eyas.bench.questions import Question, QuestionSet
from eyas.config import TreeConfig
from eyas.drafters.registry import find_method
from eyas.engine.capacity import check_room
from eyas.engine.cycle import Request
from eyas.engine.metrics import is_looping
from eyas.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What to measure."""

    methods: tuple[str, ...] = ("eagle2",)
    temperatures: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)  # used at temperatures above 0
    limit: int | None = None  # first questions of each file; None is all
    equal_check: bool = True  # compare with plain decoding; off measures acceptance alone
    batch: int = 1  # answers under way at a time; seconds are told apart for 1 alone

    def __post_init__(self) -> None:
        for name in ("methods", "temperatures", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{name} is empty; give at least one value.")
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} has a value twice: {', '.join(str(v) for v in values)}.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}, but at least 1 question of each file must be asked.")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}, but it must be at least 1.")
        for method in self.methods:
            find_method(method)


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to make."""

    questions: QuestionSet
    question: Question
    method: str
    options: GenerationOptions
    key: str


Progress = Callable[[int, int, str], None]


def no_progress(done: int, total: int, what: str) -> None:
    """Say nothing."""


class Evaluation:
    """A plan of answers and what it takes to make them.

    Args:
        llm: the model. Its methods are loaded here: a missing head is an error before the first answer.
        sets: the question files.
        config: what to measure.
        options: generation options beside temperature and seed.

    Raises:
        ConfigError, CheckpointError: an option, method or head that cannot be used.
    """

    def __init__(
        self, llm: LLM, sets: Sequence[QuestionSet], config: EvalConfig, options: Mapping[str, Any]
    ) -> None:
        self.llm = llm
        self.sets = list(sets)
        self.config = config
        self.head_hashes = {name: head_hash(llm.head(name).path) for name in (PLAIN, *config.methods)}
        self._options = dict(options)
        self._sources = sources_hash()
        for method in config.methods:
            llm.engine(method)
        self.jobs = list(self._plan())

    def run(self, answers: AnswerFile, progress: Progress = no_progress) -> list[Row]:
        """Make the answers that are missing; returns the rows of the plan, in its order."""
        window = self.config.batch * len(self.config.methods) * 4 if self.config.batch > 1 else 1
        for start in range(0, len(self.jobs), window):
            jobs = self.jobs[start : start + window]
            first = jobs[0]
            progress(start, len(self.jobs), f"{first.questions.name} {first.question.question_id}")
            missing = {
                job.key: job for job in jobs if answers.rows.get(job.key, _NOTHING)["error"] is not None
            }
            for row in self._answers(list(missing.values())):  # plain decoding's come first
                answers.append(self._checked(missing[row["key"]], row, answers))
            for job in jobs:
                row = answers.rows[job.key]
                checked = self._checked(job, row, answers)
                if checked is not row:
                    answers.append(checked)
        progress(len(self.jobs), len(self.jobs), "")
        return [answers.rows[job.key] for job in self.jobs]

    def reused(self, answers: AnswerFile) -> int:
        """Rows of the plan that the file holds already."""
        return sum(job.key in answers.rows for job in self.jobs)

    def foreign(self, answers: AnswerFile) -> int:
        """Rows of the file that belong to other settings."""
        return len(answers.rows.keys() - {job.key for job in self.jobs})

    def _plan(self) -> Iterator[Job]:
        others = [method for method in self.config.methods if method != PLAIN]
        # Plain decoding comes first: the others are compared with it.
        plain = [PLAIN] if self.config.equal_check or PLAIN in self.config.methods else []
        settings = list(self._settings())
        for questions in self.sets:
            for question in questions.questions[: self.config.limit]:
                for options in settings:
                    for method in (*plain, *others):
                        key = self._key(questions, question, method, options)
                        yield Job(questions, question, method, options, key)

    def _settings(self) -> Iterator[GenerationOptions]:
        for temperature in self.config.temperatures:
            for seed in self.config.seeds if temperature > 0 else (0,):
                yield GenerationOptions.from_names(self._options | {"temperature": temperature, "seed": seed})

    def _key(
        self, questions: QuestionSet, question: Question, method: str, options: GenerationOptions
    ) -> str:
        is_plain = method == PLAIN
        if is_plain:  # without a tree: its answers serve every tree and every head
            options = replace(options, tree=TreeConfig())
        target = self.llm.runtime.target
        identity = {
            "questions": questions.sha256,
            "question_id": question.question_id,
            "method": method,
            "options": options.to_dict(),
            "model": target.fingerprint or target.name,
            "runtime": target.runtime,
            "dtype": target.dtype,
            "head": self.head_hashes[method],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def _plain_key(self, job: Job) -> str:
        return self._key(job.questions, job.question, PLAIN, job.options)

    def _answers(self, jobs: Sequence[Job]) -> Iterator[Row]:
        """A row for each job, in the order in which the answers end."""
        if self.config.batch == 1:
            yield from map(self._answer, jobs)
            return
        for method in dict.fromkeys(job.method for job in jobs):
            asked: dict[Request, Job] = {}
            # Setting by setting: of few questions, runs with the next one's prompts have ended by then.
            for job in sorted(jobs, key=lambda job: (job.options.sampling.temperature, _seed(job))):
                if job.method == method:
                    try:
                        request = self.llm.request(job.question.turns[0], job.options, method=method)
                        check_room(request.prompt_ids, self.llm.runtime)
                    except Exception as error:
                        yield self._row(job) | {"error": described(error)}
                    else:
                        asked[request] = job
            for run in self.llm.engine(method).together(asked, self.config.batch):
                yield self._row(asked[run.request]) | _told(Answer.of(run, {}))

    def _answer(self, job: Job) -> Row:
        try:
            request = self.llm.request(job.question.turns[0], job.options, method=job.method)
            [run] = self.llm.engine(job.method).together([request], 1)
        except Exception as error:
            return self._row(job) | {"error": described(error)}
        return self._row(job) | _told(Answer.of(run, {}))

    def _row(self, job: Job) -> Row:
        sampling = job.options.sampling
        return {
            "key": job.key,
            "set": job.questions.name,
            "question_id": job.question.question_id,
            "category": job.question.category,
            "method": job.method,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "sources": self._sources,
            "batch": self.config.batch,
            "check": None,
            "error": None,
        }

    def _checked(self, job: Job, row: Row, answers: AnswerFile) -> Row:
        """The row with its comparison; unchanged where none is wanted, or plain decoding has no answer."""
        if not self.config.equal_check or job.method == PLAIN or row["error"] or row["check"]:
            return row
        plain = answers.rows[self._plain_key(job)]
        if plain["error"] is not None:
            return row
        try:
            request = self.llm.request(job.question.turns[0], job.options)
            found = compare(self.llm.runtime, request, plain["token_ids"], row["token_ids"])
        except Exception as error:
            return row | {"error": f"comparing: {described(error)}"}
        return row | {"check": asdict(found)}


def _seed(job: Job) -> int:
    return job.options.sampling.seed or 0


_NOTHING = {"error": "not answered yet"}


def _told(answer: Answer) -> Row:
    return {
        "prompt_tokens": len(answer.prompt_token_ids),
        "token_ids": list(answer.token_ids),
        "finish_reason": answer.finish_reason,
        "loops": is_looping(answer.token_ids),
        "stats": answer.stats.to_dict(),
    }
