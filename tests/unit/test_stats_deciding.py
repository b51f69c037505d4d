"""Non-inferiority, power and the confidence sequence; and the simulations that say how far they can be trusted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.stats import coverage
from benchmarks.stats.games import play, truth
from benchmarks.stats.methods import confidence_sequence, half_width
from harness.stats.paired import ClusteredEstimate, detectable, non_inferiority, required_n, required_repeats
from harness.stats.sequential import best_ratio

SETS = 300


def estimate(value: float, se: float) -> ClusteredEstimate:
    return ClusteredEstimate(value, se, df=0, n=500)  # df 0: normal quantiles, 1.645 for one-sided 5 %


def test_safe_worse_and_undecided() -> None:
    # bounds are value -+ 1.645 se
    assert non_inferiority(estimate(0.0, 1.0), 2.0).answer == "safe"  # -1.645 > -2
    assert non_inferiority(estimate(-4.0, 1.0), 2.0).answer == "worse"  # -2.355 < -2
    assert non_inferiority(estimate(-1.0, 1.0), 2.0).answer == "undecided"  # -2.645 .. 0.645


def test_strict_calls_a_small_but_certain_drop_worse() -> None:
    drop = estimate(-0.5, 0.1)

    assert non_inferiority(drop, 2.0).answer == "safe"
    assert non_inferiority(drop, 2.0, strict=True).answer == "worse"


def test_undecided_names_the_questions_that_would_decide() -> None:
    # 1 away from the margin: 500 * (2.4865 * 1 / 1)^2 = 3091.3
    assert non_inferiority(estimate(-1.0, 1.0), 2.0).needed == 3092
    assert non_inferiority(estimate(-2.0, 1.0), 2.0).needed is None


def test_power_formulas_are_inverse_to_each_other() -> None:
    assert detectable(1.0) == pytest.approx(1.6449 + 0.8416, abs=1e-4)
    assert required_n(500, 1.0, detectable(1.0)) == 500
    assert required_n(500, 1.0, detectable(1.0) / 2) == 2000
    # n = 100, distance = 2.4865 * 0.15: between + within / K = 100 * 0.0225 = 2.25; (2.25 - 1) K = 5 -> 4
    assert required_repeats(1.0, 5.0, 100, 0.15 * detectable(1.0)) == 4
    assert required_repeats(3.0, 5.0, 100, 0.15 * detectable(1.0)) is None


def test_power_is_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    effect = detectable(1.0 / math.sqrt(400))  # standard deviation 1, n = 400
    theirs = power.NormalIndPower(ddof=0).power(effect, 400, 0.05, ratio=0, alternative="larger")

    assert theirs == pytest.approx(0.8, abs=1e-6)


def test_the_half_width_is_where_the_mixture_rejects() -> None:
    n, variance, ratio, alpha = 200, 1.7, 0.03, 0.05
    half = half_width(n, variance, ratio, alpha)
    grown = 1 + n * ratio
    mixture = math.exp(n * n * ratio * half * half / (2 * variance * grown)) / math.sqrt(grown)

    assert mixture == pytest.approx(1 / alpha)


def test_the_sequence_is_narrowest_where_it_was_tuned_to() -> None:
    at = best_ratio(250, 0.05)

    assert half_width(250, 1.0, at, 0.05) < min(half_width(250, 1.0, at * 2, 0.05), half_width(250, 1.0, at / 2, 0.05))


def test_no_bounds_before_the_variance_is_known() -> None:
    assert confidence_sequence(10, 1.0, 0.1, planned=500).low == -math.inf


# Quick versions of `make bench-stats`: 300 data sets. 95 % seen in 300 has a standard error of 1.3 points.


@pytest.mark.parametrize("study", coverage.COVERAGE)
def test_intervals_hold_the_truth_nineteen_times_in_twenty(study: coverage.Study) -> None:
    for share in study(SETS, 150):
        assert 0.91 <= share.value <= 0.985, share


def test_false_alarms_are_at_most_nominal() -> None:
    for share in coverage.false_alarms(SETS, 100, flips=199):
        assert share.value <= 0.09, share


def test_a_true_drop_of_the_margin_rarely_passes() -> None:
    for share in coverage.margin_errors(SETS, 150):
        assert share.value <= 0.09, share


def test_looking_at_every_question_is_safe_with_the_sequence_alone() -> None:
    always, side, ordinary = coverage.sequence_coverage(120, 200)

    assert always.value >= 0.93
    assert side.value >= 0.90
    assert ordinary.value <= 0.85


def test_rank_intervals_hold_the_true_rank() -> None:
    (share,) = coverage.rank_coverage(25, 100)

    assert share.value >= 0.95


def test_without_clusters_the_error_is_too_small() -> None:
    """What the reference does: games as independent rows. The reason for all of the above."""
    data, true = play(np.random.default_rng(1), 300, 150, (0.0,)), truth((0.0,))[0]
    rates = (data.above.sum(axis=1) / data.below.sum(axis=1))[:, 0]
    rows_se = np.sqrt(rates * (1 - rates) / (2 * 150))

    assert np.mean(np.abs(rates - true) <= 1.96 * rows_se) < 0.9
