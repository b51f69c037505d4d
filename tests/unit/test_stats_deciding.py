"""Non-inferiority, power and the group-sequential test; and the simulations that say how far they can be trusted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.stats import coverage
from benchmarks.stats.games import play, truth
from harness.analysis.gate.policy import GatePolicy
from harness.analysis.gate.sequential import look_result
from harness.stats.paired import (
    ClusteredEstimate,
    detectable,
    non_inferiority,
    required_n,
    required_repeats,
    student_bound,
)
from harness.stats.sequential import boundaries

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


def test_boundaries_spend_the_level_over_the_looks() -> None:
    # five equal looks at one-sided 2.5 %, as R's gsDesign prints them for sfLDOF
    bounds = boundaries((0.2, 0.4, 0.6, 0.8, 1.0), 0.025)

    assert bounds == pytest.approx((4.8769, 3.3569, 2.6803, 2.2898, 2.0310), abs=2e-4)
    assert boundaries((1.0,), 0.05) == pytest.approx((1.644854,), abs=1e-6)


def test_an_estimated_variance_widens_the_boundary() -> None:
    assert student_bound(1.644854, 10) == pytest.approx(1.812461, abs=1e-5)
    assert student_bound(40.0, 10) == math.inf


def test_looks_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="must rise"):
        boundaries((0.5, 0.5, 1.0), 0.05)


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


def test_looking_often_is_safe_with_the_boundaries_alone() -> None:
    sequential, last, repeated = coverage.look_errors(1000, 200)

    assert sequential.value <= 0.075
    assert last.value <= 0.075
    assert repeated.value >= 0.10


def test_rank_intervals_hold_the_true_rank() -> None:
    (share,) = coverage.rank_coverage(25, 100)

    assert share.value >= 0.95


def test_without_clusters_the_error_is_too_small() -> None:
    """What the reference does: games as independent rows. The reason for all of the above."""
    data, true = play(np.random.default_rng(1), 300, 150, (0.0,)), truth((0.0,))[0]
    rates = (data.above.sum(axis=1) / data.below.sum(axis=1))[:, 0]
    rows_se = np.sqrt(rates * (1 - rates) / (2 * 150))

    assert np.mean(np.abs(rates - true) <= 1.96 * rows_se) < 0.9


@pytest.mark.parametrize(("n", "answer"), [(29, "undecided"), (30, "worse")])
def test_a_few_equal_differences_decide_nothing(n: int, answer: str) -> None:
    judged = non_inferiority(ClusteredEstimate(-2.0, 0.0, n - 1, n), 1.0)

    assert judged.answer == answer
    assert judged.p_worse == (0.5 if answer == "undecided" else 0.0)


@pytest.mark.parametrize(("judged", "step"), [(60, "open"), (80, "safe")])
def test_a_strict_policy_is_safe_at_the_last_look_only(judged: int, step: str) -> None:
    clearly_better = ClusteredEstimate(3.0, 0.3, df=judged - 1, n=judged)

    assert look_result(clearly_better, 0.9, look=(judged, 80), policy=GatePolicy(strict=True)) == step
