"""Intervals of shares: of one, and of the difference of two that were seen on the same questions."""

from __future__ import annotations

import math


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share, in [0, 1] (Wilson 1927): the shares that a score test does not reject.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). All of [0, 1] for n = 0.
    """

    from scipy import special

    if n == 0:
        return 0.0, 1.0
    z = float(special.ndtri(0.5 + level / 2))
    p = successes / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def newcombe_paired(
    both: int, only_first: int, only_second: int, neither: int, level: float = 0.95
) -> tuple[float, float]:
    """Interval of (share of first) - (share of second) on the same n questions, in [-1, 1].

    Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson intervals of both shares, squared and added with
    their correlation phi, which is continuity-corrected where positive. Raises ValueError for n = 0.
    """
    n = both + only_first + only_second + neither
    if n == 0:
        raise ValueError("no question was seen with both")
    first, second = (both + only_first) / n, (both + only_second) / n
    low1, high1 = wilson(both + only_first, n, level)
    low2, high2 = wilson(both + only_second, n, level)
    phi = _phi(both, only_first, only_second, neither)
    down1, up1, down2, up2 = first - low1, high1 - first, second - low2, high2 - second
    below = math.sqrt(max(0.0, down1**2 - 2 * phi * down1 * up2 + up2**2))
    above = math.sqrt(max(0.0, up1**2 - 2 * phi * up1 * down2 + down2**2))
    return max(-1.0, first - second - below), min(1.0, first - second + above)


def _phi(a: int, b: int, c: int, d: int) -> float:
    """Correlation of the two outcomes, as method 10 has it; 0 where a margin is empty."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    top = float(a * d - b * c)
    if top > 0:
        top = max(top - (a + b + c + d) / 2, 0.0)
    return top / math.sqrt(margins)
