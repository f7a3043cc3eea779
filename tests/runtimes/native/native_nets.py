"""Small random networks on the compiled module, and a float64 reference of their layers. No torch."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from eyas import _native
from eyas.models.spec import Attention, GatedMLP, LayerSpec, MoE, Norm, Norms, Rope, StackSpec
from eyas.runtimes.native.layers import cache_type, make_stack
from eyas.runtimes.native.matrices import MATRICES, interleave, layer_matrix, make_matrix

KINDS = ("float32", "bfloat16", "int8")
NETS = (*KINDS, "int8/q8_0")  # of weights, or of weights and of keys and values
ISAS = _native.isas()
LIMIT = 640  # positions
ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@cache
def engine(threads=1, isa=None):
    return _native.Engine(threads, isa)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes and options of a network; odd ones on purpose."""

    hidden: int = 40
    inner: int | tuple[int, ...] = 56
    heads: int = 4
    kv_heads: int = 4
    dim: int = 8
    windows: tuple[int, ...] = (0, 0)
    biased: bool = False
    head_norms: str = "none"
    vocab: int = 61
    where: str = "pre"
    offset: float = 0.0
    activation: str = "silu"
    thetas: tuple[float | None, ...] = (1000.0,)  # of the layers in turn; None is no rotary embedding
    rotated: int | None = None  # numbers of a head; None is all
    rope_factor: float = 1.0
    scale: float | None = None
    softcap: float = 0.0
    multiplier: float = 1.0
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    experts: int = 0  # 0: MLPs
    top_k: int = 2
    normalised: bool = True

    @property
    def stack(self):
        """Its `StackSpec`."""
        return StackSpec(
            hidden_size=self.hidden,
            layers=tuple(self._layer(index) for index in range(len(self.windows))),
            final_norm=Norm(eps=1e-5, offset=self.offset),
        )

    def _layer(self, index):
        theta, rotated = self.thetas[index % len(self.thetas)], self.rotated or self.dim
        plain = None if theta is None else Rope.plain(theta, rotated)
        return LayerSpec(
            attention=Attention(
                heads=self.heads,
                kv_heads=self.kv_heads,
                head_dim=self.dim,
                rope=plain and replace(plain, factor=self.rope_factor),
                window=self.windows[index],
                scale=self.scale,
                softcap=self.softcap,
                query_key_norm=self.head_norms,
                bias=self.biased,
                output_bias=self.biased,
            ),
            mlp=self._mlp(index),
            norms=Norms(eps=1e-5, offset=self.offset, where=self.where),
            residual_multiplier=self.multiplier,
        )

    def _mlp(self, index):
        mlp = GatedMLP(size=self.inner_of(index), activation=self.activation, bias=self.biased)
        if not self.experts:
            return mlp
        return MoE(experts=self.experts, top_k=self.top_k, expert=mlp, normalised=self.normalised)

    def inner_of(self, layer):
        """Size of a layer's MLP."""
        return self.inner if isinstance(self.inner, int) else self.inner[layer]


SHAPES = {
    "plain": Shape(),
    "eight-to-one": Shape(hidden=33, inner=17, heads=8, kv_heads=1, dim=10),
    "windows": Shape(kv_heads=2, dim=34, windows=(5, 0, 5), biased=True),
    "head-norms": Shape(hidden=70, inner=33, heads=6, kv_heads=2, dim=48, head_norms="head"),
    "wide-heads": Shape(hidden=48, inner=40, heads=2, kv_heads=1, dim=256, windows=(0,)),
    "long-window": Shape(hidden=24, inner=20, heads=2, kv_heads=2, dim=16, windows=(40,)),
}
# One shape for each operation that a layer may have, and families that have several.
OPTIONS = {
    "post-norms": Shape(where="post"),
    "both-norms": Shape(where="both", hidden=33),
    "offset": Shape(offset=1.0),
    "wide-norms": Shape(hidden=24, heads=6, kv_heads=3, dim=10, head_norms="width"),
    "gelu": Shape(activation="gelu"),
    "gelu-tanh": Shape(activation="gelu_tanh"),
    "two-ropes": Shape(thetas=(1000.0, 50.0), windows=(3, 0, 7)),
    "no-rope": Shape(thetas=(None, 1000.0)),
    "part-rope": Shape(dim=34, rotated=10, rope_factor=1.2),
    "scale": Shape(scale=0.61),
    "softcap": Shape(softcap=1.5),
    "multiplier": Shape(multiplier=0.37),
    "embedding-scale": Shape(embedding_scale=3.5),
    "logits": Shape(logit_scale=0.3, logit_softcap=2.0),
    "logit-scale": Shape(logit_scale=0.3),
    "mlp-sizes": Shape(inner=(56, 17), biased=True),
    "gemma2": Shape(
        hidden=36,
        kv_heads=2,
        dim=20,
        windows=(6, 0, 6),
        where="both",
        offset=1.0,
        activation="gelu_tanh",
        scale=0.3,
        softcap=5.0,
        embedding_scale=6.0,
        logit_softcap=3.0,
    ),
    "olmo2": Shape(where="post", head_norms="width", heads=4, kv_heads=2, dim=12),
    "mixture": Shape(experts=5),
    "mixture-gelu": Shape(
        experts=6, top_k=3, normalised=False, inner=(17, 40), activation="gelu", multiplier=0.4
    ),
    "granite": Shape(multiplier=0.22, scale=0.2, embedding_scale=12.0, logit_scale=0.125, biased=True),
}
SHAPES |= OPTIONS
# Every shape on the best instruction set, those that differ most on the others.
CASES = [(ISAS[0], name) for name in SHAPES]
CASES += [(isa, name) for isa in ISAS[1:] for name in ("eight-to-one", "windows", "gemma2")]


@dataclass(frozen=True)
class Net:
    engine: _native.Engine
    stack: _native.Stack
    head: _native.LMHead
    target: _native.Target

    def new_cache(self):
        return self.stack.new_cache(LIMIT)

    def forward(self, cache_, token_ids, parents=None, last_only=False):
        """Features, and logits of all rows (or the last)."""
        return self.forward_all([(cache_, token_ids, parents, last_only)])[0]

    def forward_all(self, calls, taps=()):
        ready = [
            (c, np.asarray(ids, dtype=np.int64), None if p is None else np.asarray(p, dtype=np.int64), last)
            for c, ids, p, last in calls
        ]
        features, _ = self.target.forward(ready, taps)
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
    made["norm"] = vector(shape.hidden, 1.0 - shape.offset)
    wide = shape.head_norms == "width"
    for layer in range(len(shape.windows)):
        inner = shape.inner_of(layer)
        made |= {
            f"{layer}.qkv": matrix(query + 2 * key, shape.hidden),
            f"{layer}.output": matrix(shape.hidden, query),
            f"{layer}.gate": matrix(inner, shape.hidden),
            f"{layer}.up": matrix(inner, shape.hidden),
            f"{layer}.down": matrix(shape.hidden, inner),
            f"{layer}.query_norm": vector(query if wide else shape.dim, 1.0 - shape.offset),
            f"{layer}.key_norm": vector(key if wide else shape.dim, 1.0 - shape.offset),
            f"{layer}.qkv.bias": vector(query + 2 * key),
            f"{layer}.output.bias": vector(shape.hidden),
            f"{layer}.gate.bias": vector(inner),
            f"{layer}.up.bias": vector(inner),
            f"{layer}.down.bias": vector(shape.hidden),
        }
        for name in ("attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm"):
            made[f"{layer}.{name}"] = vector(shape.hidden, 1.0 - shape.offset)
        if shape.experts:
            made[f"{layer}.router"] = matrix(shape.experts, shape.hidden)
        for expert in range(shape.experts):
            made[f"{layer}.expert_gate.{expert}"] = matrix(inner, shape.hidden)
            made[f"{layer}.expert_up.{expert}"] = matrix(inner, shape.hidden)
            made[f"{layer}.expert_down.{expert}"] = matrix(shape.hidden, inner)
    return made


@cache
def net(name, kind="float32", isa=None, threads=1, kv_dtype="auto"):
    """A network of SHAPES.

    Args:
        name: of the shape.
        kind: a weight format, or a tuple of them: of each matrix of a layer, the LM head's is the first. One
            of NETS names the type of keys and values, too.
        isa: instruction set; None is the best.
        threads: of the engine.
        kv_dtype: of keys and values.
    """
    shape, own, machine = SHAPES[name], weights(SHAPES[name]), engine(threads, isa)
    if "/" in kind:
        kind, kv_dtype = kind.split("/")
    kinds = dict(zip(MATRICES, [kind] * 4 if isinstance(kind, str) else kind, strict=True))
    head_kind = kinds["qkv"]

    def matrix(layer, name):
        at = f"{layer}.{name}"
        if name == "router":
            return make_matrix(own[at], "float32", "a test's router")
        if name.startswith("expert"):
            rows = layer_matrix(lambda part: own[f"{layer}.{part.removesuffix('.weight')}"], name)
            kind = kinds[name.removeprefix("expert_").split(".")[0]]
            return make_matrix(rows, kind, "a test's expert")
        if name == "gate_up":
            rows = interleave(own[f"{layer}.gate"], own[f"{layer}.up"])
            bias = interleave(own[f"{layer}.gate.bias"], own[f"{layer}.up.bias"])
        else:
            rows, bias = own[at], own[at + ".bias"]
        return make_matrix(rows, kinds[name], "a test's matrix", bias if shape.biased else None)

    stack = make_stack(
        machine,
        shape.stack,
        matrices=lambda layer, name: [matrix(layer, name)],
        vector=lambda layer, name: own[f"{layer}.{name}"],
        final_norm=own["norm"],
        kv_dtype=cache_type(head_kind, kv_dtype),
    )
    table = make_matrix(own["head"], head_kind, "a test's head")
    head = _native.LMHead(machine, [table], shape.logit_scale, shape.logit_softcap)
    target = _native.Target(stack, head, own["embedding"], head_kind != "float32", shape.embedding_scale)
    return Net(machine, stack, head, target)


def reference(name, token_ids):
    """(features, logits) of a causal pass in float64, from the definitions."""
    states, logits = Reference(name, len(token_ids)).run(token_ids)
    return states[-1], logits


class Reference:
    """A network of SHAPES over `count` tokens, in float64."""

    def __init__(self, name, count):
        self.shape, self.count = SHAPES[name], count
        self.own = {key: array.astype(np.float64) for key, array in weights(self.shape).items()}
        self.ahead = np.arange(count)[:, None] - np.arange(count)[None, :]  # of a token before another

    def run(self, token_ids):
        """What enters each layer, what leaves the last one, and the features; then the logits."""
        x = self.own["embedding"][np.asarray(token_ids)] * self.shape.embedding_scale
        states = [x]
        for layer, spec in enumerate(self.shape.stack.layers):
            at = f"{layer}."
            for block, compute in (("attention", self.attention), ("mlp", self.mlp)):
                x = x + spec.residual_multiplier * self.normed(block, at, spec, compute, x)
            states.append(x)
        states.append(self.norm(x, "norm"))
        logits, cap = states[-1] @ self.own["head"].T * self.shape.logit_scale, self.shape.logit_softcap
        return states, cap * np.tanh(logits / cap) if cap else logits

    def normed(self, block, at, spec, compute, x):
        """A block with the norms before and after it."""
        before, after = f"{block}_norm", f"{block}_post_norm"
        y = compute(at, spec, self.norm(x, at + before) if before in spec.norms.names else x)
        return self.norm(y, at + after) if after in spec.norms.names else y

    def norm(self, x, at):
        factor = self.shape.offset + self.own[at]
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * factor

    def product(self, at, x):
        return x @ self.own[at].T + (self.own[at + ".bias"] if self.shape.biased else 0)

    def mlp(self, at, spec, x):
        if isinstance(spec.mlp, MoE):
            return self.mixture(at, spec.mlp, x)
        gate = ACTIVATIONS[spec.mlp.activation](self.product(at + "gate", x))
        return self.product(at + "down", gate * self.product(at + "up", x))

    def mixture(self, at, spec, x):
        """Every expert's outputs, times weights that are 0 but for the chosen."""
        logits = x @ self.own[at + "router"].T
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        least = np.sort(probs, axis=1)[:, [-spec.top_k]]
        probs[probs < least] = 0
        if spec.normalised:
            probs /= probs.sum(axis=1, keepdims=True)
        total = 0
        for expert in range(spec.experts):
            gate, up, down = (self.own[f"{at}expert_{part}.{expert}"].T for part in ("gate", "up", "down"))
            outputs = (ACTIVATIONS[spec.expert.activation](x @ gate) * (x @ up)) @ down
            total = total + probs[:, [expert]] * outputs
        return total

    def attention(self, at, layer, x):
        spec, repeat = layer.attention, self.shape.heads // self.shape.kv_heads
        parts = np.split(
            self.product(at + "qkv", x), [spec.query_size, spec.query_size + spec.key_size], axis=1
        )
        names = [at + "query_norm", at + "key_norm"]
        if spec.query_key_norm == "width":
            parts[:2] = map(self.norm, parts[:2], names)
        parts = [part.reshape(self.count, -1, spec.head_dim) for part in parts]
        if spec.query_key_norm == "head":
            parts[:2] = map(self.norm, parts[:2], names)
        queries, keys = (self.rotated(part, spec.rope) for part in parts[:2])
        keys, values = (np.repeat(part, repeat, axis=1) for part in (keys, parts[2]))
        scores = np.einsum("qhd,khd->hqk", queries, keys) * (spec.scale or spec.head_dim**-0.5)
        if spec.softcap:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        scores[:, (self.ahead < 0) | ((self.ahead >= spec.window) if spec.window else False)] = -np.inf
        probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probs /= probs.sum(axis=-1, keepdims=True)
        return self.product(at + "output", np.einsum("hqk,khd->qhd", probs, values).reshape(self.count, -1))

    def rotated(self, heads, rope):
        if rope is None:
            return heads
        frequencies = np.asarray(rope.inverse_frequencies).astype(np.float32).astype(np.float64)
        angles = np.arange(self.count)[:, None] * frequencies
        a, b, rest = np.split(heads, [rope.dim // 2, rope.dim], axis=-1)
        cos, sin = np.cos(angles)[:, None] * rope.factor, np.sin(angles)[:, None] * rope.factor
        return np.concatenate((a * cos - b * sin, b * cos + a * sin, rest), axis=-1)


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
