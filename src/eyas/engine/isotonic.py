"""Isotonic regression: the closest sequence that never falls."""

from collections.abc import Sequence


def isotonic(values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """The sequence without a fall that is closest to `values` in weighted least squares.

    Pool adjacent violators (Ayer et al. 1955): neighbours that fall are replaced by their weighted mean. One
    value that came out too high is corrected by those behind it, and does not raise them all.

    Args:
        values: any numbers.
        weights: above 0, one for each value; None weighs all the same.
    """
    pools: list[tuple[float, float, int]] = []  # weighted mean, weight and number of neighbours
    for value, weight in zip(values, weights or [1] * len(values), strict=True):
        mean, total, size = value, weight, 1
        while pools and pools[-1][0] > mean:
            left, left_total, left_size = pools.pop()
            mean = (left * left_total + mean * total) / (left_total + total)
            total, size = left_total + total, left_size + size
        pools.append((mean, total, size))
    return [mean for mean, _, size in pools for _ in range(size)]
