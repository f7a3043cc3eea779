"""The cycle: draft, verify, commit, for a batch of sequences.

The engine holds no weights and no caches of its own. It moves small arrays between a drafter and a runtime,
lets the verifier accept draft tokens, and applies the stopping rule (docs/laws.md, L1, L4, L7):

    tree   = session.propose(token_ids, room)      draft          Engine._propose
    rows   = runtime.forward(trees of the batch)   verify         Engine.try_step
    cycle  = rule.accept(tree, rows)               accept         Engine._finish_cycle
    cache.commit(path), session.extend(features)   commit         Engine._finish_cycle

`Engine` works on sequences that its caller holds; `eyas.engine.batch` admits, steps and cancels them.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from eyas.engine.batch_cost import SequenceShare, begin_cycle
from eyas.engine.costs import CostTable
from eyas.engine.interfaces import (
    DraftContext,
    DraftOptions,
    DraftSession,
    Features,
    LoadedDrafter,
    PathCache,
    Runtime,
    TargetCall,
    TargetRows,
    taps_of,
)
from eyas.engine.metrics import GenerationStats, Laps, StatsCounter
from eyas.engine.sampling import SampledToken, Sampler
from eyas.engine.stopping import AnswerText, FinishReason
from eyas.engine.tree import DraftTree
from eyas.engine.tree_options import TreeOptions
from eyas.engine.verification import Cycle, Verifier
from eyas.errors import DraftError

PREFILL_TOKENS = 256  # of one prefill pass: bounds the memory of its logits and mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One answer to make. A request equals only itself, so it may be a key."""

    prompt_ids: Sequence[int]
    sampler: Sampler
    text: AnswerText
    tree: TreeOptions = field(default_factory=TreeOptions)
    options: DraftOptions = field(default_factory=DraftOptions)  # of the drafter's own type
    num_log_probs: int | None = None
    costs: CostTable | None = None  # by which trees of tree="auto" are sized
    prediction_ids: Sequence[int] = ()  # what the answer is expected to be for the most part


@dataclass(frozen=True, slots=True)
class Piece:
    """What the prefill or one cycle added to an answer; as a string, its text.

    Attributes:
        text: that became final.
        cycle: what was drafted and accepted; None for the prefill's token.
        seconds: since the prefill began.
        num_reused: prompt tokens that the prefix cache held already.
        finish_reason: of the last piece.
    """

    text: str
    tokens: tuple[SampledToken, ...]
    cycle: Cycle | None = None
    seconds: float = 0.0
    num_reused: int = 0
    finish_reason: FinishReason | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False)
class Run:
    """One answer under way. Tokens, caches and counts agree after every step.

    Attributes:
        token_ids: prompt and answer; the last one is the root, which no cache holds yet.
        generated: the answer's ids.
        num_reused: prompt tokens that the caches held before the prefill.
        share: what it adds to the cycles that serve it.
    """

    engine: "Engine"
    request: Request
    cache: PathCache
    session: DraftSession
    token_ids: list[int]
    generated: list[int] = field(default_factory=list)
    num_reused: int = 0
    share: SequenceShare = field(default_factory=SequenceShare)
    counter: StatsCounter = field(default_factory=StatsCounter)
    tokens: list[SampledToken] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)  # the answer's text so far
    began: float = field(default_factory=perf_counter)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    last_cycle: Cycle | None = None

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self.pieces)

    @property
    def is_finished(self) -> bool:
        """Whether the answer has ended."""
        return self.request.text.finish_reason is not None

    def stats(self) -> GenerationStats:
        """Counts so far."""
        return self.counter.finish(
            new_tokens=len(self.tokens),
            draft_forwards=self.session.num_forwards,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
        )


class Engine:
    """Runs the cycle of one drafter on one runtime."""

    def __init__(self, runtime: Runtime, drafter: LoadedDrafter) -> None:
        self.runtime = runtime
        self.drafter = drafter
        self.taps = taps_of(drafter)
        self.laps: Laps | None = None  # set it to see where the time of cycles goes (`eyas profile`)

    def open(self, request: Request, earlier: Run | None = None) -> Run:
        """A run that is yet to be prefilled.

        Args:
            request: the answer to make.
            earlier: a run of this engine, between two cycles or at its end, whose caches this one takes over:
                the longest common prefix of token ids is kept (docs/laws.md, L7). It must not be used
                afterwards.

        Raises:
            CapacityError: the prompt is empty or fills the context.
            ConfigError: it holds an id outside the vocabulary.
        """
        self.runtime.target.check_prompt(request.prompt_ids)
        prompt = list(request.prompt_ids)
        if earlier is None:
            return Run(self, request, self.runtime.new_cache(), self.drafter.open(), prompt)
        # The last prompt token is forwarded again for its logits, and the last common one for its feature,
        # which the drafter pairs with the token that now follows.
        keep = max(0, common_prefix(prompt, earlier.token_ids) - 1)
        earlier.cache.truncate(keep)
        return Run(self, request, earlier.cache, earlier.session, prompt, num_reused=keep)

    def prefill(self, runs: Sequence[Run]) -> Generator[None, None, list[Piece]]:
        """Read the prompt that all `runs` have in common, and choose the first token of each.

        The caches of `runs[0]` read it, in passes of `PREFILL_TOKENS`; the others' are forks of these.
        Wherever this yields, other runs may be stepped, and runs may be taken out of `runs`. Returns a piece
        for each that is left.
        """
        first, began = runs[0], perf_counter()
        keep, prompt = first.num_reused, first.token_ids
        passes: list[Features] = []
        for start in range(keep, len(prompt), PREFILL_TOKENS):
            if passes:
                yield
            chunk = np.array(prompt[start : start + PREFILL_TOKENS], dtype=np.int64)
            [rows] = self.runtime.forward([TargetCall(first.cache, chunk, last_only=True, taps=self.taps)])
            first.cache.commit(range(len(chunk)))
            first.counter.target_forwards += 1
            passes.append(rows.features)
        for run in runs:
            if run is first:
                continue
            run.cache, run.session = first.cache.fork(len(prompt)), first.session.fork()
            run.num_reused = keep
            run.counter.target_forwards = first.counter.target_forwards  # they served this run, too
        last = len(chunk) - 1
        tokens = [rows.choose(last, run.request.sampler, [], run.request.num_log_probs) for run in runs]
        seconds, pieces = perf_counter() - began, []
        for run, token in zip(runs, tokens, strict=True):
            run.began, run.prefill_seconds = began, seconds
            pieces.append(self._begin(run, token, passes))
            run.decode_seconds = perf_counter() - began - seconds
        return pieces

    def start(self, request: Request, earlier: Run | None = None) -> tuple[Run, Piece]:
        """`open` and `prefill` of one request, without a pause."""
        run = self.open(request, earlier)
        prefill = self.prefill([run])
        while True:
            try:
                next(prefill)
            except StopIteration as done:
                [piece] = done.value
                return run, piece

    def step(self, runs: Sequence[Run]) -> list[Piece]:
        """One cycle of unfinished runs: one target pass serves them all, whichever drafter each has."""
        pieces = []
        for outcome in self.try_step(runs):
            if isinstance(outcome, Exception):
                raise outcome
            pieces.append(outcome)
        return pieces

    def try_step(self, runs: Sequence[Run]) -> list[Piece | Exception]:
        """`step`, where a run that fails gets its error in place of a piece, and the others go on.

        A failed run cannot be used any more. An error of the target's pass cannot be attributed to one run;
        the whole batch fails.
        """
        began, laps = perf_counter(), self.laps
        if laps is not None:
            laps.start()
        outcomes: dict[int, Piece | Exception] = {}
        trees: dict[int, DraftTree] = {}
        begin_cycle([run.share for run in runs])
        for at, run in enumerate(runs):
            try:
                trees[at] = self._propose(run)
            except Exception as error:
                outcomes[at] = error
        if laps is not None:
            laps.mark("tree")
        calls = [
            TargetCall(runs[at].cache, *tree.rows, taps=runs[at].engine.taps) for at, tree in trees.items()
        ]
        results: Sequence[TargetRows] = []
        try:
            results = self.runtime.forward(calls) if calls else []
        except Exception as error:
            outcomes |= dict.fromkeys(trees, error)
        if laps is not None:
            laps.mark("verify")
        for (at, tree), rows in zip(trees.items(), results, strict=False):
            try:
                outcomes[at] = self._finish_cycle(runs[at], tree, rows)
            except Exception as error:
                outcomes[at] = error
        elapsed = perf_counter() - began
        for run in runs:
            run.decode_seconds += elapsed
        return [outcomes[at] for at in range(len(runs))]

    def stream(self, request: Request, earlier: Run | None = None) -> Iterator[tuple[Run, Piece]]:
        """One answer piece by piece: the prefill's token, then one piece a cycle."""
        run, piece = self.start(request, earlier)
        yield run, piece
        while not run.is_finished:
            [piece] = self.step([run])
            yield run, piece

    def _begin(self, run: Run, token: SampledToken, passes: Sequence[Features]) -> Piece:
        """Tell the drafter of the prompt, whose rows from `num_reused` on have the features of `passes`."""
        request = run.request
        context = DraftContext(
            prompt_ids=list(request.prompt_ids),
            sampler=request.sampler,
            tree=request.tree,
            options=request.options,
            stop_token_ids=request.text.stop_token_ids,
            costs=request.costs,
            share=run.share,
            prediction_ids=request.prediction_ids,
            laps=self.laps,
        )
        run.session.begin(context, run.num_reused)
        piece = self._emit(run, [token], None)
        start = run.num_reused + 1
        for features in passes:
            run.session.extend(features, run.token_ids[start : start + len(features)])
            start += len(features)
        return piece

    def _propose(self, run: Run) -> DraftTree:
        """A run's tree; the runs after it see how many tokens it adds to the pass."""
        target = self.runtime.target
        room = target.context_limit - len(run.token_ids) - 1
        tree = run.session.propose(run.token_ids, room)
        _check_tree(tree, run.token_ids[-1], room, target.vocab_size)
        run.share.set_tree(len(tree.rows[0]), run.counter.mean_cycle_tokens)
        return tree

    def _finish_cycle(self, run: Run, tree: DraftTree, rows: TargetRows) -> Piece:
        """Accept, emit, and keep in the caches what was emitted."""
        request, laps = run.request, self.laps
        verifier = Verifier(rows, request.sampler, run.generated, request.num_log_probs)
        cycle = request.options.rule.accept(tree, verifier)
        tokens = verifier.sampled(cycle)
        if tree.auxiliary is not None:
            tree.auxiliary.receive(verifier.after_auxiliary(tree))
        if laps is not None:
            laps.mark("walk")
        run.last_cycle = cycle
        run.counter.target_forwards += 1
        run.counter.add_cycle(cycle.num_accepted, tree.num_draft_tokens, tree.depth)
        piece = self._emit(run, tokens, cycle)
        emitted = [token.id for token in piece.tokens]
        path = cycle.path[: len(emitted)]  # the rows before the last emitted token, which is the new root
        if laps is not None:
            laps.mark("other")
        run.cache.commit(path)
        run.session.extend(self.runtime.select(rows.features, path), emitted)
        request.sampler.commit(run.generated)
        if laps is not None:
            laps.mark("commit")
        return piece

    def _emit(self, run: Run, tokens: Sequence[SampledToken], cycle: Cycle | None) -> Piece:
        """Take tokens until the answer ends; the rest is dropped."""
        text, emitted = "", []
        answer = run.request.text
        for token in tokens:
            emitted.append(token)
            text += answer.push(token.id)
            if answer.finish_reason:
                break
        run.tokens.extend(emitted)
        ids = [token.id for token in emitted]
        run.token_ids += ids
        run.generated += ids
        if not answer.finish_reason and len(run.token_ids) >= self.runtime.target.context_limit:
            text += answer.finish("length")
        run.pieces.append(text)
        seconds = perf_counter() - run.began
        return Piece(text, tuple(emitted), cycle, seconds, run.num_reused, answer.finish_reason)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of equal leading tokens."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _check_tree(tree: DraftTree, root: int, room: int, vocab_size: int) -> None:
    """Refuse a drafter's broken tree before it fails the pass of the whole batch."""
    token_ids: list[int] = tree.rows[0].tolist()
    if token_ids[0] != root:
        raise DraftError(f"the drafter's tree has the root {token_ids[0]}, but the newest token is {root}.")
    low, high = min(token_ids), max(token_ids)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise DraftError(
            f"the drafter proposed token id {wrong}, but the model's ids end at {vocab_size - 1}."
        )
    if tree.depth > max(room, 0):
        raise DraftError(f"the drafter's tree has {tree.depth} levels, but only {room} fit the context.")
