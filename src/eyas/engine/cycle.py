"""The cycle: draft, verify, commit, for a set of sequences.

One sequence is a set of one. The engine holds no weights and no caches of its own; it moves small arrays
between a drafter, a runtime and the walk, and applies the stopping rule (docs/laws.md, L1, L4, L7).
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

import numpy as np

from eyas.config import TreeConfig
from eyas.engine.batch_cost import SequenceShare, begin_cycle
from eyas.engine.capacity import check_room
from eyas.engine.costs import CostTable
from eyas.engine.interfaces import (
    FINAL,
    Choice,
    DraftContext,
    DraftOptions,
    DraftSession,
    Features,
    LoadedDrafter,
    PathCache,
    Runtime,
    Taps,
    TargetCall,
    TargetRows,
    taps_of,
)
from eyas.engine.judge import RowsJudge
from eyas.engine.metrics import GenerationStats, Laps, StatsCounter
from eyas.engine.sampling import Sampler
from eyas.engine.stopping import AnswerText
from eyas.engine.tree import DraftTree, Ints
from eyas.engine.verification import Verdict

PREFILL_ROWS = 256  # rows of one prefill pass: bounds the memory of its logits and mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One answer to make; a request equals itself alone, and so may be a key."""

    prompt_ids: Sequence[int]
    sampler: Sampler
    text: AnswerText
    tree: TreeConfig = field(default_factory=TreeConfig)
    options: DraftOptions = field(default_factory=DraftOptions)  # of the drafter's own kind
    num_log_probs: int | None = None
    costs: CostTable | None = None  # what trees of tree="auto" are chosen by


@dataclass(frozen=True, slots=True)
class Token:
    """An emitted token; `depth` is the draft depth it was accepted at, None for the target's own."""

    choice: Choice
    depth: int | None

    @property
    def id(self) -> int:
        """Its token id."""
        return self.choice.token_id


@dataclass(frozen=True, slots=True)
class Piece:
    """What one cycle emitted: tokens, and the text that they made certain."""

    text: str
    tokens: tuple[Token, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle's tree and verdict, for those who want to look at it."""

    tree: DraftTree
    verdict: Verdict


@dataclass
class Run:
    """One sequence on its way. Tokens, caches and counts agree after every step."""

    request: Request
    cache: PathCache
    session: DraftSession
    token_ids: list[int]  # prompt and answer; the last one is the root, not yet in the cache
    taps: Taps = (FINAL,)  # hidden states that its session reads
    num_reused: int = 0  # prompt tokens that an earlier run's caches held already
    share: SequenceShare = field(default_factory=SequenceShare)  # of the cycles that serve it
    counter: StatsCounter = field(default_factory=StatsCounter)
    tokens: list[Token] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    last_cycle: Cycle | None = None
    pieces: list[str] = field(default_factory=list)  # the answer's text so far

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self.pieces)

    @property
    def generated(self) -> list[int]:
        """The answer's ids."""
        return self.token_ids[len(self.request.prompt_ids) :]

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
        self.laps: Laps | None = None  # set it to see where the time of cycles goes (`eyas profile`)

    def start(self, request: Request, earlier: Run | None = None) -> tuple[Run, Piece]:
        """Prefill the prompt and choose the first token.

        Args:
            request: the answer to make.
            earlier: a finished run whose caches may serve again: the longest common prefix of token ids is
                kept (docs/laws.md, L7). It must not be used afterwards.

        Raises:
            CapacityError: the prompt is empty or fills the context.
        """
        prefill = self.prefill(request, earlier)
        while True:
            try:
                next(prefill)
            except StopIteration as done:
                started: tuple[Run, Piece] = done.value
                return started

    def prefill(
        self, request: Request, earlier: Run | None = None
    ) -> Generator[None, None, tuple[Run, Piece]]:
        """`start` in passes of `PREFILL_ROWS`: other runs may be stepped wherever it yields."""
        began = perf_counter()
        run = self._open(request, earlier)
        keep, prompt = run.num_reused, list(request.prompt_ids)
        features: list[tuple[int, Features]] = []
        for start in range(keep, len(prompt), PREFILL_ROWS):
            if features:
                yield
            chunk = np_ids(prompt[start : start + PREFILL_ROWS])
            [rows] = self.runtime.forward([TargetCall(run.cache, chunk, last_only=True, taps=run.taps)])
            run.cache.commit(range(len(chunk)))
            run.counter.target_forwards += 1
            features.append((start, rows.features))
        choice = rows.choose(len(chunk) - 1, request.sampler, [], request.num_log_probs)
        run.prefill_seconds = perf_counter() - began

        context = DraftContext(
            prompt_ids=prompt,
            sampler=request.sampler,
            tree=request.tree,
            options=request.options,
            stop_token_ids=request.text.stop_token_ids,
            costs=request.costs,
            share=run.share,
            laps=self.laps,
        )
        run.session.begin(context, keep)
        piece = self._emit(run, [Token(choice, None)])
        for start, chunk_features in features:
            after = run.token_ids[start + 1 : start + 1 + len(chunk_features)]
            run.session.extend(chunk_features, after)
        run.decode_seconds = perf_counter() - began - run.prefill_seconds
        return run, piece

    def step(self, runs: Sequence[Run]) -> list[Piece]:
        """One cycle for each unfinished run: one target pass serves them all, whatever drafted for them."""
        pieces = []
        for outcome in self.try_step(runs):
            if isinstance(outcome, Exception):
                raise outcome
            pieces.append(outcome)
        return pieces

    def try_step(self, runs: Sequence[Run]) -> list[Piece | Exception]:
        """`step`, where an error takes the place of its own run's piece and the others go on.

        A run with an error cannot be used any more.
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
        calls = [TargetCall(runs[at].cache, *tree.rows, taps=runs[at].taps) for at, tree in trees.items()]
        results: Sequence[TargetRows] = []
        try:
            results = self.runtime.forward(calls) if calls else []
        except Exception as error:  # nobody knows whose it is: all that share the pass end
            outcomes |= dict.fromkeys(trees, error)
        if laps is not None:
            laps.mark("verify")
        for (at, tree), rows in zip(trees.items(), results, strict=False):
            try:
                outcomes[at] = self._settle(runs[at], tree, rows)
            except Exception as error:
                outcomes[at] = error
        elapsed = perf_counter() - began
        for run in runs:
            run.decode_seconds += elapsed
        return [outcomes[at] for at in range(len(runs))]

    def stream(self, request: Request, earlier: Run | None = None) -> Iterator[tuple[Run, Piece]]:
        """The answer piece by piece: prefill's token, then one piece a cycle."""
        run, piece = self.start(request, earlier)
        yield run, piece
        while not run.is_finished:
            [piece] = self.step([run])
            yield run, piece

    def together(self, requests: Iterable[Request], size: int) -> Iterator[Run]:
        """Finished runs of many requests, `size` of them under way at a time, in the order in which they end.

        A request's answer does not depend on its company (docs/laws.md, L8), but its seconds do: each target
        pass serves all runs, and counts in full for each of them. A run must be read before the next one is
        asked for: then its caches serve another request, which keeps what their prompts have in common.

        Raises:
            CapacityError: as in `start`.
        """
        waiting, live, ended = iter(requests), list[Run](), list[Run]()
        while True:
            for request in islice(waiting, size - len(live)):
                live.append(self.start(request, _take_similar(ended, request.prompt_ids))[0])
            if not live:
                return
            finished = [run for run in live if run.is_finished]
            yield from finished
            ended += finished
            live = [run for run in live if not run.is_finished]
            if live:
                self.step(live)

    def _open(self, request: Request, earlier: Run | None) -> Run:
        """A run with fresh or reused caches."""
        check_room(request.prompt_ids, self.runtime)
        prompt = list(request.prompt_ids)
        if earlier is None:
            return Run(request, self.runtime.new_cache(), self.drafter.open(), prompt, taps_of(self.drafter))
        # The last prompt token is forwarded again for its logits, and the last common one for its
        # feature, which the drafter pairs with the token that now follows.
        common = common_prefix(prompt, earlier.token_ids)
        keep = max(0, min(common, len(prompt)) - 1)
        earlier.cache.truncate(keep)
        return Run(request, earlier.cache, earlier.session, prompt, earlier.taps, num_reused=keep)

    def _propose(self, run: Run) -> DraftTree:
        """A run's tree; the runs after it see its rows."""
        room = self.runtime.target.context_limit - len(run.token_ids) - 1
        tree = run.session.propose(run.token_ids, room)
        run.share.set_tree(len(tree.rows[0]), run.counter.mean_cycle_tokens)
        return tree

    def _settle(self, run: Run, tree: DraftTree, rows: TargetRows) -> Piece:
        """Walk, emit, and keep what was emitted in the caches."""
        request = run.request
        judge = RowsJudge(rows, request.sampler, run.generated, request.num_log_probs)
        verdict = request.options.rule(tree, judge)
        choices = judge.choices(verdict)
        if tree.auxiliary is not None:
            tree.auxiliary.receive(judge.after_auxiliary(tree))
        if self.laps is not None:
            self.laps.mark("walk")
        run.last_cycle = Cycle(tree, verdict)
        run.counter.target_forwards += 1
        run.counter.add_cycle(verdict.num_accepted, tree.num_draft_tokens, tree.depth)

        depths = [*range(1, len(choices)), None]
        piece = self._emit(run, [Token(choice, depth) for choice, depth in zip(choices, depths, strict=True)])
        emitted = [token.id for token in piece.tokens]
        path = verdict.path[: len(emitted)]  # all but the last emitted token, which is the new root
        if self.laps is not None:
            self.laps.mark("other")
        run.cache.commit(path)
        run.session.extend(self.runtime.select(rows.features, path), emitted)
        request.sampler.forget(len(run.tokens))
        if self.laps is not None:
            self.laps.mark("commit")
        return piece

    def _emit(self, run: Run, tokens: Sequence[Token]) -> Piece:
        """Take tokens until the answer ends; what follows is dropped."""
        text, emitted = "", []
        answer = run.request.text
        for token in tokens:
            emitted.append(token)
            text += answer.push(token.id)
            if answer.finish_reason:
                break
        run.tokens.extend(emitted)
        run.token_ids.extend(token.id for token in emitted)
        if not answer.finish_reason and len(run.token_ids) >= self.runtime.target.context_limit:
            text += answer.finish("length")
        run.pieces.append(text)
        return Piece(text, tuple(emitted))


def np_ids(token_ids: Sequence[int]) -> Ints:
    """Token ids as an array."""
    return np.asarray(token_ids, dtype=np.int64)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of equal leading tokens."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _take_similar(ended: list[Run], prompt_ids: Sequence[int]) -> Run | None:
    """Take out the run that shares most of a prompt."""
    if not ended:
        return None
    shared = [common_prefix(prompt_ids, run.token_ids) for run in ended]
    return ended.pop(shared.index(max(shared)))
