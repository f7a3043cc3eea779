"""Distillation: the target answers prompts, and heads learn from its answers.

Prompts are answered in batches; a finished answer makes room for the next prompt. Temperature and draws
depend on the prompt and the seed alone, so an answer does not depend on its batch. Finished answers are
appended to the file at once: an interruption loses those in progress, and the next call continues with the
prompts that have no answer.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from eyas.drafters.autoregressive import Autoregressive, AutoregressiveSession
from eyas.engine.batch import run_all
from eyas.engine.cycle import Engine, Request, Run
from eyas.engine.interfaces import DraftContext, Features, Runtime
from eyas.engine.metrics import Repeats
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig, TextDecoder
from eyas.errors import DataError
from eyas.models import Progress, Tokenizer, silent
from eyas.models.appending import hold, without_cut_line
from eyas.training.config import DistilConfig
from eyas.training.data import Prompt, Sample, parse_samples, why_unwritten

Keep = Callable[[Sample, list[Features]], None]

_BEGINNING = b'{"id": "'  # of every line that `_line` makes


@dataclass
class Distilled:
    """Counts of one call. Answers that the file already had are not counted."""

    most_tokens: int  # a longer prompt is left out
    answers: int = 0
    too_long: int = 0  # prompts left out
    empty: int = 0  # prompts left out


def distil(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    out: Path,
    config: DistilConfig,
    progress: Progress = silent,
    keep: Keep | None = None,
) -> Distilled:
    """Answer `prompts` into the JSON lines file `out`.

    `keep` gets each answer with the features of all its tokens but the last, in pieces (T_i, H).

    Raises:
        DataError: `out` holds something other than answers of this target, is in use, or cannot be written;
            two prompts have the same id.
    """
    _check_ids(prompts)
    target = runtime.target
    made = Distilled(min(config.max_prompt_tokens, target.context_limit - 1))
    with _appending(out) as file:
        done = _answered(file, out, target.fingerprint)
        total = min(len(prompts), config.limit or len(prompts))
        jobs = _jobs(prompts, tokenizer, config, done, made)
        for sample, features in answer_all(
            runtime,
            jobs,
            tokenizer.stop_token_ids,
            config.max_new_tokens,
            config.batch_size,
            keep is not None,
            config.loop_tokens,
        ):
            if keep is not None:
                keep(sample, features)
            file.write(_line(replace(sample, target=target.fingerprint)))
            file.flush()
            made.answers += 1
            if made.answers % config.batch_size == 0:
                os.fsync(file.fileno())
            progress("distilling", min(total, len(done) + made.answers), total)
        progress("distilling", total, total)
    return made


def _check_ids(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts of the same id: it names their answer and seeds its draws."""
    name, count = Counter(prompt.id for prompt in prompts).most_common(1)[0] if prompts else ("", 0)
    if count > 1:
        raise DataError(f"{count} prompts have the id {name!r}; give each an id of its own.")


@contextmanager
def _appending(out: Path) -> Iterator[BinaryIO]:
    """The file of answers, locked against other runs."""
    if out.suffix == ".gz":
        raise DataError(
            f"{out} would be compressed, and a compressed file cannot be continued; name one without .gz."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(out, "--out")
        try:
            with out.open("a+b") as file:
                yield file
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({why_unwritten(error)}); name another file, or free some space and "
            "run the same command again: it continues after the answers that are there."
        ) from error


@dataclass(frozen=True)
class DistilJob:
    """A prompt to answer. `sample` has no answer yet."""

    sample: Sample
    seed: int


def answer_all(
    runtime: Runtime,
    jobs: Iterable[DistilJob],
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    with_features: bool = False,
    loop_tokens: int = 0,
) -> Iterator[tuple[Sample, list[Features]]]:
    """Answers in the order in which they end, with the features of their tokens if asked for.

    Args:
        runtime: of the target.
        jobs: the prompts.
        stop_token_ids: that end an answer.
        max_new_tokens: of an answer.
        batch_size: prompts answered at a time.
        with_features: keep features.
        loop_tokens: that of `DistilConfig`.
    """
    engine = Engine(runtime, FeatureRecorder(with_features))
    asked: dict[Request, DistilJob] = {}

    def requests() -> Iterator[Request]:
        for job in jobs:
            stopping = StoppingConfig(max_new_tokens=max_new_tokens)
            text = LoopStopped(stopping, NoText(), stop_token_ids, loop_tokens=loop_tokens)
            request = _request(runtime, job, text)
            asked[request] = job
            yield request

    for request, run in run_all(engine, ([request] for request in requests()), batch_size):
        if isinstance(run, Exception):
            raise run
        yield _finished(asked.pop(request), run), _features_of(run)


class LoopStopped(AnswerText):
    """Answer text that also ends once the answer only repeats itself: a head learns nothing from that.

    Args:
        loop_tokens: end after so many tokens in a row that repeat earlier ones; 0 never does.
    """

    def __init__(
        self,
        config: StoppingConfig,
        decoder: TextDecoder,
        stop_token_ids: Iterable[int] = (),
        *,
        loop_tokens: int = 0,
    ) -> None:
        super().__init__(config, decoder, stop_token_ids)
        self._loop_tokens = loop_tokens
        self._repeats = Repeats()

    def push(self, token_id: int) -> str:
        """As in `AnswerText`; the token that makes the loop too long is the last."""
        piece = super().push(token_id)
        watches = self.finish_reason is None and self._loop_tokens > 0
        if watches and self._repeats.push(token_id) >= self._loop_tokens:
            piece += self.finish("length")
        return piece


class FeatureRecorder(Autoregressive):
    """Plain decoding that remembers the features given to the drafter."""

    def __init__(self, records: bool = True) -> None:
        self._records = records

    def open(self) -> "FeatureRecorderSession":
        """A session without features."""
        return FeatureRecorderSession(self._records)


class FeatureRecorderSession(AutoregressiveSession):
    """Proposes the root alone; keeps the features."""

    def __init__(self, records: bool) -> None:
        self.features: list[Features] = []  # the features so far, in pieces (T_i, H)
        self._records = records

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002
        """Keep the features of the first `keep` tokens, in a list of its own."""
        before, self.features = self.features, []
        for features in before:
            if keep > 0:
                self.features.append(features[:keep])
            keep -= len(features)

    def fork(self) -> "FeatureRecorderSession":
        """A session with the same features."""
        fork = FeatureRecorderSession(self._records)
        fork.features = [*self.features]
        return fork

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        """Remember the features."""
        if self._records:
            self.features.append(features)


def _jobs(
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    config: DistilConfig,
    done: Collection[str],
    made: Distilled,
) -> Iterator[DistilJob]:
    """The first `limit` prompts that fit, without those that are `done`; `made` counts what does not fit."""
    chosen = 0
    for prompt in prompts:
        if chosen == config.limit:
            return
        if prompt.id not in done:
            ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])
            if not prompt.text.strip() or not ids:
                made.empty += 1
                continue
            if len(ids) > made.most_tokens:
                made.too_long += 1
                continue
            yield _job(prompt, ids, config)
        chosen += 1


def _job(prompt: Prompt, ids: Sequence[int], config: DistilConfig) -> DistilJob:
    rng = np.random.default_rng([config.seed, int(sha256(prompt.id.encode()).hexdigest()[:8], 16)])
    temperature = float(rng.choice(config.temperatures, p=np.array(config.shares) / sum(config.shares)))
    sample = Sample(prompt.id, tuple(ids), (), temperature, prompt.category)
    return DistilJob(sample, int(rng.integers(2**31)))


def _request(runtime: Runtime, job: DistilJob, text: AnswerText) -> Request:
    sample = job.sample
    return Request(
        prompt_ids=sample.prompt_ids,
        sampler=Sampler(
            SamplingConfig(temperature=sample.temperature),
            prompt_ids=sample.prompt_ids,
            vocab_size=runtime.target.vocab_size,
            seed=job.seed,
        ),
        text=text,
    )


def _finished(job: DistilJob, run: Run) -> Sample:
    sample = job.sample
    return Sample(sample.id, sample.prompt_ids, tuple(run.generated), sample.temperature, sample.category)


def _features_of(run: Run) -> list[Features]:
    session = run.session
    assert isinstance(session, FeatureRecorderSession), "a session of answer_all"
    return session.features


def _line(sample: Sample) -> bytes:
    row = {
        "id": sample.id,
        "category": sample.category,
        "target": sample.target,
        "temperature": sample.temperature,
        "prompt_ids": sample.prompt_ids,
        "response_ids": sample.response_ids,
    }
    return json.dumps(row).encode() + b"\n"


def _answered(file: BinaryIO, out: Path, target: str | None) -> set[str]:
    """Ids of the prompts that have answers. A last line that was cut off is removed, a missing newline added.

    Raises:
        DataError: the file holds something else, or answers of another target; it is left unchanged.
    """
    file.seek(0)
    content = file.read()
    whole = without_cut_line(content, _BEGINNING)
    try:
        samples = parse_samples(whole.splitlines(), out)
    except DataError as error:
        raise DataError(f"{error} Use another --out to keep that file.") from error
    other = next((s.target for s in samples if s.target and target and s.target != target), None)
    if other is not None:
        raise DataError(
            f"{out} holds answers of the target with fingerprint {other}, not of this one, {target}; use "
            "another --out."
        )
    if len(whole) < len(content):
        file.truncate(len(whole))
    elif len(whole) > len(content):
        file.write(b"\n")
    return {sample.id for sample in samples}
