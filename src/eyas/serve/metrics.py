"""Prometheus metrics under vLLM's names, so that its dashboards and `vllm bench serve` can read them.

A tree's position is its depth: `..._per_pos_total{position="0"}` counts accepted nodes of the first level. A
cycle that drafted nothing does not count as a draft, as in vLLM.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from eyas.engine.cycle import Piece
from eyas.engine.metrics import GenerationStats

FIRST_TOKEN = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
BETWEEN_TOKENS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
POSITIONS = 64  # deeper ones are counted with the last


class ServerMetrics:
    """The counts of one server, in a registry of their own. Any thread may write."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self.running = self._gauge("num_requests_running", "Answers under way")
        self.waiting = self._gauge("num_requests_waiting", "Answers that wait")
        self.cache_usage = self._gauge("kv_cache_usage_perc", "Share of the cache budget in use, 1 is all")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens")
        self._generation_tokens = self._counter("generation_tokens", "Answer tokens")
        self._prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked for in caches")
        self._prefix_hits = self._counter("prefix_cache_hits", "Prompt tokens found in caches")
        self._drafts = self._counter("spec_decode_num_drafts", "Draft trees")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Draft tokens")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Accepted draft tokens")
        self._accepted_at = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted draft tokens by depth, 0 is the first level",
            [*self._labels, "position"],
            registry=self.registry,
        )
        self._ended = Counter(
            "vllm:request_success",
            "Answers by how they ended: stop, length, abort, error",
            [*self._labels, "finished_reason"],
            registry=self.registry,
        )
        self.first_token = self._histogram("time_to_first_token_seconds", "From request on", FIRST_TOKEN)
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens", BETWEEN_TOKENS)
        self.queued = self._histogram("request_queue_time_seconds", "Waiting", REQUEST)
        self.whole = self._histogram("e2e_request_latency_seconds", "From request to end", REQUEST)
        self._prefill = self._histogram("request_prefill_time_seconds", "Reading the prompt", REQUEST)
        self._decode = self._histogram("request_decode_time_seconds", "Writing the answer", REQUEST)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def prompt(self, tokens: int, reused: int) -> None:
        """A prompt was read; `reused` of its tokens were in a cache."""
        self._prompt_tokens.inc(tokens)
        self._prefix_queries.inc(tokens)
        self._prefix_hits.inc(reused)

    def cycle(self, piece: Piece, seconds: float | None) -> None:
        """The prefill or a cycle gave a piece, `seconds` after the one before."""
        cycle, tokens = piece.cycle, len(piece.tokens)
        self._generation_tokens.inc(tokens)
        for _ in range(tokens if seconds is not None else 0):
            self._between.observe((seconds or 0.0) / tokens)
        if cycle is None or not cycle.tree.num_draft_tokens:
            return
        self._drafts.inc()
        self._draft_tokens.inc(cycle.tree.num_draft_tokens)
        self._accepted.inc(cycle.num_accepted)
        for depth in range(cycle.num_accepted):
            self._accepted_at.labels(**self._labels, position=str(min(depth, POSITIONS - 1))).inc()

    def ended(self, reason: str, stats: GenerationStats | None, seconds: float) -> None:
        """An answer ended, `seconds` after its request; only one that is whole has `stats`."""
        self._ended.labels(**self._labels, finished_reason=reason).inc()
        self.whole.observe(seconds)
        if stats is not None:
            self._prefill.observe(stats.prefill_seconds)
            self._decode.observe(stats.decode_seconds)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"vllm:{name}", text, list(self._labels), registry=self.registry)
        return counter.labels(**self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, list(self._labels), registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", text, list(self._labels), registry=self.registry, buckets=buckets
        )
        return histogram.labels(**self._labels)
