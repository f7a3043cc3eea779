"""Small random networks on the compiled module, and a slow float64 twin of their layers. No torch."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from eyas import _native
from eyas.runtimes.native.matrices import interleave, make_matrix

KINDS = ("float32", "bfloat16", "int8")
ISAS = [name for name in ("avx512bf16", "avx512", "avx2", "portable") if _native.has_isa(name)]
LIMIT = 640  # positions


@cache
def engine(threads=1, isa=None):
    return _native.Engine(threads, isa)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a network; odd ones on purpose."""

    hidden: int = 40
    inner: int = 56
    heads: int = 4
    kv_heads: int = 4
    dim: int = 8
    windows: tuple[int, ...] = (0, 0)
    biased: bool = False
    head_norms: bool = False
    vocab: int = 61


SHAPES = {
    "plain": Shape(),
    "eight-to-one": Shape(hidden=33, inner=17, heads=8, kv_heads=1, dim=10),
    "windows": Shape(kv_heads=2, dim=34, windows=(5, 0, 5), biased=True),
    "head-norms": Shape(hidden=70, inner=33, heads=6, kv_heads=2, dim=48, head_norms=True),
    "wide-heads": Shape(hidden=48, inner=40, heads=2, kv_heads=1, dim=256, windows=(0,)),
    "long-window": Shape(hidden=24, inner=20, heads=2, kv_heads=2, dim=16, windows=(40,)),
}
# Every shape on the best instruction set, those that differ most on the others.
CASES = [(ISAS[0], name) for name in SHAPES]
CASES += [(isa, name) for isa in ISAS[1:] for name in ("eight-to-one", "windows")]


@dataclass(frozen=True)
class Net:
    engine: _native.Engine
    stack: _native.Stack
    head: _native.Head
    target: _native.Target

    def new_cache(self):
        return self.stack.new_cache(LIMIT)

    def forward(self, cache_, token_ids, parents=None, last_only=False):
        """Features, and logits of all rows (or the last)."""
        return self.forward_all([(cache_, token_ids, parents, last_only)])[0]

    def forward_all(self, calls):
        ready = [
            (c, np.asarray(ids, dtype=np.int64), None if p is None else np.asarray(p, dtype=np.int64), last)
            for c, ids, p, last in calls
        ]
        features = self.target.forward(ready)
        results, start, row = [], 0, 0
        for _, ids, _, last in ready:
            count = 1 if last else len(ids)
            logits = np.stack([self.head.logits(row + i) for i in range(count)])
            results.append((features[start : start + len(ids)], logits))
            start, row = start + len(ids), row + count
        return results

    def prefill(self, token_ids, chunks=()):
        cache_, start = self.new_cache(), 0
        for size in [*chunks, len(token_ids)]:
            piece = token_ids[start : start + size]
            if len(piece):
                self.forward(cache_, piece, last_only=True)
                cache_.commit(list(range(len(piece))))
            start += len(piece)
        return cache_


@cache
def weights(shape, seed=0):
    """Arrays by name; matrices large enough that attention matters."""
    generator = np.random.default_rng(seed)
    query, key = shape.heads * shape.dim, shape.kv_heads * shape.dim

    def matrix(rows, columns):
        return generator.normal(scale=1.2 / np.sqrt(columns), size=(rows, columns)).astype(np.float32)

    def vector(size, around=0.0):
        return (around + generator.normal(scale=0.3, size=size)).astype(np.float32)

    made = {"embedding": matrix(shape.vocab, shape.hidden) * 5, "head": matrix(shape.vocab, shape.hidden) * 3}
    made["norm"] = vector(shape.hidden, 1.0)
    for layer in range(len(shape.windows)):
        made |= {
            f"{layer}.qkv": matrix(query + 2 * key, shape.hidden),
            f"{layer}.output": matrix(shape.hidden, query),
            f"{layer}.gate": matrix(shape.inner, shape.hidden),
            f"{layer}.up": matrix(shape.inner, shape.hidden),
            f"{layer}.down": matrix(shape.hidden, shape.inner),
            f"{layer}.input_norm": vector(shape.hidden, 1.0),
            f"{layer}.post_norm": vector(shape.hidden, 1.0),
            f"{layer}.query_norm": vector(shape.dim, 1.0),
            f"{layer}.key_norm": vector(shape.dim, 1.0),
            f"{layer}.qkv.bias": vector(query + 2 * key),
            f"{layer}.output.bias": vector(shape.hidden),
            f"{layer}.gate.bias": vector(shape.inner),
            f"{layer}.up.bias": vector(shape.inner),
            f"{layer}.down.bias": vector(shape.hidden),
        }
    return made


def frequencies(shape):
    return (1.0 / 1000.0 ** (np.arange(0, shape.dim, 2) / shape.dim)).astype(np.float32)


@cache
def net(name, kind="float32", isa=None, threads=1):
    """A network of SHAPES."""
    shape, own = SHAPES[name], weights(SHAPES[name])
    machine = engine(threads, isa)

    def packed(matrix, bias=None):
        return make_matrix(matrix, kind, "a test's matrix", bias if shape.biased else None)

    layers = []
    for index, window in enumerate(shape.windows):
        at = f"{index}."
        layer = {name: packed(own[at + name], own[f"{at}{name}.bias"]) for name in ("qkv", "output", "down")}
        layer["gate_up"] = packed(
            interleave(own[at + "gate"], own[at + "up"]),
            interleave(own[at + "gate.bias"], own[at + "up.bias"]),
        )
        layer |= {name: own[at + name] for name in ("input_norm", "post_norm")}
        if shape.head_norms:
            layer |= {name: own[at + name] for name in ("query_norm", "key_norm")}
        layers.append(layer | {"window": window})
    stack_shape = _native.StackShape(
        hidden=shape.hidden,
        intermediate=shape.inner,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.dim,
        eps=1e-5,
        inverse_frequencies=frequencies(shape),
    )
    stack = _native.Stack(machine, stack_shape, layers, own["norm"])
    head = _native.Head(machine, [make_matrix(own["head"], kind, "a test's head")])
    return Net(machine, stack, head, _native.Target(stack, head, own["embedding"], kind != "float32"))


def reference(name, token_ids):
    """(features, logits) of a causal pass in float64, from the definitions."""
    shape, own = SHAPES[name], {key: array.astype(np.float64) for key, array in weights(SHAPES[name]).items()}
    x, count = own["embedding"][np.asarray(token_ids)], len(token_ids)
    angles = np.arange(count)[:, None] * frequencies(shape).astype(np.float64)
    ahead = np.arange(count)[:, None] - np.arange(count)[None, :]  # positions that a key lies before a row

    def norm(rows, weight):
        return rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + 1e-5) * weight

    def product(at, rows):
        return rows @ own[at].T + (own[at + ".bias"] if shape.biased else 0)

    def rotated(heads):
        a, b = np.split(heads, 2, axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)

    for layer, window in enumerate(shape.windows):
        at = f"{layer}."
        qkv = product(at + "qkv", norm(x, own[at + "input_norm"])).reshape(count, -1, shape.dim)
        queries, keys, values = np.split(qkv, [shape.heads, shape.heads + shape.kv_heads], axis=1)
        if shape.head_norms:
            queries, keys = norm(queries, own[at + "query_norm"]), norm(keys, own[at + "key_norm"])
        queries, keys = rotated(queries), rotated(keys)
        keys, values = (np.repeat(rows, shape.heads // shape.kv_heads, axis=1) for rows in (keys, values))
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(shape.dim)
        scores[:, (ahead < 0) | ((ahead >= window) if window else False)] = -np.inf
        probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probs /= probs.sum(axis=-1, keepdims=True)
        x = x + product(at + "output", np.einsum("hqk,khd->qhd", probs, values).reshape(count, -1))
        inner = norm(x, own[at + "post_norm"])
        gate = product(at + "gate", inner)
        x = x + product(at + "down", gate / (1 + np.exp(-gate)) * product(at + "up", inner))
    features = norm(x, own["norm"])
    return features, features @ own["head"].T


def to_bfloat16(values):
    """float32 values rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
    return rounded.view(np.float32).reshape(np.shape(values))


def quantised(rows, together=None):
    """Rows as int8 keeps them: whole numbers times a scale per row, or per `together` entries of it."""
    rows = np.asarray(rows, dtype=np.float32)
    if together is not None:
        pieces = [quantised(rows[:, at : at + together]) for at in range(0, rows.shape[1], together)]
        return np.concatenate(pieces, axis=1)
    top = np.abs(rows).max(axis=1)
    able = top > np.float32(1e-30)
    inverse = np.where(able, np.float32(127) / np.where(able, top, 1).astype(np.float32), np.float32(0))
    whole = np.rint(rows * inverse.astype(np.float32)[:, None])
    return whole.astype(np.float64) * (top / np.float32(127)).astype(np.float32).astype(np.float64)[:, None]


def same_bits(left, right):
    """Equal bit for bit; NaN equals itself."""
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
