"""The error of a mean over questions and training seeds at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats.variance import crossed_mean


def test_one_repeat_is_the_t_interval_over_questions() -> None:
    values = np.array([[0.0], [1.0], [2.0], [5.0]])

    found = crossed_mean(values)

    assert found is not None
    assert found.interval() == pytest.approx(stats.t.interval(0.95, 3, loc=2.0, scale=stats.sem(values[:, 0])))
    assert found.p_two_sided() == pytest.approx(stats.ttest_1samp(values[:, 0], 0.0).pvalue)


def test_both_sources_of_variance_count() -> None:
    """Question means 1, 3, 5 and repeat means 2, 4 with nothing left over: V_q = 4/3, V_r = 1, V_qr = 0."""
    found = crossed_mean(np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]]))

    assert found is not None
    assert found.value == pytest.approx(3.0)
    assert found.se == pytest.approx(math.sqrt(4 / 3 + 1))
    assert found.se_questions == pytest.approx(math.sqrt(4 / 3))
    assert found.df == pytest.approx((7 / 3) ** 2 / ((4 / 3) ** 2 / 2 + 1))
    quantiles = stats.t.ppf(0.975, found.df) + stats.norm.ppf(0.8)
    assert found.detectable() == pytest.approx(quantiles * math.sqrt(7 / 3))


def test_what_questions_and_repeats_share_is_counted_once() -> None:
    """All means 0, residuals +1 and -1: V_q = V_r = 0, so the mean is certain and no p can doubt it."""
    found = crossed_mean(np.array([[1.0, -1.0], [-1.0, 1.0]]))

    assert found is not None
    assert (found.value, found.se, found.p_two_sided()) == (0.0, 0.0, 1.0)


def test_one_question_has_no_error() -> None:
    assert crossed_mean(np.array([[1.0, 2.0]])) is None


@pytest.mark.parametrize(("between_questions", "between_seeds", "least"), [(1.0, 0.0, 0.94), (1.0, 0.3, 0.90)])
def test_the_interval_covers_as_it_says(between_questions: float, between_seeds: float, least: float) -> None:
    rng = np.random.default_rng(0)
    hits, only_questions, draws = 0, 0, 1000
    for _ in range(draws):
        table = between_questions * rng.standard_normal((200, 1)) + between_seeds * rng.standard_normal((1, 3))
        found = crossed_mean(table + rng.standard_normal((200, 3)))
        assert found is not None
        hits += found.interval()[0] < 0 < found.interval()[1]
        only_questions += found.interval_questions()[0] < 0 < found.interval_questions()[1]

    assert hits / draws >= least
    if between_seeds:
        assert only_questions / draws < 0.7  # what an interval over questions alone would have claimed
