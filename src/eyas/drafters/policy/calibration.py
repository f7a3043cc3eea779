"""Measures what a cycle costs on this machine (`eyas calibrate`): of any drafter whose trees can be sized."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

import eyas
from eyas.drafters.autoregressive import Autoregressive
from eyas.drafters.expansion import grow
from eyas.drafters.ranked import RankedSession
from eyas.drafters.tree_builder import TreeRules
from eyas.engine.costs import MAX_ROWS, CostTable
from eyas.engine.cycle import Engine, Request
from eyas.engine.interfaces import (
    DraftContext,
    DraftOptions,
    LoadedDrafter,
    PathCache,
    Runtime,
    TargetCall,
    taps_of,
)
from eyas.engine.metrics import Laps
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig
from eyas.engine.tree import Ints
from eyas.engine.tree_options import TreeOptions
from eyas.errors import ConfigError
from eyas.models.machine import cpu_model

VERIFIED_ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, MAX_ROWS)
LARGE = (
    32  # query tokens of a tree that rarely pays: these passes are slow, and measured in every other round
)
EXPANDED_NODES = (1, 2, 4, 7, 10)
MANY_PAIRS = 32  # read for one tree, against one: enough to hide the noise of a single pass
LEVELS = 5  # below the first: the time of one is their mean, since a tree may be drafted in one call
CONTEXT = 256  # committed tokens while measuring
SECONDS = 2.0  # rounds go on until then, since whoever generates first waits for them, but
ROUNDS = (4, 15)  # at least and at most this many: a median of fewer is no better than its worst neighbour

Measured = dict[tuple[str, int], list[float]]  # (part, rows) -> milliseconds, one a round
NO_DRAFT_MS = ((1, 1e-3),)  # a level of a drafter without levels


def calibrate(
    runtime: Runtime, drafter: LoadedDrafter, options: DraftOptions, seconds: float = SECONDS
) -> CostTable:
    """Measure passes of the target and levels of the drafter: medians of interleaved rounds.

    A drafter without a network (`ContinuationSession`) drafts for nothing.

    Args:
        runtime: of the target.
        drafter: without a policy around it.
        options: of its own kind.
        seconds: to spend; never fewer rounds than `ROUNDS` says.

    Raises:
        ConfigError: the context is too short to measure in.
    """
    bench = _Bench(runtime, drafter, options)
    measured: Measured = defaultdict(list)
    bench.warm_up()
    deadline = perf_counter() + seconds
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and perf_counter() > deadline:
            break
        for part, rows, ms in bench.measure(large=done % 2 == 0):
            measured[part, rows].append(ms)
    return _table({key: statistics.median(ms) for key, ms in measured.items()}, _scatter(measured), bench)


def _scatter(measured: Measured) -> float:
    """Upper over lower quartile of the rounds, the median over all parts: about 1.1 on a quiet machine."""
    spreads = []
    for ms in measured.values():
        ordered = sorted(ms)
        low, high = ordered[len(ordered) // 4], ordered[(3 * (len(ordered) - 1) + 3) // 4]
        spreads.append(high / low)
    return statistics.median(spreads)


def _table(ms: dict[tuple[str, int], float], scatter: float, bench: "_Bench") -> CostTable:
    pairs, most = bench.pairs, bench.verified[-1]
    root = ms.get(("root", 1), 0.0)
    levels = {nodes: (ms["tree", nodes] - root) / bench.levels for nodes in bench.expanded}
    draft = tuple((nodes, max(1e-3, round(level, 4))) for nodes, level in levels.items()) or NO_DRAFT_MS
    return CostTable(
        verify_ms=tuple((rows, round(ms["verify", rows], 4)) for rows in bench.verified),
        draft_ms=draft,
        root_ms=round(root, 4),
        pair_ms=round(max(0.0, ms.get(("read", pairs), 0.0) - root) / max(1, pairs - 1), 4),
        overhead_ms=round(ms["overhead", 1], 4),
        context=bench.context,
        # Of many rows, which show it best; without a context they attend to next to nothing.
        attend_ms=round(max(0.0, ms["verify", most] - ms["empty", most]) / (most * bench.context), 7),
        made={"eyas": eyas.__version__, "cpu": cpu_model(), "scatter": round(scatter, 2)},
    )


class _Bench:
    """A target cache and a draft session over the same tokens, to time on."""

    def __init__(self, runtime: Runtime, drafter: LoadedDrafter, options: DraftOptions) -> None:
        limit = runtime.target.context_limit
        self.context = max(1, min(CONTEXT, limit - MAX_ROWS - LEVELS - 1))
        self.pairs = min(MANY_PAIRS, self.context)
        self.verified = tuple(rows for rows in VERIFIED_ROWS if self.context + rows <= limit)
        if limit < self.context + 2 + LEVELS:
            raise ConfigError(
                f"{runtime.target.name} holds {limit} tokens, too few to measure costs in; use tree='fixed'."
            )
        self._runtime, self._options = runtime, options
        self._ids: list[int] = [
            (7919 * at + 13) % runtime.target.vocab_size for at in range(self.context + 1)
        ]
        self._cache = runtime.new_cache()
        ids = np.array(self._ids[:-1], dtype=np.int64)
        [rows] = runtime.forward([TargetCall(self._cache, ids, last_only=True, taps=taps_of(drafter))])
        self._cache.commit(range(len(ids)))
        self._empty = runtime.new_cache()
        self._features = rows.features
        session = drafter.open()
        self._session = session if isinstance(session, RankedSession) else None
        self.expanded: tuple[int, ...] = ()
        if self._session is not None:
            self._begin(self._session, 0)
            self._session.extend(self._features, self._ids[1:])
            limits = self._session.limits(self._ids)
            self._width = limits.top_k
            self.levels = max(0, min(LEVELS, limits.depth - 1))
            if self.levels:
                self.expanded = tuple(nodes for nodes in EXPANDED_NODES if nodes <= limits.top_k)
        self._plain = Engine(runtime, Autoregressive())
        self._run, _ = self._plain.start(self._request())

    def warm_up(self) -> None:
        """The largest passes once, untimed: buffers grow, pages come in."""
        self._verify(self._cache, self.verified[-1])
        if self._session is not None:
            self._draft(self._session, self._width, self.levels, self.pairs)

    def measure(self, *, large: bool) -> Iterator[tuple[str, int, float]]:
        """One round: (part, rows, milliseconds) of everything, with or without the `LARGE` passes."""
        for rows in self.verified:
            if large or rows < LARGE:
                yield "verify", rows, self._verify(self._cache, rows)
        if large:
            yield "empty", self.verified[-1], self._verify(self._empty, self.verified[-1])
        if self._session is not None:
            yield "root", 1, self._draft(self._session, 1, 0)
            yield "read", self.pairs, self._draft(self._session, 1, 0, self.pairs)
            for nodes in self.expanded:
                yield "tree", nodes, self._draft(self._session, nodes, self.levels)
        if self._run.is_finished:
            self._run, _ = self._plain.start(self._request(), self._run)
        self._plain.laps = Laps()
        self._plain.step([self._run])
        # By its own watch: as the difference of two passes it would be noise, several times itself.
        yield "overhead", 1, self._plain.laps.summary()["beside_passes_ms"]

    def _verify(self, cache: PathCache, rows: int) -> float:
        """A target pass over a tree of this many query tokens, three children a node."""
        ids = np.resize(np.array(self._ids, dtype=np.int64), rows)
        parents: Ints = (np.arange(rows) - 1) // 3
        parents[0] = -1
        call = TargetCall(cache, ids, parents)
        ms = _milliseconds(lambda: self._runtime.forward([call]))
        cache.truncate(cache.length)
        return ms

    def _draft(self, session: RankedSession, nodes: int, levels: int, pairs: int = 1) -> float:
        """Milliseconds of a tree: the first level, and `levels` more that expand `nodes` nodes each.

        `pairs` committed tokens are read first, with their features.
        """
        kept = len(self._ids) - 1 - pairs  # the last ones are read again: the tree before has read them
        self._begin(session, kept)
        session.extend(self._features[-pairs:], self._ids[-pairs:])

        def draft() -> None:
            builder = TreeRules(nodes).builder(levels + 1)
            with session.expander(self._ids) as expand:
                grow(builder, expand, self._width)
            builder.finish(self._ids[-1], 7)

        return _milliseconds(draft)

    def _begin(self, session: RankedSession, keep: int) -> None:
        sampler = Sampler(SamplingConfig(), prompt_ids=self._ids, vocab_size=self._runtime.target.vocab_size)
        context = DraftContext(
            prompt_ids=self._ids, sampler=sampler, tree=TreeOptions(), options=self._options
        )
        session.begin(context, keep)

    def _request(self) -> Request:
        """A short prompt: what a cycle takes beside its pass does not depend on the context."""
        prompt = self._ids[:-1][:16]
        sampler = Sampler(SamplingConfig(), prompt_ids=prompt, vocab_size=self._runtime.target.vocab_size)
        stopping = StoppingConfig(max_new_tokens=MAX_ROWS, ignore_eos=True)
        return Request(prompt_ids=prompt, sampler=sampler, text=AnswerText(stopping, NoText()))


def _milliseconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return 1e3 * (perf_counter() - began)
