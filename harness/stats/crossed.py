"""A mean over crossed questions and repeats: every question occurs in every repeat (e.g. a training seed), and both
questions and repeats are samples from larger populations.

With x of shape (Q questions, R repeats), MS_q, MS_r and MS_qr the mean squares of a two-way layout without replication,

    Var(mean) = V_q + V_r - V_qr,   V_q = MS_q / (Q R), V_r = MS_r / (Q R), V_qr = MS_qr / (Q R)

which is unbiased under additive random effects (Searle, Casella and McCulloch 1992, chapter 4), but at least V_q and
V_r; degrees of freedom by Satterthwaite (1946). An interval over questions alone ignores that another seed trains
another model; one over repeats alone ignores that other questions might have been asked.

Coverage is measured by `python -m benchmarks.stats.crossed` (docs/statistics.md): near 95 % with three repeats, less
with two if they are nearly all of the variance; an interval over questions alone can cover as little as a fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .intervals import FloatArray


@dataclass(frozen=True)
class CrossedMean:
    """A mean with its standard errors, all in the values' unit."""

    value: float
    se: float
    """Standard error over questions and repeats; over questions alone if there is one repeat."""
    df: float
    """Satterthwaite's degrees of freedom of `se`."""
    se_questions: float
    """Standard error over questions alone, as if the repeats were fixed."""
    questions: int
    repeats: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided t interval."""
        return self._interval(level, self.se, self.df)

    def interval_questions(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided t interval over questions alone."""
        return self._interval(level, self.se_questions, self.questions - 1)

    def _interval(self, level: float, se: float, df: float) -> tuple[float, float]:
        from scipy import special

        half = float(special.stdtrit(df, 0.5 + level / 2)) * se
        return self.value - half, self.value + half

    def detectable(self, power: float = 0.8) -> float:
        """Return the smallest true mean that such data distinguish from 0 with this power, at 5 %, two-sided."""
        from scipy import special

        return float(special.stdtrit(self.df, 0.975) + special.ndtri(power)) * self.se

    def p_two_sided(self) -> float:
        """Return the p-value of a true mean of 0."""
        from scipy import special

        if self.se == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * special.stdtr(self.df, -abs(self.value) / self.se))


def crossed_mean(values: FloatArray) -> CrossedMean | None:
    """Return the mean of a table of shape (questions, repeats); None with fewer than two questions."""
    questions, repeats = values.shape
    if questions < 2 or repeats < 1:
        return None
    mean = float(values.mean())
    rows, columns = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    by_question = float(rows @ rows) / (questions - 1) / questions
    if repeats == 1:
        se = math.sqrt(by_question)
        return CrossedMean(mean, se, questions - 1, se, questions, repeats)
    by_repeat = float(columns @ columns) / (repeats - 1) / repeats
    rest = values - mean - rows[:, None] - columns[None, :]
    both = float((rest**2).sum()) / ((questions - 1) * (repeats - 1)) / (questions * repeats)
    variance = max(by_question + by_repeat - both, by_question, by_repeat)
    spread = by_question**2 / (questions - 1) + by_repeat**2 / (repeats - 1)
    df = variance**2 / spread if spread else questions - 1
    return CrossedMean(mean, math.sqrt(variance), df, math.sqrt(by_question), questions, repeats)
