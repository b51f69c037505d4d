"""The power of a paired comparison: the smallest detectable difference, and the questions or repeats that one needs.

With omega^2 the variance between questions of the true difference, and s_A^2 / K_A, s_B^2 / K_B the variances within a
question of each model's score over K answers or judgments:

    delta_min = (z_(1-alpha) + z_power) * sqrt( (omega^2 + s_A^2 / K_A + s_B^2 / K_B) / n )

(Miller 2024, arXiv 2411.00640, section 5). Alpha is one-sided, as a gate looks for a drop. Limits: it uses normal
quantiles, good from about 30 questions, and takes the variances as known.
"""

from __future__ import annotations

import math

ALPHA = 0.05
POWER = 0.8


def quantiles(alpha: float = ALPHA, power: float = POWER) -> float:
    """Return z_(1-alpha) + z_power: 2.486 for 5 %, one-sided, and 80 %."""
    from scipy import special

    return float(special.ndtri(1 - alpha) + special.ndtri(power))


def detectable(se: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest true difference detected with this power, in the unit of its standard error."""
    return quantiles(alpha, power) * se


def required_n(n: int, se: float, distance: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return the questions needed to distinguish a value from a bound `distance` away; None if the distance is 0.

    n questions of the same kind have the standard error `se`.
    """
    if distance == 0:
        return None
    return max(2, math.ceil(n * (quantiles(alpha, power) * se / distance) ** 2))


def required_repeats(
    between: float,
    within: float,
    n: int,
    distance: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    """Return the repeats per question needed on the same n questions; None if no number of repeats is enough.

    between: variance over questions of the true difference (omega^2); within: variance of one repeat's difference about
    its question's own (s_A^2 + s_B^2).
    """
    room = n * (distance / quantiles(alpha, power)) ** 2 - between
    if room <= 0:
        return None
    return max(1, math.ceil(within / room))
