"""A score on an expensive judge's scale, from a cheap judge's verdicts on all questions and an audit of some. Pure.

>>> import numpy as np
>>> cheap, every = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]), np.ones(6)
>>> part = np.array([0, 1, 2, 3])  # audited; there the expensive judge agrees with the cheap one
>>> audited = audited_ratio((cheap, every), (cheap[part], every[part]), part)
>>> audited.slope, float(audited.terms.mean())
(1.0, 0.5)

With u the expensive judge's linearised terms over the n audited questions (their ratio is R), v the cheap judge's over
all N, centred there, and b the slope of u on v in the audit, the estimate is

    R - b * mean of v over the audit,    SE^2 = sum over questions of (b * v / N + [audited] * e / n)^2

with e the residuals of the regression. This is the regression estimator of two-phase sampling (Cochran 1977, section
12.6), which Angelopoulos et al. call prediction-powered with a tuned lambda (PPI++, arXiv 2311.01453). Its target is
other questions of the kind, as every interval's here: the N questions are themselves a sample, so b^2 * var(v) / N
remains, and no finite-population factor applies. (For these very N questions the variance would be
(1 - n/N) * var(e) / n.) A useless cheap judge has a slope near 0 and does no harm; a harsh or generous one does none
either, because only differences between questions count.

Each question's part of the sum, scaled, is a *term*: their mean is the estimate and their spread its error, so that two
runs with the same audit are compared by the paired differences of their terms like any two runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval
from .paired import CONFIDENCE, ratio_estimate, t_quantile, terms

Ratio = tuple[FloatArray, FloatArray]
"""Above and below of each question; the score is sum(above) / sum(below)."""


@dataclass(frozen=True)
class AuditedRatio:
    """The estimate as terms per question, and what the cheap judge was good for."""

    terms: FloatArray
    """Shape (questions,); the mean is the estimate. A single term says nothing of its question."""
    slope: float
    """Weight of the cheap judge, b."""
    correlation: float
    """Of the two judges' terms over the audit, -1..1."""
    residuals: FloatArray
    """Of the audited questions, shape (audited,)."""
    predicted: FloatArray
    """The cheap judge's part of each question, b * v; shape (questions,)."""
    at: NDArray[np.int64]
    """Positions of the audited questions."""
    effective: float
    """Questions that the expensive judge alone would need for the same standard error, at most all there are."""

    def interval(self, lowest: float, highest: float) -> Interval:
        """Return the 95 % interval of a score within lowest..highest.

        A t interval after adding two audited questions, one at each end of the scale, as Agresti and Coull 1998 do for
        a share: fifty questions of a model that wins three in a hundred say too little of their own spread. The cheap
        judge is taken to explain as much of these two as of the others: sqrt(1 - correlation^2) of their distance is
        left.
        """
        value, count = float(self.terms.mean()), len(self.at) + 2
        ends = (np.array([lowest, highest]) - value) * np.sqrt(max(0.0, 1 - self.correlation**2))
        shift = float(ends.sum()) / count
        parts = self.predicted / len(self.terms)
        parts[self.at] += (self.residuals - shift) / count
        squares = float(parts @ parts) + float(np.sum(((ends - shift) / count) ** 2))
        se = float(np.sqrt(squares * count / (count - 1)))
        half = t_quantile(0.5 + CONFIDENCE / 2, count - 1) * se
        low, high = max(lowest, value + shift - half), min(highest, value + shift + half)
        return Interval(low=min(low, value), high=max(high, value), se=se)


def audited_ratio(cheap: Ratio, expensive: Ratio, at: NDArray[np.int64]) -> AuditedRatio | None:
    """Return the expensive judge's ratio over questions like these; None with fewer than three audited questions.

    `cheap`: over all questions; `expensive`: over the audited ones, whose positions among all are `at`.
    """
    audited, questions = len(at), len(cheap[0])
    if audited < 3:
        return None
    v = terms(*cheap)
    u, seen = terms(*expensive), v[at] - v[at].mean()
    squares = float(seen @ seen)
    slope = float(u @ seen) / squares if squares > 0 else 0.0
    residuals = u - slope * seen
    # each residual as it would be without its question in the fit (HC3: MacKinnon and White 1985), because the plain
    # ones are too small by the two fitted parameters
    leverage = 1 / audited + (seen**2 / squares if squares > 0 else 0.0)
    alone = residuals / np.maximum(1 - leverage, 1 / audited)
    # whoever compares terms counts N - 1 degrees of freedom, while most of the error is the audit's
    alone *= t_quantile(0.5 + CONFIDENCE / 2, audited - 2) / t_quantile(0.5 + CONFIDENCE / 2, questions - 1)
    value = float(expensive[0].sum() / expensive[1].sum()) - slope * float(v[at].mean())
    parts = value + slope * v
    parts[at] += questions / audited * (alone - alone.mean())
    estimate = ratio_estimate(parts, np.ones(questions))
    assert estimate is not None, "there are three questions at least"
    spread = float(u.std(ddof=1))
    both = float(np.sqrt(u @ u * squares))
    return AuditedRatio(
        terms=parts,
        residuals=residuals,
        predicted=slope * v,
        at=at,
        slope=slope,
        correlation=float(u @ seen) / both if both > 0 else 0.0,
        effective=min(float(questions), (spread / estimate.se) ** 2) if estimate.se > 0 else float(questions),
    )
