"""A runtime without a network: logits are a fixed random function of the whole token prefix.

Every path of every tree has its own logits, so a row that sees one wrong token gives other results. That
makes it a strict and quick oracle for the engine, verification and the drafters that need no network.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from eyas.engine.costs import CostTable
from eyas.engine.cycle import Request
from eyas.engine.interfaces import FINAL, DraftOptions, TargetInfo, TopK
from eyas.engine.sampling import SampledToken, Sampler, SamplingConfig, log_softmax
from eyas.engine.stopping import AnswerText, StoppingConfig, stop_tokens
from eyas.engine.tree import DraftTree
from eyas.engine.tree_options import TreeOptions

AUTO = TreeOptions(tree="auto")
# Costs as a kernel for few rows has them, and as a matrix library without one.
FAST = CostTable(
    verify_ms=((1, 3.8), (4, 4.0), (8, 4.9), (16, 6.6), (24, 8.4), (32, 11.0), (64, 20.0)),
    draft_ms=((1, 0.3), (10, 0.5)),
    root_ms=0.4,
    pair_ms=0.02,
    overhead_ms=0.2,
)
SLOW = CostTable(
    verify_ms=((1, 20.0), (64, 640.0)),
    draft_ms=((1, 4.0), (10, 9.0)),
    root_ms=5.0,
    pair_ms=1.0,
    overhead_ms=0.3,
)
FREE = CostTable(
    verify_ms=((1, 4.0), (64, 4.1)),
    draft_ms=((1, 0.01), (10, 0.02)),
    root_ms=0.01,
    pair_ms=0.0,
    overhead_ms=0.0,
)

# Parents of the nodes of a tree, root included, each before its children.
parent_lists = st.lists(st.integers(0, 10**6), max_size=12).map(
    lambda draws: [-1] + [draw % (index + 1) for index, draw in enumerate(draws)]
)


class NumberText:
    """A decoder that spells token ids, so that stop strings can be tested without a tokenizer."""

    def push(self, token_id):
        return f"{token_id} "

    def flush(self):
        return ""


def make_request(
    prompt,
    sampling=None,
    stopping=None,
    *,
    vocab_size,
    stops=(),
    tree=None,
    costs=None,
    choice=0,
    num_log_probs=None,
    options=None,
    grammar=None,
):
    """A request without a tokenizer; `stops` are the model's own stop tokens."""
    sampling, stopping = sampling or SamplingConfig(), stopping or StoppingConfig(max_new_tokens=20)
    return Request(
        prompt_ids=prompt,
        sampler=Sampler(
            sampling,
            prompt_ids=prompt,
            vocab_size=vocab_size,
            seed=sampling.drawn_seed(),
            choice=choice,
            withheld=stop_tokens(stopping, stops),
            min_new_tokens=stopping.min_new_tokens,
            grammar=grammar,
        ),
        text=AnswerText(stopping, NumberText(), stops),
        tree=tree or TreeOptions(),
        options=options or DraftOptions(),
        num_log_probs=num_log_probs,
        costs=costs,
    )


def answer(engine, request, earlier=None):
    """Run a request to its end; returns the run and the answer's text."""
    text, run = "", None
    for run, piece in engine.stream(request, earlier):  # noqa: B007
        text += piece.text
    return run, text


class Says:
    """A verifier whose target says what a function of node and accepted tokens gives."""

    def __init__(self, choose):
        self.choose = choose

    def follow(self, tree):
        return None


class FakeCache:
    def __init__(self):
        self.tokens = []  # committed
        self.pending = []  # (token, parent)

    @property
    def length(self):
        return len(self.tokens)

    @property
    def num_pending(self):
        return len(self.pending)

    def prefix(self, row):
        path = []
        while row >= 0:
            token, row = self.pending[row]
            path.append(token)
        return (*self.tokens, *path[::-1])

    def commit(self, path):
        path = list(path)
        assert all(self.pending[b][1] == a for a, b in zip([-1, *path], path, strict=False))
        self.tokens += [self.pending[row][0] for row in path]
        self.pending = []

    def truncate(self, length):
        assert length <= len(self.tokens)
        self.tokens = self.tokens[:length]
        self.pending = []

    def fork(self, length):
        assert length <= len(self.tokens)
        fork = FakeCache()
        fork.tokens = self.tokens[:length]
        return fork


def tapped(prefix, taps):
    """The fake feature of a prefix."""
    return tuple(prefix) if taps == (FINAL,) else (tuple(prefix), *taps)


@dataclass
class FakeRows:
    runtime: "FakeRuntime"
    prefixes: list
    taps: tuple

    @property
    def features(self):
        """A feature is the prefix that it stands for, so tests can see which rows were kept; taps join it."""
        rows = np.empty(len(self.prefixes), dtype=object)
        rows[:] = [tapped(prefix, self.taps) for prefix in self.prefixes]
        return rows

    def logits(self, row):
        return self.runtime.logits(self.prefixes[row])

    def choose(self, row, sampler, generated, num_log_probs=None):
        prefix = self.prefixes[row]
        assert list(prefix[len(prefix) - len(generated) :]) == list(generated), "L3: a row's own path"
        logits = self.logits(row)
        token = sampler.choose(logits, generated)
        if num_log_probs is None:
            return SampledToken(token)
        logs = log_softmax(logits)
        best = np.argsort(-logs, kind="stable")[:num_log_probs]
        return SampledToken(token, float(logs[token]), tuple((int(b), float(logs[b])) for b in best))


class FakeRuntime:
    def __init__(self, vocab_size=8, context_limit=64, sharpness=2.0, seed=0):
        self.target = TargetInfo(
            name="fake", family="fake", runtime="fake", dtype="float64", hidden_size=1,
            vocab_size=vocab_size, num_layers=1, context_limit=context_limit,
        )  # fmt: skip
        self._sharpness, self._seed = sharpness, seed
        self.num_forwards = 0

    def logits(self, prefix):
        rng = np.random.default_rng([self._seed, *prefix])
        return self._sharpness * rng.standard_normal(self.target.vocab_size)

    def new_cache(self):
        return FakeCache()

    def forward(self, calls):
        self.num_forwards += 1
        results = []
        for call in calls:
            cache, first = call.cache, call.cache.num_pending
            size = len(call.token_ids)
            parents = first + np.arange(-1, size - 1) if call.parents is None else call.parents
            if call.parents is None and not first:
                parents[0] = -1
            cache.pending += [(int(t), int(p)) for t, p in zip(call.token_ids, parents, strict=True)]
            prefixes = [cache.prefix(first + row) for row in range(size)]
            assert all(len(prefix) <= self.target.context_limit for prefix in prefixes), "beyond the context"
            results.append(FakeRows(self, prefixes, call.taps))
        return results

    def select(self, features, rows):
        return features[rows]


class RandomTrees:
    """A drafter that proposes any tree at all, and checks what the engine tells it."""

    def __init__(self, vocab_size, seed=0, size=12, depth=5, taps=(FINAL,)):
        self.vocab_size, self.size, self.depth, self.taps = vocab_size, size, depth, taps
        self.rng = np.random.default_rng(seed)
        self.sessions = []

    def open(self):
        self.sessions.append(RandomTreesSession(self))
        return self.sessions[-1]


class RandomTreesSession:
    num_forwards = 0

    def __init__(self, drafter):
        self.drafter = drafter
        self.pairs = []  # (feature, next token)

    def begin(self, context, keep=0):
        self.context = context
        self.pairs = self.pairs[:keep]

    def fork(self):
        fork = RandomTreesSession(self.drafter)
        fork.pairs = [*self.pairs]
        return fork

    def extend(self, features, token_ids):
        assert len(features) == len(token_ids)
        self.pairs += list(zip(features, token_ids, strict=True))

    def propose(self, token_ids, max_depth):
        self.check(token_ids)
        rng, vocab = self.drafter.rng, self.drafter.vocab_size
        tokens, parents, depths = [token_ids[-1]], [-1], [0]
        for _ in range(rng.integers(0, self.drafter.size + 1)):
            parent = int(rng.integers(len(tokens)))
            token = int(rng.integers(vocab))
            taken = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
            ended = tokens[parent] in self.context.stop_token_ids and parent
            if depths[parent] >= min(max_depth, self.drafter.depth) or token in taken or ended:
                continue
            tokens.append(token)
            parents.append(parent)
            depths.append(depths[parent] + 1)
        return DraftTree(np.array(tokens), np.array(parents), np.zeros(len(tokens)))

    def check(self, token_ids):
        """L7 from the drafter's side: a pair for each token but the last, each with its true feature."""
        assert len(self.pairs) == len(token_ids) - 1
        for index, (feature, token) in enumerate(self.pairs):
            assert feature == tapped(token_ids[: index + 1], self.drafter.taps)
            assert token == token_ids[index + 1]


class FreeFeatures:
    """Rows of nothing, for counting what Python costs."""

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return FreeFeatures(len(range(*rows.indices(self._count))))
        return FreeFeatures(len(rows))


class FreeCache:
    length = 0
    num_pending = 0

    def commit(self, path):
        self.length += len(path)
        self.num_pending = 0

    def truncate(self, length):
        self.length, self.num_pending = length, 0

    def fork(self, length):
        fork = FreeCache()
        fork.length = length
        return fork


class FreeRows:
    """The target follows the first child of a node, `accepted` levels deep."""

    def __init__(self, call, accepted):
        self.features = FreeFeatures(len(call.token_ids))
        self._call, self._left = call, accepted

    def choose(self, row, *_):
        self._left -= 1
        if self._left < 0 or self._call.parents is None:
            return SampledToken(3)
        below = self._call.parents.tolist().index(row) if row in self._call.parents else None
        return SampledToken(3 if below is None else int(self._call.token_ids[below]))


class FreeRuntime:
    """Blocks that cost nothing: what is left of a cycle is eyas itself (benchmarks/overhead.py)."""

    def __init__(self, context_limit=10**6, accepted=2, vocab_size=4096):
        self.target = TargetInfo(
            name="free", family="free", runtime="free", dtype="float32", hidden_size=1,
            vocab_size=vocab_size, num_layers=1, context_limit=context_limit,
        )  # fmt: skip
        self.accepted = accepted
        rng = np.random.default_rng(0)
        self._tops = {}
        for rows in range(1, 65):
            for k in range(1, 11):
                ids = np.stack([10 + rng.permutation(64)[:k] for _ in range(rows)])
                probs = -np.sort(-rng.dirichlet(np.full(12, 0.4), size=rows))[:, :k]
                self._tops[rows, k] = TopK(ids, np.log(np.maximum(probs, 1e-6)))

    def new_cache(self):
        return FreeCache()

    def forward(self, calls):
        for call in calls:
            call.cache.num_pending += len(call.token_ids)
        return [FreeRows(call, self.accepted) for call in calls]

    def join(self, parts):
        return FreeFeatures(sum(map(len, parts)))

    def select(self, features, rows):
        return features[rows]

    def embed(self, token_ids):
        return FreeFeatures(len(token_ids))

    def linear(self, *_):
        return lambda *inputs: inputs[0]

    def lm_head(self, *_, **__):
        return self

    def decoder_stack(self, *_):
        return FreeStack()

    def tree_grower(self, *_):
        return None

    def round_score(self, values):
        return values

    def top_k(self, hidden, k, *_):
        return self._tops[len(hidden), k]


class FreeStack:
    def new_cache(self):
        return FreeCache()

    def forward(self, cache, inputs, *_):
        cache.num_pending += len(inputs)
        return inputs


def free_head(runtime):
    """An EAGLE head of free blocks."""
    from eyas.drafters.eagle_head import EagleHead

    return EagleHead(
        runtime=runtime,
        fc=runtime.linear(None, None),
        stack=runtime.decoder_stack(None, None),
        draft_ids=None,
        coupled_scale=(1.0,),
    )
