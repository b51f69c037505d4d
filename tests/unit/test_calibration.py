"""A judge beside people and its predecessor: what is measured of it, by hand, on invented comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.analysis.judge_measures import (
    board_scores,
    family,
    length_scores,
    people_among_themselves,
    people_by_ratings,
    repeat_flips,
    self_preference,
    shift,
    suite_calibration,
    with_itself,
    with_people,
)
from harness.analysis.judge_replay import CalibrationSpec, replayable, stratified, verdicts_by, write
from harness.judging.calibrated import Calibration, SuiteCalibration, cite, read_calibration, sentence
from harness.records import Answer, Failure, Judgment, Preference, Prompt, Score
from harness.records.errors import ConfigError
from harness.suites.recorded import CalibrationSet, ItemVerdict, RecordedComparison, RecordedRating


def text(model: str, words: str) -> Answer:
    return Answer(prompt_id="p", model=model, turns=(words,), finish=("stop",))


def compared(
    question: int,
    *,
    people: Sequence[float] = (),
    recorded: float | None = None,
    lengths: tuple[int, int] | None = (10, 20),
    models: tuple[str, str] = ("gpt-4", "claude-v1"),
    category: str = "writing",
) -> RecordedComparison:
    answers = None if lengths is None else (text(models[0], "x" * lengths[0]), text(models[1], "y" * lengths[1]))
    return RecordedComparison(
        id=f"{question}/{models[0]}/{models[1]}",
        suite="mt_bench",
        prompt=Prompt(id=str(question), turns=("?",), category=category),
        candidate=models[0],
        baseline=models[1],
        turn=1,
        people=tuple(people),
        recorded=recorded,
        answers=answers,
    )


def said_all(items: Sequence[RecordedComparison], values: Sequence[float | None]) -> dict[str, ItemVerdict]:
    return {item.id: ItemVerdict(value) for item, value in zip(items, values, strict=True)}


def calibration_set(
    comparisons: Sequence[RecordedComparison], ratings: Sequence[RecordedRating] = ()
) -> CalibrationSet:
    return CalibrationSet(
        suite="mt_bench",
        retired="gpt-4",
        rule="same_or_tie",
        comparisons=tuple(comparisons),
        ratings=tuple(ratings),
        tasks=lambda item: (),
    )


# ------------------------------------------------------------------------------------------------------- agreement


def test_every_vote_counts_and_an_unscored_comparison_takes_its_votes_along() -> None:
    items = [compared(1, people=(1, 1, 0)), compared(2, people=(0.5,)), compared(3, people=(1, 0))]

    found = with_people(items, said_all(items, [1.0, 0.5, None]))

    assert found["agreement_people"] == found["agreement_people"].model_copy(
        update={"value": 3 / 4, "n": 4, "unscored": 2}
    )
    assert found["agreement_people_decided"].value == pytest.approx(2 / 3)  # the tie is left out


def test_people_are_compared_in_every_pair_of_their_votes() -> None:
    found = people_among_themselves([compared(1, people=(1, 1, 0.5)), compared(2, people=(0,))])

    assert found["agreement_among_people"].value == pytest.approx(1 / 3)
    assert found["agreement_among_people"].n == 3
    assert found["agreement_among_people_decided"].n == 1


def test_two_single_ratings_make_a_comparison() -> None:
    items = [compared(1, people=(1,)), compared(2, people=(1,)), compared(3, people=(1,))]
    rated = [
        RecordedRating(f"{q}{model}", "mt_bench", item.prompt, model, 1, None, None)
        for q, item in enumerate(items)
        for model in item.pair
    ]
    marks = {one.id: ItemVerdict(mark) for one, mark in zip(rated[:4], (9.0, 7.0, 8.0, 8.0), strict=True)}

    found = people_by_ratings(items, rated, marks)

    assert found["agreement_people_by_ratings"].value == 0.5  # a win as people say; a tie, unlike them; one unrated
    assert found["agreement_people_by_ratings"].n == 2


# -------------------------------------------------------------------------------------------- what the games come to


def judged(item: RecordedComparison, order: str, value: float | None) -> Judgment:
    return Judgment(
        prompt_id=item.id,
        model=item.candidate,
        judge="j",
        template_sha="",
        order="ab" if order == "ab" else "ba",
        verdict=None if value is None else Preference(value=value),
        error=Failure(reason="parse", message="?") if value is None else None,
    )


@pytest.mark.parametrize(
    ("second", "first", "value", "consistent"),
    [(1.0, 1.0, 1.0, True), (1.0, 0.0, 0.5, False), (0.5, 1.0, 0.5, False), (1.0, None, None, None)],
)
def test_mt_benchs_two_games_agree_or_tie_and_a_failed_one_is_no_verdict(
    second: float | None, first: float | None, value: float | None, consistent: bool | None
) -> None:
    item = compared(1)

    said = verdicts_by([judged(item, "ab", second), judged(item, "ba", first)], [calibration_set([item])], [item])[
        item.id
    ]

    assert (said.value, said.consistent) == (value, consistent)
    assert said.failures == (("parse",) if first is None else ())


def test_what_was_never_asked_is_missing_not_a_tie() -> None:
    item = compared(1)

    assert verdicts_by([], [calibration_set([item])], [item])[item.id] == ItemVerdict(None, failures=("missing",))


def test_a_judge_that_takes_the_first_gets_no_consistency_and_all_points_there() -> None:
    items = [compared(question) for question in range(4)]
    said = {item.id: ItemVerdict(0.5, games=(0.0, 1.0), consistent=False) for item in items}

    found = with_itself(items, said)

    assert found["position_consistency"].value == 0
    assert found["points_of_first_shown"].value == 1


def test_repeats_flip_where_they_name_another_side_in_the_same_order() -> None:
    item = compared(1)
    rows = [
        judged(item, order, value) for order, value in (("ab", 0.9), ("ab", 0.6), ("ab", 0.1), ("ba", 1), ("ba", 1))
    ]

    found = repeat_flips([item], rows)["flips_between_repeats"]

    assert found.value == pytest.approx((2 / 3 + 0) / 2)
    assert repeat_flips([item], rows[:1]) == {}


# ------------------------------------------------------------------------------------------------------------ bias


def test_length_bias_is_the_judges_log_odds_of_the_longer_minus_peoples() -> None:
    items = [compared(question, people=(vote,)) for question, vote in enumerate((1, 0, 1, 0))]  # the second is longer

    found = length_scores(items, said_all(items, [0, 0, 0, 0]), "people")

    assert found["length_log_odds"].value == pytest.approx(math.log(4.5 / 0.5))
    assert found["length_log_odds_people"].value == pytest.approx(0.0)
    assert found["length_bias_people"].value == pytest.approx(math.log(9))


def test_ties_and_answers_of_one_length_say_nothing_of_length() -> None:
    items = [
        compared(1, people=(0.5,)),
        compared(2, people=(1,), lengths=(5, 5)),
        compared(3, people=(1,), lengths=None),
    ]

    assert length_scores(items, said_all(items, [1, 1, 1]), "people") == {}


@pytest.mark.parametrize(
    ("model", "maker"),
    [
        ("gpt-4.1-2025-04-14", "openai"),
        ("o3-mini", "openai"),
        ("Qwen/Qwen2.5-72B-Instruct", "alibaba"),
        ("meta-llama/Llama-3.1-70B", "meta"),
        ("olmo-2", None),
    ],
)
def test_a_family_is_read_from_the_name(model: str, maker: str | None) -> None:
    assert family(model) == maker


def test_self_preference_is_what_its_own_family_gets_beyond_people() -> None:
    items = [compared(1, people=(0.5,)), compared(2, people=(0,), models=("alpaca-13b", "gpt-3.5-turbo"))]

    found = self_preference(items, said_all(items, [1, 0]), "gpt-4.1", "people")

    assert found["self_preference_people"].value == pytest.approx((0.5 + 0) / 2)
    assert self_preference(items, said_all(items, [1, 0]), "olmo", "people") == {}


# ----------------------------------------------------------------------------------------------------------- boards


def test_rank_correlation_needs_three_models_of_the_board() -> None:
    items = [compared(q, models=(name, "base")) for q in range(3) for name in ("a", "b", "c")]
    said = said_all(items, [0.1, 0.5, 0.9] * 3)

    assert board_scores(items, said, {"a": 1, "b": 2, "c": 3})["spearman_board"].value == 1
    assert board_scores(items, said, {"a": 3, "b": 2, "c": 1})["kendall_board"].value == -1
    assert board_scores(items, said, {"a": 1, "b": 2}) == {}


def test_the_shift_is_in_points_of_win_rate() -> None:
    items = [compared(1, recorded=0.0), compared(2, recorded=0.5), compared(3)]

    assert shift(items, said_all(items, [1.0, 0.5, 1.0]), scale=100).value == pytest.approx(50)


# -------------------------------------------------------------------------------------------------------- findings


def test_two_comparisons_do_not_show_that_the_order_decides() -> None:
    items = [compared(question, people=(1,)) for question in range(2)]
    verdicts = {item.id: ItemVerdict(0.5, games=(0.0, 1.0), consistent=item is items[0]) for item in items}

    part = suite_calibration(calibration_set(items), items, verdicts, judge_model="x", is_retired=False)

    assert any("not shown to be steadier than a coin" in sentence for sentence in part.findings)
    assert not any("the order decides" in sentence for sentence in part.findings)


def test_a_judge_that_always_says_first_is_told_so() -> None:
    items = [compared(question, people=(question % 2,)) for question in range(40)]
    said = {item.id: ItemVerdict(0.5, games=(0.0, 1.0), consistent=False) for item in items}

    found = suite_calibration(calibration_set(items), items, said, judge_model="x", is_retired=False)

    text = " ".join(found.findings)
    assert "the order decides" in text
    assert "the answer shown first is favoured" in text
    assert "not shown to be above chance" in text


# ---------------------------------------------------------------------------------------------------------- sample


def test_a_sample_shares_kinds_alike_categories_in_proportion_and_pairs_in_turn() -> None:
    pairs = [("a", "b"), ("c", "d")]
    items = [
        compared(q, people=(1,), models=pair, category="math" if q < 10 else "stem")
        for q in range(40)
        for pair in pairs
    ]
    rated = [
        RecordedRating(
            f"r{q}", "mt_bench", Prompt(id=str(q), turns=("?",), category="stem"), "a", 1, 5.0, text("a", "x")
        )
        for q in range(200)
    ]
    found = stratified([*items, *rated], 40, seed=0)

    compared_ = [item for item in found if isinstance(item, RecordedComparison)]
    assert (len(found), len(compared_)) == (40, 20)
    assert sum(item.prompt.category == "math" for item in compared_) == 5
    assert sum(item.pair == ("a", "b") for item in compared_) in (10, 11)
    assert stratified([*items, *rated], 40, seed=0) == found
    assert stratified([*items, *rated], 40, seed=1) != found


def test_only_items_with_texts_are_replayed_and_where_said_only_those_with_votes() -> None:
    items = [compared(1, people=(1,)), compared(2, recorded=1.0), compared(3, people=(1,), lengths=None)]

    one = replace(calibration_set(items), voted_only=True)

    assert replayable([one]) == [items[0]]
    assert replayable([replace(one, voted_only=False)]) == items[:2]


# -------------------------------------------------------------------------------------------------------- citations

JUDGE: dict[str, JsonValue] = {"name": "j", "kind": "llm", "model": "m", "params": {}}


def calibration(comparisons: int) -> Calibration:
    agreed = Score(value=0.66, ci_low=0.61, ci_high=0.71, n=412)
    part = SuiteCalibration(
        retired="gpt-4",
        items={"comparisons": comparisons, "votes": 412, "ratings": 0},
        scores={"agreement_people": agreed, "kappa_people": Score(value=0.434, n=412)},
    )
    return Calibration(judge=JUDGE, suites={"mt_bench": part}, sample={}, usage={}, data={}, harness="0")


def test_a_card_cites_the_largest_calibration_of_its_very_judge(tmp_path: Path) -> None:
    write(calibration(100), tmp_path / "calibrations/j/one/calibration.json")
    write(calibration(250), tmp_path / "calibrations/by-hand.json")
    (tmp_path / "calibrations/broken.json").write_text("{}")

    found = cite(tmp_path, "mt_bench", JUDGE)

    assert found is not None
    assert found.note == sentence(calibration(250), "mt_bench")
    assert "250 recorded comparisons: agrees with people 0.66 [0.61, 0.71] (n = 412, kappa 0.43)" in found.note
    assert found.provenance["sha"] == calibration(250).sha
    assert cite(tmp_path, "mt_bench", JUDGE | {"params": {"temperature": 1}}) is None
    assert cite(tmp_path, "arena_hard", JUDGE) is None


def test_what_it_cost_does_not_change_a_calibrations_digest(tmp_path: Path) -> None:
    one = calibration(100)

    assert one.sha == one.model_copy(update={"usage": {"cost": 3.0}}).sha
    with pytest.raises(ConfigError, match="is not a valid calibration"):
        read_calibration(tmp_path / "none.json")


def test_the_recorded_judge_has_a_protocol_of_its_own() -> None:
    assert CalibrationSpec(judges=(), suites=("mt_bench",), sample=None).protocol["name"] == "recorded"
