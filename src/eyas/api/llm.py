"""The Python interface: `load` a model once, then generate, stream or converse.

    llm = eyas.load()
    answer = llm.generate("Explain tides.", max_new_tokens=128)
    print(answer.text, answer.stats.acceptance_length)
    for piece in llm.stream("And neap tides?", temperature=0.8, seed=1):
        print(piece, end="")

A prompt is a string (one user turn), a list of chat messages, a list of token ids, or an `Infill`, which asks
for the text between two others. Options are those of `eyas.config` under their own names.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eyas.api.answer import Answer, AnswerStream
from eyas.api.methods import LoadedMethod
from eyas.api.options import (
    Device,
    DraftDtype,
    Dtype,
    GenerationOptions,
    HeadName,
    KvDtype,
    MethodName,
    ModelName,
    RuntimeName,
    Threads,
)
from eyas.api.prompts import Chat, Message, Prompt, to_token_ids
from eyas.api.turns import TurnLock
from eyas.drafters.find import HeadChoice, HeadFinder
from eyas.drafters.registry import find_method
from eyas.engine.batch import Batch, run_all
from eyas.engine.costs import CostTable
from eyas.engine.cycle import Engine, Piece, Request
from eyas.engine.grammar import Grammars
from eyas.engine.interfaces import Runtime
from eyas.engine.prefix_cache import PrefixCache
from eyas.engine.sampling import Sampler
from eyas.engine.stopping import AnswerText, StoppingConfig, stop_tokens
from eyas.errors import ConfigError
from eyas.models import Infill, Progress, Snippet, Tokenizer, resolve_model
from eyas.models.hub import names_model
from eyas.models.infill import infill_stops
from eyas.models.progress import progress_lines
from eyas.runtimes import load_runtime

MAX_BATCH = 8  # answers of one call that share the target's passes


class LLM:
    """A target with its tokenizer and its drafters. Several threads may use one; their steps take turns."""

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        model: str,
        heads: HeadFinder,
        method: str,
        draft_dtype: str = "auto",
        load_model: Callable[[Path], Runtime] | None = None,
    ) -> None:
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.heads = heads
        self.method = self.resolve(method)
        self.draft_dtype = draft_dtype
        self.path = Path(model)  # a directory or a GGUF file
        self._grammars = Grammars(tokenizer, runtime.target.vocab_size)
        self._load_model = load_model
        self._lock = TurnLock()  # held for one step or for loading, never while a caller reads a piece
        self._methods: dict[str, LoadedMethod] = {}
        self.loaded(self.method)  # a head that does not fit is an error now, not at the first prompt

    def generate(self, prompt: Prompt, *, method: str | None = None, **options: Any) -> Answer:
        """Answer a prompt.

        Args:
            prompt: a string, chat messages, token ids, or an `Infill`.
            method: a drafter's name; None is the one chosen at loading.
            options: fields of `eyas.config` and `eyas.api.options.GenerationOptions`.

        Raises:
            ConfigError: an unknown option or a value out of bounds.
            CapacityError: a prompt or answer that does not fit the context.
        """
        return self.generate_many([prompt], method=method, batch_size=MAX_BATCH, **options)[0]

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        *,
        method: str | None = None,
        batch_size: int = MAX_BATCH,
        **options: Any,
    ) -> list[Answer]:
        """Answer several prompts, `batch_size` at a time in one pass; returns the answers in order.

        Ids are those of `generate`; the seconds in `stats` are those of the whole batch. With n > 1 a prompt
        is read once for all of its answers.
        """
        if isinstance(prompts, str):
            raise ConfigError("the prompts are one string; give a list of them, or use generate.")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, but it must be at least 1.")
        settings = self.options(options, method).with_seed()
        config = self.describe(settings, method)
        asked = [self.requests(prompt, settings, method) for prompt in prompts]
        for requests in asked:  # all are checked before the first is answered
            self.runtime.target.check_prompt(requests[0].prompt_ids)
        groups = [
            requests[at : at + batch_size] for requests in asked for at in range(0, settings.n, batch_size)
        ]
        made: dict[Request, Answer] = {}
        for request, run in run_all(self.engine(method), groups, batch_size, self._lock):
            if isinstance(run, Exception):
                raise run
            made[request] = Answer.of(run, config)
        answers = [tuple(made[request] for request in requests) for requests in asked]
        return [choices[0] if settings.n == 1 else choices[0].with_choices(choices) for choices in answers]

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[Snippet] | None = None,
        method: str | None = None,
        **options: Any,
    ) -> Answer:
        """Write the text between two others, with the model's own fill-in-the-middle tokens.

        To stream it, or to fill in several: `stream(Infill(prefix, suffix))`, `generate_many`.

        Args:
            prefix: the text before.
            suffix: the text after.
            extra: pieces of other files, the most useful last.
            method, options: as `generate`.

        Raises:
            ConfigError: the model has no fill-in-the-middle tokens; otherwise as `generate`.
        """
        return self.generate(Infill(prefix, suffix, extra=extra), method=method, **options)

    def stream(self, prompt: Prompt, *, method: str | None = None, **options: Any) -> "AnswerStream":
        """Answer a prompt piece by piece. Close the iterator, or drop it, to stop early."""
        settings = self.options(options, method).with_seed()
        if settings.n != 1:
            raise ConfigError(f"n is {settings.n}, but a stream gives one answer; use generate for more.")
        [request] = self.requests(prompt, settings, method)
        return AnswerStream(
            self._lock, Batch(), self.engine(method), request, self.describe(settings, method)
        )

    def conversation(self, *, method: str | None = None, **options: Any) -> "Conversation":
        """A chat that keeps its caches between turns."""
        return Conversation(self, method, self.options(options, method))

    def prompt_ids(self, prompt: Prompt, options: GenerationOptions | None = None) -> list[int]:
        """The token ids that a prompt becomes."""
        limit = self.runtime.target.context_limit
        return to_token_ids(prompt, self.tokenizer, options or GenerationOptions(), limit)

    def loaded(self, method: str | None = None) -> LoadedMethod:
        """A method on this model, loaded when it is first asked for; None is the one chosen at loading."""
        name = self.method if method is None else self.resolve(method)
        if name not in self._methods:
            with self._lock:
                if name not in self._methods:
                    self._methods[name] = LoadedMethod(
                        find_method(name),
                        self.runtime,
                        self.find_head(name),
                        draft_dtype=self.draft_dtype,
                        load_model=self._load_model,
                        lock=self._lock,
                    )
        return self._methods[name]

    def engine(self, method: str | None = None) -> Engine:
        """The engine of a method."""
        return self.loaded(method).engine

    def find_head(self, method: str) -> HeadChoice:
        """The draft networks that a method would load."""
        return self.heads.find(find_method(method).head)

    def costs(self, method: str | None = None, *, fresh: bool = False) -> CostTable | None:
        """The cost table of a method, see `LoadedMethod.costs`."""
        return self.loaded(method).costs(fresh=fresh)

    def measure_again(self) -> None:
        """Measure costs again that the cycles so far contradict; in an idle moment, for 2 to 3 seconds."""
        for loaded in list(self._methods.values()):
            loaded.measure_again()

    def request(
        self, prompt: Prompt, options: GenerationOptions, choice: int = 0, method: str | None = None
    ) -> Request:
        """A prompt and its options as the engine takes them, for one answer. `options` must hold a seed."""
        return self._request(prompt, self._prompt_ids(prompt, options), options, choice, self.loaded(method))

    def requests(
        self, prompt: Prompt, options: GenerationOptions, method: str | None = None
    ) -> list[Request]:
        """The requests of all `options.n` answers to a prompt. `options` must hold a seed."""
        prompt_ids, loaded = self._prompt_ids(prompt, options), self.loaded(method)
        return [self._request(prompt, prompt_ids, options, choice, loaded) for choice in range(options.n)]

    def _prompt_ids(self, prompt: Prompt, options: GenerationOptions) -> list[int]:
        self.runtime.target.check_stopping(options.stopping)
        return self.prompt_ids(prompt, options)

    def _request(
        self,
        prompt: Prompt,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        choice: int,
        loaded: LoadedMethod,
    ) -> Request:
        own = options.of_method(loaded.name)
        if options.tree.is_auto:
            loaded.policy.check_auto(own)
        model_stops = (
            infill_stops(self.tokenizer) if isinstance(prompt, Infill) else self.tokenizer.stop_token_ids
        )
        ends = stop_tokens(options.stopping, model_stops)
        decoder = self.tokenizer.stream_decoder(prompt.shown if isinstance(prompt, Chat) else ())
        assert options.sampling.seed is not None, "options come with a seed"
        sampler = Sampler(
            options.sampling,
            prompt_ids=prompt_ids,
            vocab_size=self.runtime.target.vocab_size,
            seed=options.sampling.seed,
            choice=choice,
            withheld=ends,
            min_new_tokens=options.stopping.min_new_tokens,
            grammar=self._grammars.open(options.structure, ends),
        )
        return Request(
            prompt_ids=prompt_ids,
            sampler=sampler,
            text=AnswerText(options.stopping, decoder, model_stops),
            tree=options.tree,
            options=own,
            num_log_probs=options.logprobs,
            costs=loaded.costs() if options.tree.is_auto else None,
            prediction_ids=self._prediction_ids(options, loaded.name),
        )

    def _prediction_ids(self, options: GenerationOptions, method: str) -> list[int]:
        if options.prediction is None:
            return []
        if not find_method(method).takes_prediction(options.tree):
            raise ConfigError(
                f"{method} with tree={options.tree.tree!r} and lookup={options.tree.lookup} copies from no "
                "prediction; leave prediction out, or use tree='auto' with lookup."
            )
        return self.tokenizer.encode(options.prediction, add_special=False)

    def describe(self, options: GenerationOptions, method: str | None = None) -> dict[str, Any]:
        """Every resolved option, for `Answer.config`."""
        loaded = self.loaded(method)
        costs = loaded.costs() if options.tree.is_auto else None
        own = options.of_method(loaded.name)
        return {
            **self.names(method),
            "lossless": own.rule.lossless,
            "cost_table": None if costs is None else costs.digest,
            **options.to_dict(),
            **asdict(own),
        }

    def names(self, method: str | None = None) -> dict[str, Any]:
        """What computes: model, head, method, runtime."""
        target, loaded = self.runtime.target, self.loaded(method)
        return {
            "model": str(self.path),
            "head": None if loaded.head.path is None else str(loaded.head.path),
            "head_check": loaded.head.check,
            "method": loaded.name,
            "runtime": target.runtime,
            "runtime_reason": target.runtime_reason,
            "dtype": target.dtype,
            "kv_dtype": target.kv_dtype,
            "threads": target.threads,
        }

    def options(self, options: Mapping[str, Any], method: str | None = None) -> GenerationOptions:
        """Options by name, with this model's defaults: an answer no longer than the context, and the tree.

        Raises:
            ConfigError: an unknown option, a value out of bounds, or one that the method does not have.
        """
        name = self.resolve(method or self.method)
        default = min(StoppingConfig().max_new_tokens, self.runtime.target.context_limit)
        tree = find_method(name).default_tree_on(self.runtime.target.runtime)
        found = GenerationOptions.from_names({"max_new_tokens": default, **options}, tree)
        found.of_method(name)
        return found

    def resolve(self, method: str) -> str:
        """A method's name; "auto" is eagle2 or eagle3 where a head is found, else pld, which needs none."""
        if method != "auto":
            return method
        fitting = ("eagle3",) if self.heads.named_kind == "eagle3" else ("eagle2", "eagle3")
        found = (name for name in fitting if self.heads.find(find_method(name).head).path is not None)
        return next(found, "pld")


class Conversation:
    """Turns that share one growing prompt; each reuses the rows of the one before (docs/laws.md, L7)."""

    def __init__(self, llm: LLM, method: str | None, options: GenerationOptions) -> None:
        self.messages: list[Message] = []
        if options.system is not None:
            self.messages.append({"role": "system", "content": options.system})
        self._llm = llm
        self._method = method
        self._options = replace(options, system=None)  # said already
        self._is_answering = False
        self._batch = Batch(PrefixCache(1))
        self.last: Answer | None = None  # of the latest turn; None while it goes on or if it was stopped

    def say(self, text: str) -> Generator[Piece, None, None]:
        """Stream the answer to a user turn. Stopped early, the turn stays with what was said so far."""
        if not text.strip():
            raise ConfigError("the message is empty; say something.")
        if self._is_answering:
            raise ConfigError("the last turn's answer is still coming; take all of it, or close it, first.")
        self.last = None
        llm, options = self._llm, self._options.with_seed()
        turns = [*self.messages, {"role": "user", "content": text}]
        request = llm.request(turns, options, method=self._method)
        stream = AnswerStream(
            llm._lock, self._batch, llm.engine(self._method), request, llm.describe(options, self._method)
        )
        said: list[str] = []
        self._is_answering = True
        try:
            for piece in stream:
                said.append(piece.text)
                yield piece
            self.last = stream.answer
        finally:
            self._is_answering = False
            stream.close()  # stopped between two cycles, the next turn may go on from here too
            if said:
                self.messages = [*turns, {"role": "assistant", "content": "".join(said)}]


def load(
    model: ModelName = None,
    *,
    head: HeadName = None,
    method: MethodName = "auto",
    runtime: RuntimeName = "auto",
    dtype: Dtype = "auto",
    draft_dtype: DraftDtype = "auto",
    kv_dtype: KvDtype = "auto",
    threads: Threads = None,
    device: Device = "cpu",
    progress: Progress | None = None,
) -> LLM:
    """Load a target, its tokenizer and the drafter of `method`. `eyas.api.options` describes the arguments.

    `progress` is told how far downloads and a first load are; None writes a line a minute to stderr.

    Raises:
        ModelError, CheckpointError, FetchError, ConfigError: each in one line, with the remedy.
    """
    if method != "auto":
        find_method(method)
    progress = progress or progress_lines()
    place = resolve_model(model, progress)
    name = place.name if model is None else str(model)
    named = None if head is None else Path(head).expanduser()
    if named is not None and not named.exists() and names_model(str(head)):
        named = resolve_model(head, progress)

    def load_target(path: Path, name: str) -> Runtime:
        return load_runtime(
            runtime,
            path,
            name=name,
            dtype=dtype,
            draft_dtype=draft_dtype,
            kv_dtype=kv_dtype,
            threads=threads,
            device=device,
            progress=progress,
        )

    backend = load_target(place, name)
    return LLM(
        backend,
        Tokenizer.load(place),
        model=str(place),
        heads=HeadFinder(named, place, backend.target.fingerprint, backend.target.base_fingerprint),
        method=method,
        draft_dtype=draft_dtype,
        load_model=lambda path: load_target(path, str(path)),
    )
