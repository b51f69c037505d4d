"""Test the gate: put known drops into real paired questions, and count its verdicts. Pure.

>>> ids, wins = tuple(map(str, range(100))), np.array([1.0, 0.0, 1.0, 1.0] * 25)
>>> first, second = (QuestionSums("rate", 100.0, ids, row, np.ones(100)) for row in (wins, wins[::-1]))
>>> rows = power_rows([(first, second)], margin=10.0, policy=GatePolicy(), trials=10)
>>> [row.drop for row in rows]  # in the metric's unit
[0.0, 5.0, 10.0, 20.0]

Questions of a real pair of models are drawn with replacement and a coin decides whose answer is whose. The true
difference is then exactly 0, while ties, weights and the correlation of the two stay real. Then each question of the
candidate is lost with probability q = drop / (rate - lowest), so that the true drop is exactly that (injected flips).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...records import Record
from ...records.errors import ConfigError
from ...stats.intervals import FloatArray
from ...stats.paired import ClusteredEstimate, non_inferiority, paired_difference
from ...suites.scoring import QuestionSums, common
from .policy import GatePolicy

DROPS = (0.0, 0.5, 1.0, 2.0)
"""In multiples of the margin."""
TRIALS = 400


class PowerRow(Record):
    """How often each verdict occurred at one true drop, as shares of `trials`, 0..1."""

    metric: str
    margin: float
    drop: float
    """True drop in the metric's unit."""
    questions: int
    trials: int
    passed: float
    failed: float
    inconclusive: float


@dataclass(frozen=True)
class RunPair:
    """Two models on the same questions."""

    first: QuestionSums
    second: QuestionSums

    @property
    def room(self) -> float:
        """Return how far the mean of both models is above the lowest score."""
        above = float((self.first.above + self.second.above).sum())
        below = float((self.first.below + self.second.below).sum())
        return self.first.scale * above / below - self.lowest if below else 0.0

    @property
    def lowest(self) -> float:
        return 0.0 if self.first.bounds is None else self.first.scale * self.first.bounds[0]

    def drawn(self, size: int, drop: float, rng: np.random.Generator) -> FloatArray:
        """Return `size` drawn questions with swapped models and a true drop of `drop`.

        Shape (size, 4): above and below of the baseline, then of the candidate.
        """
        table = np.column_stack([self.first.above, self.first.below, self.second.above, self.second.below])
        questions = table[rng.integers(len(table), size=size)]
        # swapping by a coin makes the two models equal while their ties and correlation stay
        swapped = rng.random(size) < 0.5
        questions[swapped] = questions[swapped][:, [2, 3, 0, 1]]
        lost = rng.random(size) < drop / self.room
        questions[lost, 2] = self.lowest / self.first.scale * questions[lost, 3]
        return questions

    def difference(self, questions: FloatArray) -> ClusteredEstimate:
        """Return candidate minus baseline on drawn questions, of which there must be two at least."""
        baseline, candidate = (questions[:, 0], questions[:, 1]), (questions[:, 2], questions[:, 3])
        estimate = paired_difference(candidate, baseline, scale=self.first.scale, bounds=self.first.bounds)
        assert estimate is not None, "a pair has two questions at least"
        return estimate


def power_rows(
    pairs: Sequence[tuple[QuestionSums, QuestionSums]],
    margin: float,
    policy: GatePolicy,
    *,
    trials: int = TRIALS,
    questions: int | None = None,
    seed: int = 0,
) -> list[PowerRow]:
    """Return one row per drop, over all pairs. `questions` are drawn per trial (None: as many as the pair has).

    Pairs too weak to lose twice the margin are left out; raise ConfigError if none is left.
    """
    shared = [pair for pair in (RunPair(*common(pair)) for pair in pairs) if pair.room > max(DROPS) * margin]
    if not shared:
        raise ConfigError(f"no pair of runs scores high enough to lose {max(DROPS) * margin:g}")
    rng = np.random.default_rng(seed)
    rows = []
    for times in DROPS:
        outcomes: Counter[str] = Counter()
        for pair in shared:
            for _ in range(trials):
                estimate = pair.difference(pair.drawn(questions or len(pair.first.ids), times * margin, rng))
                judged = non_inferiority(estimate, margin, alpha=policy.alpha, strict=policy.strict)
                outcomes[judged.answer] += 1
        total = outcomes.total()
        rows.append(
            PowerRow(
                metric=shared[0].first.metric,
                margin=margin,
                drop=times * margin,
                questions=questions or round(float(np.mean([len(pair.first.ids) for pair in shared]))),
                trials=total,
                passed=outcomes["safe"] / total,
                failed=outcomes["worse"] / total,
                inconclusive=outcomes["undecided"] / total,
            )
        )
    return rows
