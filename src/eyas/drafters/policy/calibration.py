"""Measures what a cycle costs on this machine, and keeps the result (`eyas calibrate`).

A table belongs to everything that moves its numbers: target, runtime, precision, threads, head, machine,
version and compiled engine. It lies as JSON in <cache>/costs/ under a hash of these.
"""

import hashlib
import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import eyas
from eyas.config import TreeConfig
from eyas.drafters.autoregressive import Autoregressive
from eyas.engine.costs import MAX_ROWS, CostTable
from eyas.engine.cycle import Engine, Request
from eyas.engine.interfaces import DraftContext, Drafter, DraftSession, PathCache, Runtime, TargetCall
from eyas.engine.metrics import Laps
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig
from eyas.engine.tree import Ints
from eyas.errors import ConfigError, DataError
from eyas.models import cache_dir, locked
from eyas.models.machine import cpu_model, engine_hash

VERIFIED_ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, MAX_ROWS)
LARGE = 32  # rows of a tree that hardly ever pays: such passes are dear, and measured in every other round
EXPANDED_NODES = (1, 2, 4, 7, 10)
MANY_PAIRS = 32  # read for one tree, against one: enough to hide the noise of a single pass
SHALLOW, DEEP = 2, 6  # levels: the difference of two trees is that of their levels
CONTEXT = 256  # committed tokens while measuring
SECONDS = 2.0  # rounds go on until then, since whoever generates first waits for them, but
ROUNDS = (4, 15)  # at least and at most so many: a median of fewer is no better than its worst neighbour

Measured = dict[tuple[str, int], list[float]]  # (part, rows) -> milliseconds, one a round


def calibrate(runtime: Runtime, drafter: Drafter, seconds: float = SECONDS) -> CostTable:
    """Measure passes of the target and levels of the drafter: medians of interleaved rounds.

    Raises:
        ConfigError: the context is too short to measure in.
    """
    bench = _Bench(runtime, drafter)
    measured: Measured = defaultdict(list)
    bench.warm_up()
    deadline = perf_counter() + seconds
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and perf_counter() > deadline:
            break
        for part, rows, ms in bench.measure(large=done % 2 == 0):
            measured[part, rows].append(ms)
    return _table({key: statistics.median(ms) for key, ms in measured.items()}, bench)


def _table(ms: dict[tuple[str, int], float], bench: "_Bench") -> CostTable:
    verify = tuple((rows, ms["verify", rows]) for rows in bench.verified)
    levels, pairs, most = DEEP - SHALLOW, bench.pairs, bench.verified[-1]
    draft = tuple(
        (nodes, max(1e-3, (ms["deep", nodes] - ms["shallow", nodes]) / levels)) for nodes in EXPANDED_NODES
    )
    return CostTable(
        verify_ms=tuple((rows, round(value, 4)) for rows, value in verify),
        draft_ms=tuple((rows, round(value, 4)) for rows, value in draft),
        root_ms=round(ms["root", 1], 4),
        pair_ms=round(max(0.0, ms["read", pairs] - ms["root", 1]) / max(1, pairs - 1), 4),
        overhead_ms=round(ms["overhead", 1], 4),
        context=bench.context,
        # Of many rows, which show it best; without a context they attend to next to nothing.
        attend_ms=round(max(0.0, ms["verify", most] - ms["empty", most]) / (most * bench.context), 7),
        made={"eyas": eyas.__version__, "cpu": cpu_model()},
    )


class _Bench:
    """A target cache and a draft session over the same tokens, to time on."""

    def __init__(self, runtime: Runtime, drafter: Drafter) -> None:
        limit = runtime.target.context_limit
        self.context = max(1, min(CONTEXT, limit - MAX_ROWS - DEEP))
        self.pairs = min(MANY_PAIRS, self.context)
        self.verified = tuple(rows for rows in VERIFIED_ROWS if self.context + rows <= limit)
        if limit < self.context + 1 + DEEP:
            raise ConfigError(
                f"{runtime.target.name} holds {limit} tokens, too few to measure costs in; use tree='fixed'."
            )
        self._runtime = runtime
        self._ids: list[int] = [
            (7919 * at + 13) % runtime.target.vocab_size for at in range(self.context + 1)
        ]
        self._cache = runtime.new_cache()
        ids = np.array(self._ids[:-1], dtype=np.int64)
        [rows] = runtime.forward([TargetCall(self._cache, ids, last_only=True)])
        self._cache.commit(range(len(ids)))
        self._empty = runtime.new_cache()
        self._features = rows.features
        self._session = drafter.open()
        self._begin(self._session, TreeConfig(), 0)
        self._session.extend(self._features, self._ids[1:])
        self._plain = Engine(runtime, Autoregressive())
        self._run, _ = self._plain.start(self._request())

    def warm_up(self) -> None:
        """The largest passes once, untimed: buffers grow, pages come in."""
        self._verify(self._cache, self.verified[-1])
        self._propose(EXPANDED_NODES[-1], DEEP, self.pairs)

    def measure(self, *, large: bool) -> Iterator[tuple[str, int, float]]:
        """One round: (part, rows, milliseconds) of everything, with or without the `LARGE` passes."""
        for rows in self.verified:
            if large or rows < LARGE:
                yield "verify", rows, self._verify(self._cache, rows)
        if large:
            yield "empty", self.verified[-1], self._verify(self._empty, self.verified[-1])
        yield "root", 1, self._propose(1, depth=1)
        yield "read", self.pairs, self._propose(1, depth=1, pairs=self.pairs)
        for nodes in EXPANDED_NODES:
            for part, depth in (("shallow", SHALLOW), ("deep", DEEP)):
                yield part, nodes, self._propose(nodes, depth)
        if self._run.is_finished:
            self._run, _ = self._plain.start(self._request(), self._run)
        self._plain.laps = Laps()
        self._plain.step([self._run])
        # By its own watch: as the difference of two passes it would be noise, several times itself.
        yield "overhead", 1, self._plain.laps.summary()["beside_passes_ms"]

    def _verify(self, cache: PathCache, rows: int) -> float:
        """A target pass over a tree of so many rows, three children a node."""
        ids = np.resize(np.array(self._ids, dtype=np.int64), rows)
        parents: Ints = (np.arange(rows) - 1) // 3
        parents[0] = -1
        call = TargetCall(cache, ids, parents)
        ms = _milliseconds(lambda: self._runtime.forward([call]))
        cache.truncate(cache.length)
        return ms

    def _propose(self, nodes: int, depth: int, pairs: int = 1) -> float:
        """A tree of so many levels, `nodes` expanded on each after the first, once `pairs` were read."""
        tree = TreeConfig(draft_tokens=min(7, nodes * depth), depth=depth, tree_top_k=nodes)
        kept = len(self._ids) - 1 - pairs  # the last pairs are read anew: the tree before has read them
        self._begin(self._session, tree, kept)
        self._session.extend(self._features[-pairs:], self._ids[-pairs:])
        return _milliseconds(lambda: self._session.propose(self._ids, depth))

    def _begin(self, session: DraftSession, tree: TreeConfig, keep: int) -> None:
        sampler = Sampler(SamplingConfig(), prompt_ids=self._ids, vocab_size=self._runtime.target.vocab_size)
        session.begin(DraftContext(prompt_ids=self._ids, sampler=sampler, tree=tree), keep)

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


def stored_table(path: Path) -> CostTable | None:
    """The table at `path`; None if there is none, or one that cannot be read."""
    try:
        return CostTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, DataError):
        return None


def store_table(path: Path, table: CostTable) -> None:
    """Write a table, whole or not at all.

    Raises:
        FetchError: the cache cannot be written.
    """
    with locked(path):
        new = path.with_suffix(".new")
        new.write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
        new.replace(path)


def table_path(runtime: Runtime, head: Path | None, draft_dtype: str) -> Path:
    """Where the table of this runtime, target and head on this machine is kept."""
    target = asdict(runtime.target)
    if target["fingerprint"] is not None:
        del target["name"]  # a folder may be called otherwise tomorrow
    identity: dict[str, Any] = {
        "target": target,
        "head": None if head is None else _head_state(head),
        "draft_dtype": draft_dtype,
        "machine": [platform.machine(), cpu_model(), os.cpu_count()],
        "isa": os.environ.get("EYAS_ISA"),
        "eyas": [eyas.__version__, engine_hash()],
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "costs" / f"{name}.json"


def _head_state(head: Path) -> list[Any]:
    """What tells one head from another without reading its weights."""
    files = sorted(path for path in head.iterdir() if path.is_file() and path.suffix != ".md")
    sizes = [[path.name, path.stat().st_size] for path in files]
    return [sizes, hashlib.sha256((head / "config.json").read_bytes()).hexdigest()]
