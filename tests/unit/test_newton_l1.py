"""The length-controlled fit's solver stops where liblinear stops, and that is near the optimum."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from harness.stats.newton_l1 import Draws, Fits, SoftRows

SEED = 123


def rows(seed: int, count: int = 400) -> SoftRows:
    rng = np.random.default_rng(seed)
    features = np.column_stack([np.tanh(rng.normal(size=count)), rng.normal(1, 2, count), np.ones(count)])
    target = 1 / (1 + np.exp(-features @ rng.normal(size=3) + rng.normal(size=count)))
    target[:20] = np.round(target[:20])  # a sure verdict is one row of liblinear's, not two
    return SoftRows(features, target, np.where(np.arange(count) < 100, 0.1, 1.0))


def test_one_feature_equals_the_optimum_by_hand() -> None:
    """Eight rows of weight 1, each three quarters won: 8 (sigmoid(b) - 0.75) + 1 = 0, so sigmoid(b) = 5/8."""
    found = Fits(SEED).fit(SoftRows(np.ones((8, 1)), np.full(8, 0.75), np.ones(8)))

    assert found[0] == pytest.approx(math.log(5 / 3), abs=1e-4)


def test_a_strong_penalty_leaves_zero() -> None:
    assert Fits(SEED).fit(SoftRows(np.ones((8, 1)), np.full(8, 0.75), np.full(8, 0.01))).tolist() == [0.0]


def test_draws_below_one_are_zero_and_every_value_below_three_comes() -> None:
    draws = Draws(1)

    assert {draws.below(1) for _ in range(50)} == {0}
    assert {draws.below(3) for _ in range(50)} == {0, 1, 2}


@pytest.mark.parametrize("seed", range(4))
def test_coefficients_equal_scikit_learns_liblinear(seed: int) -> None:
    """One random stream for ten strengths, as in the cross-validation of the reference."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    made = rows(seed)
    doubled = np.concatenate([made.features, made.features])
    won = np.repeat([1, 0], len(made.target))
    shares = np.concatenate([made.weight * made.target, made.weight * (1 - made.target)])
    stream, fits = np.random.RandomState(SEED), Fits(SEED)
    for strength in np.logspace(-4, 4, 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = linear_model.LogisticRegression(
                penalty="l1", solver="liblinear", C=strength, fit_intercept=False, random_state=stream
            ).fit(doubled, won, sample_weight=shares)
        ours = fits.fit(SoftRows(made.features, made.target, made.weight * strength))
        assert ours == pytest.approx(model.coef_[0], abs=1e-9)
