"""Distillation: the target answers prompts, and heads learn from its answers.

Prompts are answered in batches; a finished answer makes room for the next prompt. Temperature and draws
depend on the prompt and the seed alone, so an answer does not depend on its batch. Finished answers are
appended to the file: an interruption loses those in progress, and the next call continues with the prompts
that have no answer.

The hidden states that pass by can be kept for training: those of the prompt from its prefill, those of the
answer from the passes that decode it. So the target reads no text twice.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.drafters.autoregressive import Autoregressive, AutoregressiveSession
from eyas.engine.batch import run_all
from eyas.engine.cycle import Engine, Request, Run
from eyas.engine.interfaces import FINAL, DraftContext, Features, Runtime, Taps
from eyas.engine.metrics import Repeats
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.sequence import sequence_features
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig, TextDecoder
from eyas.errors import DataError
from eyas.models import Progress, Tokenizer, silent
from eyas.training.answer_file import AnswerFile, open_answers
from eyas.training.config import DistilConfig
from eyas.training.data import Sample
from eyas.training.feature_store import FeatureStore
from eyas.training.prompts import Prompt


@dataclass
class Distilled:
    """Counts of one call. Answers that the file already had are not counted."""

    most_tokens: int  # a longer prompt is left out
    answers: int = 0
    too_long: int = 0  # prompts left out
    empty: int = 0  # prompts left out
    read_again: int = 0  # answers of before, whose features were missing
    without_features: int = 0  # answers of the whole file; the store had no room


def distil(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    out: Path,
    config: DistilConfig,
    progress: Progress = silent,
    store: FeatureStore | None = None,
    taps: Taps = (FINAL,),
) -> Distilled:
    """Answer `prompts` into the JSON lines file `out`.

    Args:
        runtime: of the target.
        tokenizer: of the target.
        prompts: what is asked.
        out: continued where it exists.
        config: how prompts are answered.
        progress: told after each answer.
        store: keeps the features of each answer, those of all its tokens but the last; None keeps none.
        taps: hidden states that make up a feature, side by side; the final one comes last.

    Raises:
        DataError: `out` holds something other than answers of this target, is in use, or cannot be written;
            two prompts have the same id.
        ConfigError: a prompt of a kind that the model does not have.
        ModelError: a tap beyond the target's layers.
    """
    _check_ids(prompts)
    target = runtime.target
    made = Distilled(min(config.max_prompt_tokens, target.context_limit - 1))
    with open_answers(out, target.fingerprint, store, taps) as file:
        if store is not None:
            store.check()
            made.read_again = _read_again(runtime, file, taps, progress)
        done = {sample.id for sample in file.known}
        total = min(len(prompts), config.limit or len(prompts))
        for sample, features in answer_all(
            runtime,
            _jobs(prompts, tokenizer, config, done, made),
            tokenizer.stop_token_ids,
            config.max_new_tokens,
            config.batch_size,
            None if store is None else taps,
            config.loop_tokens,
        ):
            rows = None if store is None else _as_array(runtime.join(features))
            file.append(replace(sample, target=target.fingerprint), rows)
            made.answers += 1
            progress("distilling", min(total, len(done) + made.answers), total)
        progress("distilling", total, total)
    made.without_features = len(file.without_features())
    return made


def _read_again(runtime: Runtime, file: AnswerFile, taps: Taps, progress: Progress) -> int:
    """Keep the features of answers that have none, while there is room; how many that were."""
    missing = file.without_features()
    for number, sample in enumerate(missing):
        progress("reading answers without features", number, len(missing))
        token_ids = sample.token_ids[:-1]
        runtime.target.check_prompt(token_ids)
        if not file.keep(sample, _as_array(sequence_features(runtime, token_ids, taps))):
            return number
    return len(missing)


def _as_array(features: Any) -> NDArray[np.float32]:
    """Features of any runtime on the CPU."""
    return np.asarray(features if isinstance(features, np.ndarray) else features.float().cpu(), np.float32)


def _check_ids(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts of the same id: it names their answer and seeds its draws."""
    name, count = Counter(prompt.id for prompt in prompts).most_common(1)[0] if prompts else ("", 0)
    if count > 1:
        raise DataError(f"{count} prompts have the id {name!r}; give each an id of its own.")


@dataclass(frozen=True)
class DistilJob:
    """A prompt to answer. `sample` has no answer yet."""

    sample: Sample
    seed: int
    stop_token_ids: tuple[int, ...] = ()  # that end this answer, besides the model's own


def answer_all(
    runtime: Runtime,
    jobs: Iterable[DistilJob],
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    taps: Taps | None = None,
    loop_tokens: int = 0,
) -> Iterator[tuple[Sample, list[Features]]]:
    """Answers in the order in which they end, with the features of their tokens if asked for.

    Args:
        runtime: of the target.
        jobs: the prompts.
        stop_token_ids: that end an answer.
        max_new_tokens: of an answer.
        batch_size: prompts answered at a time.
        taps: hidden states that make up the features; None gives none.
        loop_tokens: that of `DistilConfig`.
    """
    engine = Engine(runtime, FeatureRecorder(taps))
    asked: dict[Request, DistilJob] = {}

    def requests() -> Iterator[Request]:
        for job in jobs:
            stopping = StoppingConfig(max_new_tokens=max_new_tokens)
            stops = (*stop_token_ids, *job.stop_token_ids)
            text = LoopStopped(stopping, NoText(), stops, loop_tokens=loop_tokens)
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
    """Plain decoding that remembers the features given to the drafter.

    Args:
        taps: hidden states that make up a feature; None remembers none.
    """

    def __init__(self, taps: Taps | None = (FINAL,)) -> None:
        self.taps = taps or (FINAL,)
        self._records = taps is not None

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
            ids = [] if prompt.content.is_empty else prompt.token_ids(tokenizer)
            if not ids:
                made.empty += 1
                continue
            if len(ids) > made.most_tokens:
                made.too_long += 1
                continue
            yield _job(prompt, ids, prompt.content.stop_token_ids(tokenizer), config)
        chosen += 1


def _job(prompt: Prompt, ids: Sequence[int], stops: tuple[int, ...], config: DistilConfig) -> DistilJob:
    rng = np.random.default_rng([config.seed, int(sha256(prompt.id.encode()).hexdigest()[:8], 16)])
    temperature = float(rng.choice(config.temperatures, p=np.array(config.shares) / sum(config.shares)))
    sample = Sample(prompt.id, tuple(ids), (), temperature, prompt.category)
    return DistilJob(sample, int(rng.integers(2**31)), stops)


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
