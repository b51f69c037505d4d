"""What a paired comparison can see: the smallest difference, and the questions or repeats that a given one needs.

With omega^2 the variance between questions of the true difference, and s_A^2 / K_A, s_B^2 / K_B the variances within a
question of each model's score over K answers or judgments:

    delta_min = (z_(1-alpha) + z_power) * sqrt( (omega^2 + s_A^2 / K_A + s_B^2 / K_B) / n )

(Miller 2024, arXiv 2411.00640, section 5). One-sided alpha: a gate looks for a drop. Limits: normal quantiles, so use
from about 30 questions on; the variances are taken as known.
"""

from __future__ import annotations

import math

ALPHA = 0.05
POWER = 0.8


def quantiles(alpha: float = ALPHA, power: float = POWER) -> float:
    """z_(1-alpha) + z_power: 2.486 for 5 %, one-sided, and 80 %."""

    from scipy import special

    return float(special.ndtri(1 - alpha) + special.ndtri(power))


def detectable(se: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that is seen with this power, in the unit of its standard error."""
    return quantiles(alpha, power) * se


def required_n(n: int, se: float, distance: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Questions of the same kind needed to tell a true value `distance` away from a bound, given that n of them have
    the error `se`; None for no distance at all."""
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
    """Repeats of every question needed on the same n questions; None where no number of repeats is enough.

    between: variance over questions of the true difference (omega^2); within: variance of one repeat's difference about
    its question's own (s_A^2 + s_B^2).
    """
    room = n * (distance / quantiles(alpha, power)) ** 2 - between
    if room <= 0:
        return None
    return max(1, math.ceil(within / room))
