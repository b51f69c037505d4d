"""MT-Bench: tasks, answer settings and scores, on data small enough to work out by hand."""

from __future__ import annotations

import pytest

from harness.records import JudgeTemplate, Prompt, Rating
from harness.records.protocols import SuiteData
from harness.suites.mt_bench.suite import TEMPLATES, MtBench
from tests.fakes.suite_rows import judged, said, value


def mt_suite() -> MtBench:
    templates = {name: JudgeTemplate(name=name, user="?", parser="rating") for name in TEMPLATES}
    prompts = (
        Prompt(id="1", turns=("w1", "w2"), category="writing"),
        Prompt(id="2", turns=("m1", "m2"), category="math", reference=("r1", "r2")),
    )
    return MtBench(SuiteData(version="test-1", prompts=prompts, templates=templates))


def test_mt_bench_asks_two_ratings_and_shows_the_reference_in_three_categories_only() -> None:
    suite = mt_suite()
    plain, math = (suite.tasks(prompt, said(prompt.id, "a1", "a2")) for prompt in suite.prompts())
    assert [task.template.name for task in plain] == ["single-v1", "single-v1-multi-turn"]
    assert [task.template.name for task in math] == ["single-math-v1", "single-math-v1-multi-turn"]
    assert plain[0].fields == {"question": "w1", "answer": "a1"}
    assert plain[1].fields == {"question_1": "w1", "question_2": "w2", "answer_1": "a1", "answer_2": "a2"}
    assert math[0].fields == {"question": "m1", "answer": "a1", "ref_answer_1": "r1"}
    assert math[1].fields["ref_answer_2"] == "r2"
    assert [task.turn for task in plain] == [1, 2]


def test_mt_bench_gold_answers_of_other_categories_are_not_shown() -> None:
    suite = mt_suite()
    prompt = Prompt(id="1", turns=("w1", "w2"), category="stem", reference=("gold1", "gold2"))
    for task in suite.tasks(prompt, said("1", "a1", "a2")):
        assert not any("gold" in text for text in task.fields.values())


def test_mt_bench_mean_is_pooled_over_turns() -> None:
    suite = mt_suite()
    answers = [said("1", "a", "b"), said("2", "c", "d")]
    tasks = [task for prompt, one in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, one)]
    ratings = [8.0, 6.0, 3.0, None]
    rows = [
        judged(task, None if rating is None else Rating(value=rating))
        for task, rating in zip(tasks, ratings, strict=True)
    ]
    found = suite.score(suite.prompts(), answers, rows)
    # pooled (8 + 6 + 3) / 3, not the mean of the turn means 5.5 and 6
    assert found.scores["mt_bench"].value == pytest.approx(17 / 3)
    assert found.scores["turn_1"].value == 5.5
    assert found.scores["turn_2"].value == 6.0
    assert (found.scores["mt_bench"].n, found.scores["mt_bench"].unscored) == (3, 1)
    assert found.by_category["math"]["mt_bench"].value == 3.0
    assert found.by_category["math"]["turn_2"].value is None
    assert found.notes == ("1 of 4 turns are unscored",)


def test_mt_bench_repeats_count_as_their_mean() -> None:
    suite = mt_suite()
    one = said("1", "a", "b")
    first, second = suite.tasks(suite.prompts()[0], one)
    rows = [judged(first, Rating(value=4)), judged(first, Rating(value=8), repeat=1), judged(second, Rating(value=2))]
    assert value(suite, "mt_bench", [one], rows) == 4.0


def test_mt_bench_temperatures_follow_the_category() -> None:
    suite = mt_suite()
    settings = {
        category: suite.sampling(Prompt(id="x", turns=("q",), category=category)).temperature
        for category in ("writing", "roleplay", "math", "stem", "something-else")
    }
    assert settings == {"writing": 0.7, "roleplay": 0.7, "math": 0.0, "stem": 0.1, "something-else": 0.7}
    assert suite.sampling(suite.prompts()[0]).max_tokens == 1024
    assert suite.sampling(suite.prompts()[0]).top_p is None


def test_mt_bench_a_missing_second_turn_leaves_the_first_to_be_judged() -> None:
    suite = mt_suite()
    assert [task.turn for task in suite.tasks(suite.prompts()[0], said("1", "a"))] == [1]


def test_failures_alone_are_no_legacy_mean_and_equal_ratings_no_certainty() -> None:
    suite = mt_suite()
    answers = [said("1", "a", "b"), said("2", "c", "d")]
    tasks = [task for prompt, one in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, one)]

    failed = suite.score(suite.prompts(), answers, [judged(task, None) for task in tasks])
    mixed = suite.score(suite.prompts(), answers, [judged(tasks[0], Rating(value=7)), judged(tasks[1], None)])
    equal = suite.score(suite.prompts(), answers, [judged(task, Rating(value=7)) for task in tasks])

    assert {score.value for score in failed.scores.values()} == {None}
    assert mixed.scores["legacy_mean"].value == 3.0  # the reference's figure: 7 and -1
    score = equal.scores["mt_bench"]
    assert (score.value, score.ci_low, score.ci_high) == (7.0, 1.0, 10.0)  # 7, 7, 1 and 10 show little
    assert equal.notes == ()
