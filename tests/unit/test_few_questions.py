"""Intervals of few questions contain the truth: a quick look at the grid that `make bench-stats` prints."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stats.few import correction_shares, kappa_share, paired_cell, single_cell
from harness.analysis.differences import refitted
from harness.records.protocols import Refits
from harness.suites.scoring import QuestionSums

SETS = 300
NEARLY_PERFECT = np.array([10.0] * 70 + [9.0] * 6 + [5.0, 3.0, 1.0, 1.0])
WEAK = np.array([0.0] * 380 + [1.0] * 20)


def sums(values: np.ndarray, bounds: tuple[float, float]) -> QuestionSums:
    ids = tuple(map(str, range(len(values))))
    return QuestionSums("score", 1.0, ids, values.astype(np.float64), np.ones(len(values)), bounds)


@pytest.mark.parametrize("size", [5, 10, 20, 50])
def test_a_score_of_few_questions_is_within_its_interval(size: int) -> None:
    for model in (sums(NEARLY_PERFECT, (1, 10)), sums(WEAK, (0, 1))):
        cell = single_cell(model, size, SETS)
        assert cell.covered >= 0.92  # 0.95 less two standard errors of 300 data sets
        assert cell.plain < cell.covered


@pytest.mark.parametrize("size", [5, 10, 20])
def test_a_difference_of_few_questions_is_within_its_interval(size: int) -> None:
    rng = np.random.default_rng(0)
    first, second = (sums(rng.choice(NEARLY_PERFECT, 80), (1, 10)) for _ in range(2))

    assert paired_cell(first, second, size, SETS).covered >= 0.92


def test_a_fitted_rate_of_few_questions_is_no_more_certain_than_a_paired_difference_of_as_many() -> None:
    """20 instructions that both win: as if one were lost and one won besides, 100 sqrt(2 / (21 * 22)) = 6.58."""
    resamples = np.linspace(99.0, 99.2, 400)

    row = refitted(Refits("lc_win_rate", (99.1, 99.1), (resamples, resamples[::-1]), 20))

    assert row.se == pytest.approx(100 * (2 / 462) ** 0.5)
    assert row.df == 19
    assert (row.ci_low, row.ci_high) == pytest.approx((-2.093 * row.se, 2.093 * row.se), rel=1e-3)
    assert row.p == 1.0


def test_kappa_and_corrections_of_few_rows_are_within_their_intervals() -> None:
    assert kappa_share((0.93, 0.07), 0.4, 20, SETS) >= 0.92
    assert min(correction_shares(0.9, 50, SETS)) >= 0.9
