"""The Python interface: `load` a model once, then generate, stream or converse.

    llm = eyas.load()
    answer = llm.generate("Explain tides.", max_new_tokens=128)
    print(answer.text, answer.stats.acceptance_length)
    for piece in llm.stream("And neap tides?", temperature=0.8, seed=1):
        print(piece, end="")

A prompt is a string (one user turn), a list of chat messages, or a list of token ids. Options are those of
`eyas.config` under their own names.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from typing import Any

from eyas.api.answer import Answer, AnswerStream
from eyas.api.options import (
    Device,
    DraftDtype,
    Dtype,
    GenerationOptions,
    HeadName,
    MethodName,
    ModelName,
    RuntimeName,
    Threads,
    check_shaping,
)
from eyas.api.prompts import Message, Prompt, to_token_ids
from eyas.config import AUTO_TREE_METHODS, AUTO_TREE_RUNTIMES, TreeMode
from eyas.drafters.find import HeadChoice, Heads
from eyas.drafters.policy.calibration import calibrate
from eyas.drafters.policy.cost_store import store_table, stored_table, table_path
from eyas.drafters.policy.session import TreePolicy
from eyas.drafters.registry import find_method
from eyas.engine.capacity import check_answer_fits, check_room
from eyas.engine.costs import CostTable
from eyas.engine.cycle import Engine, Piece, Request, Run
from eyas.engine.interfaces import DraftFiles, Runtime
from eyas.engine.sampling import Sampler
from eyas.engine.stopping import AnswerText, StoppingConfig, stop_tokens
from eyas.errors import ConfigError, FetchError
from eyas.models import Tokenizer, resolve_model
from eyas.runtimes import load_runtime


class LLM:
    """A target with its tokenizer and its drafters. Several threads may use one; their cycles queue."""

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        model: str,
        heads: Heads,
        method: str,
        draft_dtype: str = "auto",
        load_model: Callable[[Path], Runtime] | None = None,
    ) -> None:
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.heads = heads
        self.method = self._resolve(method)
        self.draft_dtype = draft_dtype
        self._model = model
        self._load_model = load_model
        self._lock = Lock()  # held for one prefill or cycle, never while a caller reads a piece
        self._engines: dict[str, Engine] = {}
        self._costs: dict[str, CostTable] = {}
        self.engine(self.method)  # a head that does not fit is an error now, not at the first prompt

    def generate(self, prompt: Prompt, *, method: str | None = None, **options: Any) -> Answer:
        """Answer a prompt.

        Args:
            prompt: a string, chat messages, or token ids.
            method: a drafter's name; None is the one chosen at loading.
            options: fields of `eyas.config` and `eyas.api.options.GenerationOptions`.

        Raises:
            ConfigError: an unknown option or a value out of bounds.
            CapacityError: a prompt or answer that does not fit the context.
        """
        settings = self.options(options, method).with_seed()
        answers = []
        for choice in range(settings.n):
            stream = self._stream(prompt, method, settings, choice)
            for _ in stream:
                pass
            answers.append(stream.answer)
        return answers[0] if settings.n == 1 else answers[0].with_choices(tuple(answers))

    def generate_many(
        self, prompts: Sequence[Prompt], *, method: str | None = None, batch_size: int = 8, **options: Any
    ) -> list[Answer]:
        """Answer several prompts, `batch_size` at a time in one pass; returns the answers in order.

        Ids are those of `generate`; the seconds in `stats` are those of the whole batch.
        """
        if isinstance(prompts, str):
            raise ConfigError("the prompts are one string; give a list of them, or use generate.")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, but it must be at least 1.")
        settings = self.options(options, method).with_seed()
        config = self.describe(settings, method)
        requests = [
            self.request(prompt, settings, choice, method)
            for prompt in prompts
            for choice in range(settings.n)
        ]
        for request in requests:  # all are checked before the first is answered
            check_room(request.prompt_ids, self.runtime)
        with self._lock:
            runs = self.engine(method).together(requests, batch_size)
            made = {run.request: Answer.of(run, config) for run in runs}
        answers = [made[request] for request in requests]
        if settings.n == 1:
            return answers
        groups = [tuple(answers[at : at + settings.n]) for at in range(0, len(answers), settings.n)]
        return [group[0].with_choices(group) for group in groups]

    def stream(self, prompt: Prompt, *, method: str | None = None, **options: Any) -> "AnswerStream":
        """Answer a prompt piece by piece. Close the iterator, or drop it, to stop early."""
        settings = self.options(options, method).with_seed()
        if settings.n != 1:
            raise ConfigError(f"n is {settings.n}, but a stream gives one answer; use generate for more.")
        return self._stream(prompt, method, settings, 0)

    def conversation(self, *, method: str | None = None, **options: Any) -> "Conversation":
        """A chat that keeps its caches between turns."""
        return Conversation(self, method, self.options(options, method))

    def prompt_ids(self, prompt: Prompt, options: GenerationOptions | None = None) -> list[int]:
        """The token ids that a prompt becomes."""
        return to_token_ids(prompt, self.tokenizer, options or GenerationOptions())

    def engine(self, method: str | None = None) -> Engine:
        """The engine of a method, its drafter loaded once."""
        name = self._resolve(method or self.method)
        if name not in self._engines:
            files = DraftFiles(head=self.head(name).require, model=self._load_model)
            drafter = find_method(name).load(self.runtime, files)
            self._engines[name] = Engine(self.runtime, drafter)
        return self._engines[name]

    def tree_policy(self, method: str | None = None) -> TreePolicy:
        """The drafter of a method, under the tree policy of each request."""
        drafter = self.engine(method).drafter
        assert isinstance(drafter, TreePolicy), "as the registry loads it"
        return drafter

    def head(self, method: str | None = None) -> HeadChoice:
        """The draft networks that a method finds for this target."""
        return self.heads.find(find_method(self._resolve(method or self.method)).head)

    def costs(self, method: str | None = None, *, fresh: bool = False) -> CostTable | None:
        """The cost table of a method on this machine: the one kept, or measured now (2 to 3 seconds).

        Args:
            method: as in `generate`.
            fresh: measure again.

        Returns:
            None for a method whose trees have no size that could be chosen.
        """
        name, policy = self._resolve(method or self.method), self.tree_policy(method)
        if not policy.is_sizable:
            return None
        path = self.costs_path(name)
        with self._lock:
            table = None if fresh else self._costs.get(name) or stored_table(path)
            if table is None:
                table = calibrate(self.runtime, policy.drafter, find_method(name).options())
                with suppress(FetchError):  # a cache that cannot be written: measured again next time
                    store_table(path, table)
            self._costs[name] = table
        return table

    def costs_path(self, method: str | None = None) -> Path:
        """Where the cost table of this model and method is kept."""
        name = self._resolve(method or self.method)
        return table_path(self.runtime, name, self.head(method).path, self.draft_dtype)

    def request(
        self, prompt: Prompt, options: GenerationOptions, choice: int = 0, method: str | None = None
    ) -> Request:
        """A prompt and its options as the engine takes them. `options` must hold a seed."""
        check_answer_fits(options.stopping, self.runtime)
        own = options.of_method(self._resolve(method or self.method))
        if options.tree.is_auto:
            self.tree_policy(method).check_auto(own)
        prompt_ids = self.prompt_ids(prompt, options)
        model_stops = self.tokenizer.stop_token_ids
        assert options.sampling.seed is not None, "options come with a seed"
        sampler = Sampler(
            options.sampling,
            prompt_ids=prompt_ids,
            vocab_size=self.runtime.target.vocab_size,
            seed=options.sampling.seed,
            choice=choice,
            withheld=stop_tokens(options.stopping, model_stops),
            min_new_tokens=options.stopping.min_new_tokens,
        )
        return Request(
            prompt_ids=prompt_ids,
            sampler=sampler,
            text=AnswerText(options.stopping, self.tokenizer.stream_decoder(), model_stops),
            tree=options.tree,
            options=own,
            num_log_probs=options.logprobs,
            costs=self.costs(method) if options.tree.is_auto else None,
        )

    def describe(self, options: GenerationOptions, method: str | None = None) -> dict[str, Any]:
        """Every resolved option, for `Answer.config`."""
        costs = self.costs(method) if options.tree.is_auto else None
        own = options.of_method(self._resolve(method or self.method))
        return {
            **self.names(method),
            "lossless": own.rule.lossless,
            "cost_table": None if costs is None else costs.digest,
            **options.to_dict(),
            **asdict(own),
        }

    def names(self, method: str | None = None) -> dict[str, Any]:
        """What computes: model, head, method, runtime."""
        target, head = self.runtime.target, self.head(method)
        return {
            "model": self._model,
            "head": None if head.path is None else str(head.path),
            "head_check": head.check,
            "method": self._resolve(method or self.method),
            "runtime": target.runtime,
            "runtime_reason": target.runtime_reason,
            "dtype": target.dtype,
            "threads": target.threads,
        }

    def _stream(
        self, prompt: Prompt, method: str | None, options: GenerationOptions, choice: int
    ) -> "AnswerStream":
        request = self.request(prompt, options, choice, method)
        return AnswerStream(self._lock, self.engine(method), request, self.describe(options, method))

    def options(self, options: Mapping[str, Any], method: str | None = None) -> GenerationOptions:
        """Options by name, with this model's defaults: an answer no longer than the context, and the tree.

        Raises:
            ConfigError: an unknown option, a value out of bounds, or one that the method does not have.
        """
        name = self._resolve(method or self.method)
        check_shaping(options, name)
        default = min(StoppingConfig().max_new_tokens, self.runtime.target.context_limit)
        is_auto = self.runtime.target.runtime in AUTO_TREE_RUNTIMES and name in AUTO_TREE_METHODS
        tree: TreeMode = "auto" if is_auto else "fixed"
        return GenerationOptions.from_names({"max_new_tokens": default, **options}, tree)

    def _resolve(self, method: str) -> str:
        if method != "auto":
            return method
        return "eagle2" if self.heads.find("eagle").path is not None else "pld"


class Conversation:
    """Turns that share one growing prompt; each reuses the longest common prefix of token ids (L7)."""

    def __init__(self, llm: LLM, method: str | None, options: GenerationOptions) -> None:
        self.messages: list[Message] = []
        if options.system is not None:
            self.messages.append({"role": "system", "content": options.system})
        self._llm = llm
        self._method = method
        self._options = replace(options, system=None)  # said already
        self._is_answering = False
        self._run: Run | None = None
        self.last: Answer | None = None  # of the latest turn; None while it goes on or if it was stopped

    def say(self, text: str) -> Generator[Piece, None, None]:
        """Stream the answer to a user turn. Stopped early, the turn stays with what was said so far."""
        if not text.strip():
            raise ConfigError("the message is empty; say something.")
        if self._is_answering:
            raise ConfigError("the last turn's answer is still coming; take all of it, or close it, first.")
        self.last = None
        turns = [*self.messages, {"role": "user", "content": text}]
        options = self._options.with_seed()
        request = self._llm.request(turns, options, method=self._method)
        earlier, self._run = self._run, None
        stream = AnswerStream(
            self._llm._lock,
            self._llm.engine(self._method),
            request,
            self._llm.describe(options, self._method),
            earlier,
        )
        said: list[str] = []
        self._is_answering = True
        try:
            for piece in stream:
                said.append(piece.text)
                yield piece
        finally:
            self._is_answering = False
            if said:
                self.messages = [*turns, {"role": "assistant", "content": "".join(said)}]
                # Between two cycles tokens and caches agree, so an early stop may be continued too.
                self._run = None if stream._closed else stream.run
        self.last = stream.answer


def load(
    model: ModelName = None,
    *,
    head: HeadName = None,
    method: MethodName = "auto",
    runtime: RuntimeName = "auto",
    dtype: Dtype = "auto",
    draft_dtype: DraftDtype = "auto",
    threads: Threads = None,
    device: Device = "cpu",
) -> LLM:
    """Load a target, its tokenizer and the drafter of `method`. `eyas.api.options` describes the arguments.

    Raises:
        ModelError, CheckpointError, FetchError, ConfigError: each in one line, with the remedy.
    """
    if method != "auto":
        find_method(method)
    directory = resolve_model(model)
    name = "default" if model is None else str(model)
    named = None if head is None else Path(head).expanduser()

    def load_target(path: Path, name: str) -> Runtime:
        return load_runtime(
            runtime,
            path,
            name=name,
            dtype=dtype,
            draft_dtype=draft_dtype,
            threads=threads,
            device=device,
        )

    backend = load_target(directory, name)
    return LLM(
        backend,
        Tokenizer.load(directory),
        model=str(directory),
        heads=Heads(named, directory, backend.target.fingerprint),
        method=method,
        draft_dtype=draft_dtype,
        load_model=lambda path: load_target(path, str(path)),
    )
