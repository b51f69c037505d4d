"""Style control: features worked out by hand, and fits against scikit-learn's where it has the same loss."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.intervals import FloatArray
from harness.stats.style_control import (
    Elements,
    Formula,
    StyledBattles,
    fit_style,
    raw_features,
    refits,
    row_resamples,
    scale,
    style_features,
    style_rate,
)


def two(first: list[float], second: list[float]) -> StyledBattles:
    one = np.ones(1)
    return StyledBattles(2, np.array([0]), np.array([1]), one, one, np.array([first]), np.array([second]))


def pool(count: int = 3000, models: int = 5, baselines: int = 1, seed: int = 0) -> StyledBattles:
    """Battles won the more often the longer the answer and the stronger the model."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(baselines, models, count), rng.integers(0, baselines, count)
    ours, theirs = rng.poisson((500, 4, 9, 6), (count, 4)), rng.poisson((450, 4, 9, 6), (count, 4))
    edge = 0.3 * (first - 2) + 0.01 * (ours[:, 0] - theirs[:, 0])
    points = (rng.random(count) < 1 / (1 + np.exp(-edge))).astype(float)
    points[::10] = 0.5
    weight = np.where(rng.random(count) < 0.3, 3.0, 1.0)
    return StyledBattles(models, first, second, points, weight, ours.astype(float), theirs.astype(float))


def test_v01_features_are_differences_over_sums_plus_one() -> None:
    found = raw_features(two([300, 3, 0, 1], [100, 1, 0, 2]), "v0.1")

    assert found[0] == pytest.approx([200 / 401, 2 / 5, 0, -1 / 4])


def test_v2_features_are_of_densities_and_length_has_no_plus_one() -> None:
    found = raw_features(two([299, 3, 0, 0], [99, 1, 0, 2]), "v2.0")

    ours, theirs = 3 / 300, 1 / 100
    assert found[0] == pytest.approx([200 / 398, (ours - theirs) / (ours + theirs + 1), 0, -0.02 / 1.02])


@pytest.mark.parametrize("formula", ["v0.1", "v2.0"])
def test_features_are_scaled_over_rows_by_population_or_sample(formula: Formula) -> None:
    # one row of 0, three of 4: mean 3, deviations -3 (once) and 1 (thrice): squares 9 + 3 = 12
    found, scaling = scale(np.array([[0.0], [4.0]]), np.array([1.0, 3.0]), formula)

    assert scaling.mean == pytest.approx([3.0])
    assert scaling.spread == pytest.approx([np.sqrt(12 / (4 if formula == "v0.1" else 3))])
    assert found.ravel() == pytest.approx([-3 / scaling.spread[0], 1 / scaling.spread[0]])


def test_a_feature_that_never_varies_is_zero() -> None:
    found, _ = scale(np.full((3, 1), 7.0), np.ones(3), "v2.0")

    assert found.ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize(("elements", "width"), [("style", 4), ("length", 1), ("markdown", 3)])
def test_length_and_markdown_alone_work(elements: Elements, width: int) -> None:
    battles = pool()
    features, scaling = style_features(battles, "v2.0", elements)

    fit = fit_style(battles, features, "v2.0")

    assert fit.converged
    assert len(fit.coefficients) == len(scaling.mean) == width
    assert fit.strengths.mean() == pytest.approx(0.0, abs=1e-6)
    if elements != "markdown":
        assert fit.coefficients[0] > 0.1  # length wins in this pool, and was planted


@pytest.mark.parametrize("formula", ["v0.1", "v2.0"])
@pytest.mark.parametrize("baselines", [1, 2])
def test_the_fit_is_the_minimum_that_scikit_learn_finds(formula: Formula, baselines: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    battles = pool(baselines=baselines)
    features, _ = style_features(battles, formula, "style")

    fit = fit_style(battles, features, formula)

    rows = np.repeat(np.arange(len(battles.weight)), battles.weight.astype(int))
    unit = np.log(10) if formula == "v0.1" else 1.0
    design = np.zeros((len(rows), battles.models + 4))
    design[np.arange(len(rows)), battles.first[rows]] = unit
    design[np.arange(len(rows)), battles.second[rows]] = -unit
    design[:, battles.models :] = features[rows]
    won = np.concatenate((battles.points[rows] >= 0.5, battles.points[rows] > 0.5))
    model = linear.LogisticRegression(
        fit_intercept=False, C=1.0 if formula == "v0.1" else np.inf, tol=1e-10, max_iter=5000
    ).fit(np.concatenate((design, design)), won)
    strengths = model.coef_[0, : battles.models] * unit
    assert fit.converged
    assert _from_first(fit.strengths) == pytest.approx(_from_first(strengths), abs=1e-5)
    assert fit.coefficients == pytest.approx(model.coef_[0, battles.models :], abs=1e-5)


def _from_first(strengths: FloatArray) -> FloatArray:
    found: FloatArray = strengths - strengths[0]
    return found


def test_refits_surround_the_fit_and_all_rows_are_drawn() -> None:
    battles = pool(600)
    features, _ = style_features(battles, "v2.0", "style")
    fit = fit_style(battles, features, "v2.0")

    weights = list(row_resamples(battles, 20, seed=42))
    rates = style_rate(refits(battles, features, "v2.0", fit, weights), 0)

    assert {float(one.sum()) for one in weights} == {float(battles.weight.sum())}
    assert rates[:, 0] == pytest.approx(np.full(20, 50.0))
    at = style_rate(fit.strengths, 0)
    assert (rates.min(axis=0)[1:] < at[1:]).all()
    assert (rates.max(axis=0)[1:] > at[1:]).all()
