"""Bradley-Terry: the fit, its closed form, and the reference's own committed bootstrap rounds."""

from __future__ import annotations

import json
import lzma
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.stats.bradley_terry import (
    Battles,
    counted,
    drawn_sums,
    fit_strengths,
    hub,
    reference_interval,
    reference_rounds,
    row_interval,
    star_strengths,
    v2_row_interval,
    win_rate,
)
from harness.stats.intervals import FloatArray

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
published = pytest.mark.skipif(not PUBLISHED, reason="HARNESS_PUBLISHED names the folder of published judgments")
BOOTSTRAPS = Path(PUBLISHED or "", "arena_hard", "exact_bootstrap")
ROUNDS = {
    "jack_27a0_unanchored": 1e-3,
    "jack_755e_unanchored": 1e-3,
    "myashka_gpt4-1106judge": 1e-3,
    "r4dm_selfbattles": 0.1,
    "wetzel_39ec": 1e-3,
    "wetzel_52be": 1e-3,
    "wetzel_e926": 1e-3,
}


def points(*rows: tuple[float, ...]) -> FloatArray:
    return np.array(rows, dtype=np.float64)


def battles(*rows: tuple[int, int, int], models: int = 2) -> Battles:
    first, second, result = (np.array(column) for column in zip(*rows, strict=True))
    return Battles(tuple(str(model) for model in range(models)), first, second, result)


def test_strength_against_one_opponent_is_the_logit_of_the_win_rate() -> None:
    # model 1 took 3 points of 4 from model 0
    table = points((0, 1), (3, 0))

    assert fit_strengths(table)[1] == pytest.approx(math.log(3))
    assert star_strengths(points((0, 0), (3, 1)), 0)[1] == pytest.approx(math.log(3))


def test_a_pool_with_two_baselines_is_fitted_through_both() -> None:
    # 1 beats 0 three times of four, 2 beats 1 three times of four, 0 and 2 never met
    table = points((0, 1, 0), (3, 0, 1), (0, 3, 0))

    assert fit_strengths(table) == pytest.approx([0.0, math.log(3), 2 * math.log(3)])
    assert hub(battles((0, 1, 2), (1, 2, 0), (2, 0, 1), models=3)) is None


def test_a_cycle_of_equal_wins_leaves_all_equal() -> None:
    table = points((0, 2, 1), (1, 0, 2), (2, 1, 0))

    assert fit_strengths(table) == pytest.approx([0.0, 0.0, 0.0])


def test_a_model_without_won_and_lost_points_has_no_strength() -> None:
    table = points((0, 1, 0, 0), (1, 0, 0, 0), (5, 0, 0, 0), (0, 0, 0, 0))  # 2 only wins, 3 never plays

    found = fit_strengths(table)

    assert found[:2] == pytest.approx([0.0, 0.0])
    assert np.isnan(found[2:]).all()
    assert fit_strengths(table[2:, 2:], anchor=0)[0] == 0.0


def test_ties_are_half_to_each_and_self_battles_nothing() -> None:
    table = counted(battles((0, 1, 1), (0, 1, 2), (1, 0, 2), (0, 0, 2)))

    assert table.tolist() == [[0, 1.5], [1.5, 0]]


def test_win_rate_of_400_elo_is_ten_to_one() -> None:
    assert win_rate(np.array([1000.0, 1400.0])) == pytest.approx([50.0, 100 * 10 / 11])


def test_unanchored_rounds_have_mean_1000_and_anchored_ones_the_baseline_there() -> None:
    rows = battles(*[(0, 1, 2), (0, 1, 0), (0, 1, 1)] * 30)

    assert reference_rounds(rows).mean(axis=1) == pytest.approx(np.full(100, 1000.0))
    assert reference_rounds(rows, baseline="0")[:, 0].tolist() == [1000.0] * 100


def test_a_model_missing_from_a_round_has_no_interval() -> None:
    rows = battles((0, 2, 0), *[(0, 1, 2), (0, 1, 0)] * 30, models=3)

    ends = reference_interval(reference_rounds(rows, baseline="0"))

    assert np.isnan(ends[:, 2]).all()
    assert not np.isnan(ends[:, 1]).any()


def test_general_fit_of_rounds_equals_their_closed_form() -> None:
    rng = np.random.default_rng(1)
    rows = Battles(tuple("abcd"), np.zeros(900, int), rng.integers(1, 4, 900), rng.integers(0, 3, 900))
    table = counted(rows)

    assert fit_strengths(table) == pytest.approx(star_strengths(np.stack((table[:, 0], table[0]), axis=-1), 0))


def test_one_models_rows_have_an_interval_around_its_score() -> None:
    found = row_interval([1.0, 0.0, 0.5] * 50, [3.0, 1.0, 1.0] * 50)
    later = v2_row_interval([1.0, 0.0, 0.5] * 50, [3.0, 1.0, 1.0] * 50)

    assert found is not None
    assert later is not None
    assert found.low < 70.0 < found.high  # 3.5 points of 5
    assert later.middle == pytest.approx(70.0, abs=1.0)
    assert found.low < later.low < later.high < found.high  # 90 % inside 95 %
    assert row_interval([], []) is None
    assert v2_row_interval([], []) is None


@pytest.mark.parametrize("size", [1, 2, 3, 700, 1024])
def test_drawn_sums_are_those_of_numpys_legacy_draws(size: int) -> None:
    values = np.arange(size) % 3
    rng = np.random.RandomState(7)

    assert drawn_sums(values, 5, 7).tolist() == [values[rng.randint(0, size, size)].sum() for _ in range(5)]


@pytest.mark.parametrize("flipped", [False, True])
def test_rounds_of_two_models_are_those_of_the_pool_with_a_third_that_never_plays(flipped: bool) -> None:
    rng = np.random.default_rng(2)
    sides = rng.integers(0, 2, 300) if flipped else np.zeros(300, int)
    two = Battles(("base", "m"), sides, 1 - sides, rng.integers(0, 3, 300))
    three = replace(two, names=("base", "m", "none"))

    assert reference_rounds(two, baseline="base") == pytest.approx(reference_rounds(three, baseline="base")[:, :2])


@published
@pytest.mark.parametrize(("name", "tolerance"), ROUNDS.items())
def test_the_references_own_hundred_rounds_are_reproduced(name: str, tolerance: float) -> None:
    rows = _lines(BOOTSTRAPS / f"{name}.battles.jsonl.xz")
    committed = _lines(BOOTSTRAPS / f"{name}.bootstrap100.jsonl.xz")
    names = tuple(dict.fromkeys(row[side] for row in rows for side in ("model_a", "model_b")))
    first, second = (np.array([names.index(row[side]) for row in rows]) for side in ("model_a", "model_b"))
    result = np.array([{"model_a": 2, "model_b": 0}.get(row["winner"], 1) for row in rows])
    table = Battles(names, first, second, result)

    found = reference_rounds(table, baseline=None if "unanchored" in name else rows[0]["model_a"])

    assert hub(table) == first[0]
    expected = np.array([[float(row[model]) for model in names] for row in committed])
    assert np.max(np.abs(found - expected)) < tolerance


def _lines(path: Path) -> list[dict[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
