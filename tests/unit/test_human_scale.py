"""Models on the scale of people's votes: cases worked out by hand, and recovery in simulations."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.bradley_terry import ELO_PER_LOGIT
from harness.stats.human_scale import (
    COIN,
    PEOPLE,
    STRENGTHS,
    Contests,
    enough,
    fit_slope,
    human_scale,
    predictions,
    rateable,
)


def contests(names: tuple[str, ...], rows: list[tuple[str, str, float, int]], first_cluster: int = 0) -> Contests:
    """Rows are (first, second, points of the first, how many); each row of them is a question of its own."""
    single = [(names.index(a), names.index(b), points) for a, b, points, count in rows for _ in range(count)]
    a, b, points = (np.array(column) for column in zip(*single, strict=True))
    return Contests(names, a, b, points.astype(float), np.arange(len(single)) + first_cluster)


AB = ("a", "b")
NOTHING = Contests(AB, *(np.zeros(0, dtype=np.int64),) * 2, np.zeros(0), np.zeros(0, dtype=np.int64))


def test_two_models_are_apart_by_the_logit_of_the_win_rate() -> None:
    scale = human_scale(contests(AB, [("a", "b", 1.0, 30), ("b", "a", 1.0, 10)]), NOTHING, rounds=200)

    a, b = (measure.value for measure in scale.people)
    assert a is not None
    assert b is not None
    assert a - b == pytest.approx(400 * np.log10(3))  # 30 of 40: odds 3
    assert a + b == pytest.approx(2000)  # their mean is 1000
    assert [measure.n for measure in scale.people] == [40, 40]
    assert all(measure.value is None for measure in scale.placed)  # no verdicts


def test_a_tie_is_half_a_vote_for_each() -> None:
    votes = contests(AB, [("a", "b", 1.0, 20), ("a", "b", 0.5, 20)])  # 30 of 40 points again

    assert human_scale(votes, NOTHING, rounds=10).people[0].value == pytest.approx(1000 + 200 * np.log10(3))


def test_an_anchor_has_its_elo_and_no_interval_of_its_own() -> None:
    votes = contests(AB, [("a", "b", 1.0, 30), ("b", "a", 1.0, 10)])

    b, a = reversed(human_scale(votes, NOTHING, anchor=("b", 1114.0), rounds=100).people)
    assert b.value == 1114.0
    assert b.interval is not None
    assert b.interval.se == 0.0
    assert a.value == pytest.approx(1114 + 400 * np.log10(3))


def test_models_with_few_votes_are_left_out_and_so_are_those_that_lose_opponents_by_it() -> None:
    names = ("a", "b", "c", "d")
    # without c (20 votes), d has only the 15 against a
    votes = contests(names, [("a", "b", 1.0, 40), ("c", "d", 1.0, 20), ("d", "a", 1.0, 15)])

    assert enough(votes).tolist() == [True, True, False, False]


def test_a_model_that_won_every_vote_cannot_be_rated() -> None:
    names = ("a", "b", "c")
    votes = contests(names, [("a", "b", 1.0, 40), ("b", "c", 0.6, 40), ("c", "a", 0.0, 40)])

    assert rateable(votes).tolist() == [False, True, True]
    assert human_scale(votes, contests(names, [("a", "b", 0.5, 1)]), rounds=10).people[0].value is None
    assert not rateable(contests(AB, [("a", "b", 1.0, 40)])).any()


@pytest.mark.parametrize(("agree", "slope"), [(24, np.log(4)), (15, 0.0), (6, -np.log(4))])
def test_the_slope_is_the_log_odds_that_people_side_with_a_verdict(agree: int, slope: float) -> None:
    points = np.repeat([1.0, 0.0], [agree, 30 - agree])

    assert fit_slope(np.ones(30), points) == pytest.approx(slope, abs=1e-9)
    assert fit_slope(-np.ones(30), 1 - points) == pytest.approx(slope, abs=1e-9)  # seen from the other side
    assert fit_slope(np.full(30, 2.0), points) == pytest.approx(slope / 2, abs=1e-9)  # a judge twice as sure


def test_no_slope_is_the_best_if_all_agree_or_nothing_is_said() -> None:
    assert np.isnan(fit_slope(np.ones(5), np.ones(5)))
    assert np.isnan(fit_slope(np.zeros(5), np.array([1.0, 0.0, 1.0, 0.0, 1.0])))


def test_a_judge_twice_as_sharp_as_people_has_slope_one_half_and_places_models_where_they_belong() -> None:
    """Four voted models with log-odds 0, 1, 2, 3 of people and 0, 2, 4, 6 of the judge; e is at 3 by the judge."""
    names, rows, verdicts = ("a", "b", "c", "d", "e"), [], []
    for i, j in ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)):
        rows.append((names[j], names[i], 1 / (1 + np.exp(-(j - i))), 40))
        verdicts.append((names[j], names[i], 1 / (1 + np.exp(-2.0 * (j - i))), 40))
    verdicts.append(("e", "a", 1 / (1 + np.exp(-3.0)), 40))

    scale = human_scale(contests(names, rows), contests(names, verdicts, 240), rounds=50)

    assert scale.slope.value == pytest.approx(0.5)
    assert scale.misplaced == pytest.approx(0.0, abs=1e-4)
    expected = [1000 + ELO_PER_LOGIT * (strength - 1.5) for strength in (0.0, 1.0, 2.0, 3.0, 1.5)]
    assert [measure.value for measure in scale.people[:4]] == pytest.approx(expected[:4])
    assert [measure.value for measure in scale.placed] == pytest.approx(expected)  # also without their own votes
    assert scale.range_by_judge == pytest.approx((expected[0], expected[3]))


def test_fewer_than_four_voted_models_with_verdicts_place_no_model() -> None:
    names = ("a", "b", "c", "new")
    votes = contests(names, [("a", "b", 0.7, 40), ("b", "c", 0.7, 40)])
    verdicts = contests(names, [("a", "b", 0.9, 40), ("b", "c", 0.9, 40), ("new", "a", 0.6, 40)], 80)

    scale = human_scale(votes, verdicts, rounds=10)

    assert scale.slope.value is None
    assert scale.misplaced is None
    assert [measure.value for measure in scale.placed] == [None] * 4


# ------------------------------------------------------------------------------------------------- held-out votes


def test_a_coin_loses_ln_2_per_vote_and_knows_half_of_them() -> None:
    votes = contests(AB, [("a", "b", 1.0, 70), ("b", "a", 1.0, 30), ("a", "b", 0.5, 20)])

    coin = predictions(votes, NOTHING, {})[COIN]

    assert coin.accuracy.value == 0.5
    assert coin.accuracy.n == 100  # ties have no side
    assert coin.log_loss.value == pytest.approx(np.log(2))
    assert coin.log_loss.n == 120
    assert coin.bins == ()


def test_a_signal_predicts_held_out_votes_at_the_temperature_of_the_rest() -> None:
    """85 of 100 votes side with the signal: about -(0.85 ln 0.85 + 0.15 ln 0.15) nats each, and one bin at 0.85."""
    votes = contests(AB, [("a", "b", 1.0, 85), ("b", "a", 1.0, 15)])
    signal = np.ones(100) * np.repeat([1.0, -1.0], [85, 15])  # always for a

    result = predictions(votes, NOTHING, {"signal": signal})["signal"]

    assert result.accuracy.value == 0.85
    assert result.log_loss.value == pytest.approx(0.4227, abs=0.025)  # fitted to nine tenths of them
    assert result.slope == pytest.approx(1.0, abs=0.05)
    assert sum(part.n for part in result.bins) == 100
    assert result.error == pytest.approx(0.0, abs=0.02)


def test_a_question_is_never_in_both_parts() -> None:
    """Each question's votes all go one way, at random: only who sees a question's other votes could predict them."""
    rng = np.random.default_rng(3)
    winner = np.repeat(rng.random(200) < 0.5, 5)
    first = np.zeros(1000, dtype=np.int64)
    votes = Contests(AB, first, first + 1, winner.astype(float), np.repeat(np.arange(200), 5))

    result = predictions(votes, NOTHING, {})[PEOPLE]

    assert result.accuracy.value is not None
    assert result.accuracy.value < 0.6


# ---------------------------------------------------------------------------------------------------- simulations

MODELS = 10
NAMES = tuple(f"m{number}" for number in range(MODELS + 1))
SHARPNESS = 2.0


def simulated(rng: np.random.Generator, taste: float) -> tuple[Contests, Contests, float]:
    """Ten voted models and one that only the judge saw; the judge misplaces each by `taste`, and is twice as sharp.

    Returns votes, verdicts, and the Elo that people would give the last model.
    """
    people = np.append(np.linspace(-1.2, 1.2, MODELS), rng.uniform(-1.0, 1.0))
    judge = SHARPNESS * (people + rng.normal(0, taste, MODELS + 1))
    questions = rng.normal(0, 0.3, (2, 120, MODELS + 1))  # some questions suit a model: rows of a question go together
    votes = drawn(rng, people, questions[0], MODELS, 3000, 0)
    verdicts = drawn(rng, judge, questions[1], MODELS + 1, 4000, 120)
    return votes, verdicts, 1000 + ELO_PER_LOGIT * float(people[-1] - people[:-1].mean())


def drawn(
    rng: np.random.Generator,
    strengths: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    questions: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    models: int,
    rows: int,
    start: int,
) -> Contests:
    first = rng.integers(models, size=rows)
    second = (first + rng.integers(1, models, size=rows)) % models
    question = rng.integers(len(questions), size=rows)
    apart = strengths[first] + questions[question, first] - strengths[second] - questions[question, second]
    won = rng.random(rows) < 1 / (1 + np.exp(-apart))
    return Contests(NAMES, first, second, won.astype(float), question + start)


def test_slope_taste_and_places_come_back_from_simulated_votes() -> None:
    votes, verdicts, truth = simulated(np.random.default_rng(1), taste=0.2)

    scale = human_scale(votes, verdicts, rounds=100)
    result = predictions(votes, verdicts, {})

    assert scale.slope.value == pytest.approx(1 / SHARPNESS, abs=0.08)  # lower by 6 %: taste blurs the judge's axis
    assert scale.misplaced == pytest.approx(0.2 * ELO_PER_LOGIT, abs=20)
    placed = scale.placed[-1]
    assert placed.interval is not None
    assert placed.interval.low < truth < placed.interval.high
    assert result[PEOPLE].log_loss.value < result[STRENGTHS].log_loss.value < np.log(2)  # type: ignore[operator]
    assert result[STRENGTHS].slope == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("taste", [0.0, 0.2, 0.4])
def test_intervals_of_placed_models_contain_what_people_would_say(taste: float) -> None:
    """At least 90 % of nominal 95 %, whether the judge has people's taste or misplaces models by 70 Elo."""
    rng = np.random.default_rng(7)
    inside, voted_inside = [], []
    for _ in range(60):
        votes, verdicts, truth = simulated(rng, taste)
        scale = human_scale(votes, verdicts, rounds=60)
        placed, top = scale.placed[-1].interval, scale.people[MODELS - 1].interval
        assert placed is not None
        assert top is not None
        inside.append(placed.low < truth < placed.high)
        voted_inside.append(top.low < 1000 + ELO_PER_LOGIT * 1.2 < top.high)

    assert np.mean(inside) >= 0.9
    assert np.mean(voted_inside) >= 0.87
