"""Block formats and their products in NumPy, slowly and plainly (docs/laws.md, L8).

A block holds integers q, a scale d * scale[r] for each run r of 16 or 32 of them, and in some formats a
minimum dmin * min[r]. The layouts are those of ggml's published structures (ggml-common.h).
"""

from typing import NamedTuple

import numpy as np

HALF_TYPE = np.dtype("<f2")
UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
TWICE_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])

# Weights and bytes of a block, and where its halves lie (d, then dmin).
LAYOUTS = {
    "Q4_0": (32, 18, (0,)),
    "Q4_1": (32, 20, (0, 2)),
    "Q5_0": (32, 22, (0,)),
    "Q5_1": (32, 24, (0, 2)),
    "Q8_0": (32, 34, (0,)),
    "Q2_K": (256, 84, (80, 82)),
    "Q3_K": (256, 110, (108,)),
    "Q4_K": (256, 144, (0, 2)),
    "Q5_K": (256, 176, (0, 2)),
    "Q6_K": (256, 210, (208,)),
    "IQ4_NL": (32, 18, (0,)),
    "IQ4_XS": (256, 136, (0,)),
    "MXFP4": (32, 17, ()),
}


class Blocks(NamedTuple):
    """Blocks of rows, decoded.

    Attributes:
        q: (rows, k) integers.
        scale: (rows, runs) float32, d * scale rounded.
        shift: (rows, runs) float32, -(dmin * min) rounded; None in formats without minima.
    """

    q: np.ndarray
    scale: np.ndarray
    shift: np.ndarray | None


def random_blocks(name, rows, k, generator):
    """Bytes of random blocks with finite scales: (rows, bytes of a row) uint8."""
    size, num_bytes, halves = LAYOUTS[name]
    raw = generator.integers(0, 256, (rows, k // size, num_bytes), dtype=np.uint8)
    for place in halves:
        scales = generator.normal(0, 0.01, (rows, k // size)).astype(HALF_TYPE)
        raw[:, :, place : place + 2] = scales.view(np.uint8).reshape(rows, -1, 2)
    if name == "MXFP4":
        raw[:, :, 0] = generator.integers(118, 130, (rows, k // size))
    return raw.reshape(rows, -1)


def decode(name, raw):
    """The blocks of (rows, bytes of a row)."""
    _, num_bytes, halves = LAYOUTS[name]
    b = raw.reshape(len(raw), -1, num_bytes).astype(np.int64)
    if name == "MXFP4":
        d = np.ldexp(np.float32(1), b[..., 0] - 128).astype(np.float32)
    else:
        d, *rest = (_half(raw, num_bytes, place) for place in halves)
    q, scales, minima = _DECODERS[name](b)
    scale = (d[..., None] * np.float32(scales)).astype(np.float32)
    shift = None
    if minima is not None:
        shift = np.float32(0) - (rest[0][..., None] * np.float32(minima)).astype(np.float32)
        shift = shift.reshape(len(raw), -1)
    return Blocks(q.reshape(len(raw), -1), scale.reshape(len(raw), -1), shift)


def numbers(blocks):
    """(rows, k) float32 weights."""
    runs = blocks.q.shape[1] // blocks.scale.shape[1]
    values = np.repeat(blocks.scale, runs, axis=1) * blocks.q.astype(np.float32)
    return values if blocks.shift is None else values + np.repeat(blocks.shift, runs, axis=1)


def quantised(x):
    """Activations (T, k) as products read them: int8 (T, k), and float32 scales (T, k / 32)."""
    parts = x.reshape(len(x), -1, 32)
    top = np.abs(parts).max(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(top > np.float32(1e-30), np.float32(127) / top, np.float32(0))
    values = np.rint(parts * inverse[:, :, None]).astype(np.int64)
    return values.reshape(x.shape), top / np.float32(127)


def product(blocks, x):
    """(T, rows) float32: run after run a fused multiply-add, and one for the minimum where there is one."""
    values, scales = quantised(x)
    rows, length = len(blocks.q), blocks.q.shape[1] // blocks.scale.shape[1]
    y = np.zeros((len(x), rows), dtype=np.float32)
    for run in range(blocks.scale.shape[1]):
        at = slice(run * length, (run + 1) * length)
        a = scales[:, run * length // 32][:, None]
        sums = (values[:, at] @ blocks.q[:, at].T).astype(np.float32)
        y = _fma(blocks.scale[:, run][None] * a, sums, y)
        if blocks.shift is not None:
            inputs = a * values[:, at].sum(axis=1).astype(np.float32)[:, None]
            y = _fma(blocks.shift[:, run][None], inputs, y)
    return y


def _fma(a, b, c):
    """a * b + c in float32, rounded once.

    The product of two float32 is exact in float64. Its sum with c is then rounded to odd, so that rounding it
    to float32 rounds once (Boldo and Melquiond 2008).
    """
    product = np.float64(a) * np.float64(b)
    total = product + c
    rest = total - product
    error = (product - (total - rest)) + (c - rest)  # exact: Knuth's two-sum
    bits = total.view(np.int64)
    is_even = bits & 1 == 0
    toward = np.where((error > 0) == (total > 0), 1, -1)
    odd = np.where((error != 0) & is_even, bits + toward, bits)
    return odd.view(np.float64).astype(np.float32)


def _half(raw, num_bytes, place):
    blocks = raw.reshape(len(raw), -1, num_bytes)
    return np.ascontiguousarray(blocks[..., place : place + 2]).view(HALF_TYPE)[..., 0].astype(np.float32)


def _nibbles(b):
    """Of blocks of 32: all lower ones, then all upper ones."""
    return np.concatenate([b & 15, b >> 4], axis=-1)


def _one(b):
    return np.ones((*b.shape[:-1], 1), dtype=np.int64)


def _high_bits(b):
    return b[..., np.arange(32) // 8] >> (np.arange(32) % 8) & 1


def _six_bits(s):
    """Scales and minima of Q4_K and Q5_K."""
    scales = np.concatenate([s[..., :4] & 63, (s[..., 8:] & 15) | (s[..., :4] >> 6 << 4)], axis=-1)
    minima = np.concatenate([s[..., 4:8] & 63, (s[..., 8:] >> 4) | (s[..., 4:8] >> 6 << 4)], axis=-1)
    return scales, minima


def _low_of_k(b):
    """128 bytes: four times 32 lower nibbles, then the 32 upper ones."""
    parts = b.reshape(*b.shape[:-1], 4, 32)
    return np.concatenate([parts & 15, parts >> 4], axis=-1).reshape(*b.shape[:-1], 256)


def _two_bits(b):
    """64 bytes: two halves of four times 32 fields of 2 bits."""
    halves = b.reshape(*b.shape[:-1], 2, 32)
    return np.concatenate([halves >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(
        *b.shape[:-1], 256
    )


def _high_of_k(b):
    """32 bytes, a bit for each 32 weights."""
    return np.concatenate([b >> bit & 1 for bit in range(8)], axis=-1)


def _q2_k(b):
    return _two_bits(b[..., 16:80]), b[..., :16] & 15, b[..., :16] >> 4


def _q3_k(b):
    s = b[..., 96:108]
    low = np.concatenate([s[..., :8] & 15, s[..., :8] >> 4], axis=-1)
    high = np.concatenate([s[..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    return _two_bits(b[..., 32:96]) + 4 * _high_of_k(b[..., :32]) - 4, (low | high << 4) - 32, None


def _q4_k(b):
    return _low_of_k(b[..., 16:144]), *_six_bits(b[..., 4:16])


def _q5_k(b):
    q = _low_of_k(b[..., 48:176]) + 16 * _high_of_k(b[..., 16:48])
    return q, *_six_bits(b[..., 4:16])


def _q6_k(b):
    low, high = b[..., :128].reshape(*b.shape[:-1], 2, 64), b[..., 128:192].reshape(*b.shape[:-1], 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=-1)
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    q = (low | high << 4).reshape(*b.shape[:-1], 256) - 32
    return q, b[..., 192:208].astype(np.uint8).view(np.int8).reshape(*b.shape[:-1], 16), None


def _iq4_xs(b):
    high = b[..., 2] | b[..., 3] << 8
    runs = np.arange(8)
    low = b[..., 4 + runs // 2] >> (4 * (runs % 2)) & 15
    scales = (low | (high[..., None] >> (2 * runs) & 3) << 4) - 32
    parts = b[..., 8:136].reshape(*b.shape[:-1], 8, 16)
    return UNEVEN[_nibbles(parts)].reshape(*b.shape[:-1], 256), scales, None


_DECODERS = {
    "Q4_0": lambda b: (_nibbles(b[..., 2:]) - 8, _one(b), None),
    "Q4_1": lambda b: (_nibbles(b[..., 4:]), _one(b), -_one(b)),
    "Q5_0": lambda b: (_nibbles(b[..., 6:]) + 16 * _high_bits(b[..., 2:6]) - 16, _one(b), None),
    "Q5_1": lambda b: (_nibbles(b[..., 8:]) + 16 * _high_bits(b[..., 4:8]), _one(b), -_one(b)),
    "Q8_0": lambda b: (b[..., 2:].astype(np.uint8).view(np.int8).astype(np.int64), _one(b), None),
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": lambda b: (UNEVEN[_nibbles(b[..., 2:])], _one(b), None),
    "IQ4_XS": _iq4_xs,
    "MXFP4": lambda b: (TWICE_E2M1[_nibbles(b[..., 1:])], _one(b), None),
}
