"""What quantising to K-quants and IQ4 should give: the published rules in float64, and brute force.

Written from the rules alone, in NumPy, without a thought to speed or layout: the results are weights.
"""

import numpy as np

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.0])


def whole(bits):
    half = 1 << (bits - 1)
    return lambda x: np.clip(np.rint(x), -half, half - 1)


def nonlinear(x):
    return IQ4[np.searchsorted((IQ4[1:] + IQ4[:-1]) / 2, x, side="right")]


# Format: weights that share a factor or a line, then what the rules of its kind need.
FACTORS = {  # levels, the lowest of them, step and number of steps of the search, lowest integer of a factor
    "Q6_K": (16, whole(6), -32, 0.1, 9, -128),
    "Q3_K": (16, whole(3), -4, 0.1, 9, -32),
    "IQ4_XS": (32, nonlinear, -127, 1.0, 7, -32),
    "IQ4_NL": (32, nonlinear, -127, 1.0, 7, None),
}
LINES = {  # highest integer, where the search begins, its steps, whether errors are absolute, most of a scale
    "Q2_K": (16, 3, -0.5, 15, True, 15),
    "Q4_K": (32, 15, -1.0, 20, False, 63),
    "Q5_K": (32, 31, -0.5, 15, False, 63),
}


def quantised(weights, name):
    """The values that (n, k) weights have after quantising and dequantising."""
    rule = _by_factors if name in FACTORS else _by_lines
    return rule(weights.astype(np.float64), name).reshape(weights.shape)


def brute_force(weights, name, tries=400):
    """The values of least squares with unrounded scales, each part fitted by trying very many of them."""
    parts = weights.astype(np.float64).reshape(-1, (FACTORS.get(name) or LINES[name])[0])
    best, least = np.zeros_like(parts), np.square(parts).sum(1)
    low, high = np.minimum(parts.min(1), 0)[:, None], parts.max(1)[:, None]
    furthest = _furthest(parts)[:, None]
    for stretch in np.linspace(0.5, 1.5, tries):
        if name in FACTORS:
            _, levels, lowest, *_ = FACTORS[name]
            chosen = levels(_ratio(parts * lowest * stretch, furthest))
            lines = (_ratio((parts * chosen).sum(1), np.square(chosen).sum(1))[:, None] * chosen,)
        else:
            top = LINES[name][1]
            lines = tuple(
                _least_squares(
                    parts, np.clip(np.rint(_ratio((parts - start) * top * stretch, high - low)), 0, top)
                )
                for start in (low, low * stretch)
            )
        for values in lines:
            error = np.square(values - parts).sum(1)
            better = error < least
            best[better], least[better] = values[better], error[better]
    return best.reshape(weights.shape)


def _by_factors(weights, name):
    size, levels, lowest, step, steps, lowest_integer = FACTORS[name]
    parts = weights.reshape(-1, size)
    furthest = _furthest(parts)
    factor, best = np.zeros(len(parts)), np.zeros(len(parts))
    for index in range(-steps, steps + 1):
        chosen = levels(_ratio(parts * (lowest - step * index), furthest[:, None]))
        product = (parts**3 * chosen).sum(1)  # errors count by the weight's square
        square = (parts**2 * chosen**2).sum(1)
        gain = _ratio(product**2, square)
        factor, best = np.where(gain > best, _ratio(product, square), factor), np.maximum(gain, best)
    if lowest_integer is None:
        factor = _half(factor)
    else:
        blocks = factor.reshape(-1, 256 // size)
        unit = _half(_furthest(blocks) / lowest_integer)[:, None]
        integers = np.clip(np.rint(_ratio(blocks, unit)), lowest_integer, -lowest_integer - 1)
        factor = (integers * unit).reshape(-1)
    return factor[:, None] * levels(_ratio(parts, factor[:, None]))


def _by_lines(weights, name):
    size, top, first, steps, is_absolute, most = LINES[name]
    parts = weights.reshape(-1, size)
    count = np.abs(parts)
    if not is_absolute:
        count = count + np.sqrt(np.square(parts).mean(1))[:, None]
    low, high = np.minimum(parts.min(1), 0), parts.max(1)

    def error(values):
        off = np.abs(values - parts)
        return (count * (off if is_absolute else off**2)).sum(1)

    def choose(inverse):
        return np.clip(np.rint(_ratio((parts - low[:, None]) * inverse, (high - low)[:, None])), 0, top)

    scale, offset = (high - low) / top, -low
    least = error(choose(top) * scale[:, None] - offset[:, None])
    for index in range(steps + 1):
        chosen = choose(top + first + 0.1 * index)
        own, start = _weighted_line(parts, chosen, count)
        found = error(chosen * own[:, None] - start[:, None])
        better = found < least
        scale, offset = np.where(better, own, scale), np.where(better, start, offset)
        least = np.minimum(found, least)
    scale, offset = (_by_integers(part, 256 // size, most) for part in (scale, offset))
    chosen = np.clip(np.rint(_ratio(parts + offset[:, None], scale[:, None])), 0, top)
    return chosen * scale[:, None] - offset[:, None]


def _by_integers(values, count, most):
    """Values as integers up to `most` times a half of each `count` of them."""
    blocks = values.reshape(-1, count)
    unit = _half(np.maximum(blocks.max(1), 0) / most)[:, None]
    return (np.clip(np.rint(_ratio(blocks, unit)), 0, most) * unit).reshape(-1)


def _weighted_line(parts, chosen, count):
    s, x, q = count.sum(1), (count * parts).sum(1), (count * chosen).sum(1)
    qq, qx = (count * chosen**2).sum(1), (count * chosen * parts).sum(1)
    determinant = s * qq - q * q
    scale, offset = _ratio(s * qx - x * q, determinant), _ratio(q * qx - qq * x, determinant)
    is_above = offset < 0
    return np.where(is_above, _ratio(qx, qq), scale), np.where(is_above, 0, offset)


def _least_squares(parts, chosen):
    scale, offset = _weighted_line(parts, chosen, np.ones_like(parts))
    return chosen * scale[:, None] - offset[:, None]


def _furthest(parts):
    return np.take_along_axis(parts, np.abs(parts).argmax(1)[:, None], 1)[:, 0]


def _half(values):
    return values.astype(np.float16).astype(np.float64)


def _ratio(above, below):
    below = np.broadcast_to(below, np.shape(above))
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)
