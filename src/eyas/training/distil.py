"""Answers of the target to prompts: what a head learns from.

Many prompts are answered at once: one target pass gives each of them its next token, and an answer that ended
makes room for the next prompt. A prompt's temperature and draws depend on the prompt and the seed alone, so
its answer does not depend on its company. Finished answers are appended to the file at once: an interruption
loses those under way, and the next call goes on with the prompts that have no answer yet.
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
    """What came of the prompts. Answers that were there before count nowhere."""

    most_tokens: int  # of a prompt
    answers: int = 0
    too_long: int = 0  # prompts that were left out
    empty: int = 0  # as well


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

    `keep` gets each answer with the target's features of its rows but the last token's, in pieces (T_i, H).

    Raises:
        DataError: `out` holds lines that are no answers of this target, is in use, or cannot be written; two
            prompts have one id.
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
    """An answer is found again by its prompt's id, which its draws depend on, too."""
    name, count = Counter(prompt.id for prompt in prompts).most_common(1)[0] if prompts else ("", 0)
    if count > 1:
        raise DataError(f"{count} prompts have the id {name!r}; give each an id of its own.")


@contextmanager
def _appending(out: Path) -> Iterator[BinaryIO]:
    """The file of answers, held against other runs."""
    if out.suffix == ".gz":
        raise DataError(f"{out} would be compressed, and such a file cannot go on; name one without .gz.")
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
            "run the same command again: it goes on from the answers that are there."
        ) from error


@dataclass(frozen=True)
class Job:
    """A prompt to answer. `sample` has no answer yet."""

    sample: Sample
    seed: int


def answer_all(
    runtime: Runtime,
    jobs: Iterable[Job],
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    with_features: bool = False,
    loop_tokens: int = 0,
) -> Iterator[tuple[Sample, list[Features]]]:
    """Answers as they end, each with the features of its rows, if asked for; `batch_size` at a time.

    `loop_tokens` is that of `DistilConfig`.
    """
    engine = Engine(runtime, Listening(with_features))
    asked: dict[Request, Job] = {}

    def requests() -> Iterator[Request]:
        for job in jobs:
            stopping = StoppingConfig(max_new_tokens=max_new_tokens)
            text = Unlooped(stopping, NoText(), stop_token_ids, loop_tokens=loop_tokens)
            request = _request(runtime, job, text)
            asked[request] = job
            yield request

    for request, run in run_all(engine, ([request] for request in requests()), batch_size):
        if isinstance(run, Exception):
            raise run
        yield _finished(asked.pop(request), run), _heard(run)


class Unlooped(AnswerText):
    """Ends an answer that goes round in circles, too: a head learns nothing from what is there already.

    Args:
        loop_tokens: so many tokens in a row that only repeat what stands before them; 0 lets it go on.
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


class Listening(Autoregressive):
    """Plain decoding that remembers the features which the engine tells a drafter."""

    def __init__(self, listens: bool = True) -> None:
        self._listens = listens

    def open(self) -> "ListeningSession":
        """A session that has heard nothing."""
        return ListeningSession(self._listens)


class ListeningSession(AutoregressiveSession):
    """Proposes the root alone; keeps what it is told."""

    def __init__(self, listens: bool) -> None:
        self.heard: list[Features] = []  # the features so far, in pieces (T_i, H)
        self._listens = listens

    def begin(self, context: DraftContext, keep: int = 0) -> None:  # noqa: ARG002
        """Go on from the features of the first `keep` rows; the list of before stays as it was."""
        told, self.heard = self.heard, []
        for features in told:
            if keep > 0:
                self.heard.append(features[:keep])
            keep -= len(features)

    def fork(self) -> "ListeningSession":
        """A session that has heard the same."""
        fork = ListeningSession(self._listens)
        fork.heard = [*self.heard]
        return fork

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        """Remember the features."""
        if self._listens:
            self.heard.append(features)


def _jobs(
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    config: DistilConfig,
    done: Collection[str],
    made: Distilled,
) -> Iterator[Job]:
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


def _job(prompt: Prompt, ids: Sequence[int], config: DistilConfig) -> Job:
    rng = np.random.default_rng([config.seed, int(sha256(prompt.id.encode()).hexdigest()[:8], 16)])
    temperature = float(rng.choice(config.temperatures, p=np.array(config.shares) / sum(config.shares)))
    sample = Sample(prompt.id, tuple(ids), (), temperature, prompt.category)
    return Job(sample, int(rng.integers(2**31)))


def _request(runtime: Runtime, job: Job, text: AnswerText) -> Request:
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


def _finished(job: Job, run: Run) -> Sample:
    sample = job.sample
    return Sample(sample.id, sample.prompt_ids, tuple(run.generated), sample.temperature, sample.category)


def _heard(run: Run) -> list[Features]:
    session = run.session
    assert isinstance(session, ListeningSession), "a session of answer_all"
    return session.heard


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
    """Ids answered already. A last line that a kill cut short is dropped, one that lacks its end gets it.

    Raises:
        DataError: there is something else in the file, or another target's answers; it stays as it is.
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
