"""Answers of the target to prompts: what a head learns from.

Many prompts are answered at once: one target pass gives each of them its next token, and an answer that ended
makes room for the next prompt. A prompt's temperature and draws depend on the prompt and the seed alone, so
its answer does not depend on its company. Finished answers are appended to the file at once: an interruption
loses those under way, and the next call goes on with the prompts that have no answer yet.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TextIO

import numpy as np

from eyas.config import SamplingConfig, StoppingConfig
from eyas.drafters.autoregressive import Autoregressive, Session
from eyas.engine import Engine, Request, Run
from eyas.errors import DataError
from eyas.interfaces import DraftContext, Features, Runtime
from eyas.metrics import Repeats
from eyas.models import Progress, Tokenizer, silent
from eyas.sampling import Sampler
from eyas.stopping import AnswerText, NoText, TextDecoder
from eyas.training.config import DistilConfig
from eyas.training.data import Prompt, Sample, read_samples, why_unwritten

Keep = Callable[[Sample, list[Features]], None]


def distil(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    out: Path,
    config: DistilConfig,
    progress: Progress = silent,
    keep: Keep | None = None,
) -> int:
    """Answer `prompts` into the JSON lines file `out`; returns the number of new answers.

    `keep` gets each answer with the target's features of its rows but the last token's, in pieces (T_i, H).

    Raises:
        DataError: `out` holds lines that are no answers, or cannot be written.
    """
    done = _finish_last_line(out)
    waiting = [prompt for prompt in prompts if prompt.id not in done]
    if config.limit is not None:
        waiting = waiting[: max(0, config.limit - len(done))]
    count, total = 0, len(waiting)
    out.parent.mkdir(parents=True, exist_ok=True)
    jobs = (job for prompt in waiting if (job := _job(prompt, tokenizer, config)) is not None)
    with _appending(out) as file:
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
            file.write(_line(sample))
            file.flush()
            count += 1
            if count % config.batch_size == 0:
                os.fsync(file.fileno())
            progress("distilling", count, total)
    progress("distilling", total, total)
    return count


@contextmanager
def _appending(out: Path) -> Iterator[TextIO]:
    try:
        with out.open("a", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({why_unwritten(error)}); free some space and run the same command "
            "again: it goes on from the answers that are there."
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

    for run in engine.together(requests(), batch_size):
        yield _finished(asked.pop(run.request), run), _heard(run)


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


class ListeningSession(Session):
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

    def extend(self, features: Features, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        """Remember the features."""
        if self._listens:
            self.heard.append(features)


def _job(prompt: Prompt, tokenizer: Tokenizer, config: DistilConfig) -> Job | None:
    """None for a prompt that is too long."""
    ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])
    if len(ids) > config.max_prompt_tokens:
        return None
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


def _line(sample: Sample) -> str:
    row = {
        "id": sample.id,
        "category": sample.category,
        "temperature": sample.temperature,
        "prompt_ids": sample.prompt_ids,
        "response_ids": sample.response_ids,
    }
    return json.dumps(row) + "\n"


def _finish_last_line(out: Path) -> set[str]:
    """Ids answered already. A last line that a kill cut short is dropped."""
    if not out.is_file():
        return set()
    whole = out.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with out.open("r+b") as file:
            file.truncate(end)
    if not end:
        return set()
    try:
        samples: list[Sample] = read_samples([out])
    except DataError as error:
        raise DataError(f"{error} Use another --out to keep that file.") from error
    return {sample.id for sample in samples}
