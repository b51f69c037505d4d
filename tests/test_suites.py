"""The three suites: tasks, answer settings and scores, on data small enough to work out by hand."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.errors import ConfigError, DataError
from harness.protocols import Suite, SuiteData, SuiteOptions
from harness.records import Answer, Failure, JudgeTask, JudgeTemplate, Judgment, Preference, Prompt, Rating, Verdict
from harness.suites import alpaca_eval, arena_hard, mt_bench
from harness.suites.alpaca_eval import AlpacaEval, read_chatml, shown_order
from harness.suites.arena_hard import ArenaHard
from harness.suites.mt_bench import MtBench
from judges.prompting import render

BUILDERS: dict[str, Callable[[SuiteOptions], Suite]] = {
    "mt_bench": mt_bench.build,
    "alpaca_eval": alpaca_eval.build,
    "arena_hard": arena_hard.build,
}
needs_mirror = pytest.mark.skipif(
    not os.environ.get("HARNESS_MIRROR"), reason="HARNESS_MIRROR names the folder of pinned upstream files"
)


def said(prompt_id: str, *turns: str, model: str = "m", tokens: tuple[int, ...] = ()) -> Answer:
    finish = tuple("stop" for _ in turns)
    return Answer.model_validate(
        {"prompt_id": prompt_id, "model": model, "turns": turns, "finish": finish, "completion_tokens": tokens}
    )


def judged(task: JudgeTask, verdict: Verdict | None, repeat: int = 0) -> Judgment:
    return Judgment(
        prompt_id=task.prompt.id,
        index=task.answer.index,
        model=task.answer.model,
        judge="j",
        template_sha=task.template.sha,
        answer_sha=task.answer.sha,
        order=task.order,
        turn=task.turn,
        repeat=repeat,
        verdict=verdict,
        error=None if verdict else Failure(reason="parse", message="no verdict"),
    )


def value(suite: Suite, name: str, answers: Sequence[Answer], judgments: Sequence[Judgment]) -> float | None:
    return suite.score(suite.prompts(), answers, judgments).scores[name].value


# --------------------------------------------------------------------------------------------------------- MT-Bench


def mt_suite() -> MtBench:
    templates = {name: JudgeTemplate(name=name, user="?", parser="rating") for name in mt_bench.TEMPLATES}
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


# ------------------------------------------------------------------------------------------------------- Arena-Hard


def arena_suite(prompts: int = 2) -> ArenaHard:
    template = JudgeTemplate(name="t", user="{question_1} {answer_1} {answer_2}", parser="arena_label")
    ids = [str(number) for number in range(prompts)]
    return ArenaHard(
        SuiteData(
            version="test-1",
            prompts=tuple(Prompt(id=one, turns=(f"q{one}",), category="hard") for one in ids),
            templates={"t": template},
            baseline_name="base",
            baseline={one: said(one, f"base{one}", model="base") for one in ids},
        )
    )


def arena_rows(suite: ArenaHard, answers: Sequence[Answer], verdicts: Sequence[Verdict | None]) -> list[Judgment]:
    tasks = [task for prompt, one in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, one)]
    return [judged(task, verdict) for task, verdict in zip(tasks, verdicts, strict=True)]


def test_arena_hard_plays_two_games_with_sides_swapped() -> None:
    suite = arena_suite(1)
    first, second = suite.tasks(suite.prompts()[0], said("0", "mine"))
    assert (first.order, second.order) == ("ab", "ba")
    assert render(first) == [{"role": "user", "content": "q0 base0 mine"}]
    assert render(second) == [{"role": "user", "content": "q0 mine base0"}]


def test_arena_hard_significant_verdicts_count_three_times() -> None:
    suite = arena_suite()
    answers = [said("0", "a"), said("1", "b")]
    strong_win, loss, draw = Preference(value=1, strength=2), Preference(value=0), Preference(value=0.5)
    rows = arena_rows(suite, answers, [strong_win, loss, draw, loss])
    # (3 + 0 + 0.5 + 0) / (3 + 1 + 1 + 1)
    assert value(suite, "arena_hard", answers, rows) == pytest.approx(100 * 3.5 / 6)


def test_arena_hard_keeps_the_other_game_of_a_broken_one() -> None:
    suite = arena_suite()
    answers = [said("0", "a"), said("1", "b")]
    rows = arena_rows(suite, answers, [Preference(value=1), None, Preference(value=0), Preference(value=0)])
    score = suite.score(suite.prompts(), answers, rows).scores["arena_hard"]
    assert score.value == pytest.approx(100 / 3)
    assert (score.n, score.unscored) == (3, 1)


def test_arena_hard_average_tokens_is_floored() -> None:
    suite = arena_suite()
    answers = [said("0", "a", tokens=(10,)), said("1", "b", tokens=(15,))]
    assert value(suite, "avg_tokens", answers, []) == 12.0


def test_arena_hard_without_verdicts_has_no_score() -> None:
    suite = arena_suite()
    score = suite.score(suite.prompts(), [], []).scores["arena_hard"]
    assert (score.value, score.n, score.unscored) == (None, 0, 4)


# ------------------------------------------------------------------------------------------------------- AlpacaEval


def alpaca_suite(prompts: int = 40, generation_config: dict[str, JsonValue] | None = None) -> AlpacaEval:
    template = JudgeTemplate(name="t", user="{output_1}|{output_2}", filling="replace", parser="letter_logprob")
    ids = [str(number) for number in range(prompts)]
    noise = random.Random(3)
    return AlpacaEval(
        SuiteData(
            version="test-1",
            prompts=tuple(Prompt(id=one, turns=(f"instruction {one}",), category="set") for one in ids),
            templates={"t": template},
            baseline_name="base",
            baseline={one: said(one, "b" * 50, model="base") for one in ids},
            difficulty={one: noise.gauss(0, 1) for one in ids},
            gamed=tuple((noise.random(), noise.gauss(0, 1), noise.gauss(0, 1)) for _ in range(80)),
        ),
        generation_config=generation_config,
    )


def alpaca_rows(suite: AlpacaEval, values: Sequence[float | None]) -> tuple[list[Answer], list[Judgment]]:
    answers = [said(prompt.id, "a" * (30 + 7 * place)) for place, prompt in enumerate(suite.prompts()[: len(values)])]
    tasks = [suite.tasks(prompt, one)[0] for prompt, one in zip(suite.prompts(), answers, strict=False)]
    verdicts = [None if value is None else Preference(value=value) for value in values]
    return answers, [judged(task, verdict) for task, verdict in zip(tasks, verdicts, strict=True)]


def test_alpaca_eval_order_depends_on_the_instruction_alone() -> None:
    # alpaca_eval's rule, written out: 405 of the 805 official instructions stay, 406 are switched
    for text in ("one", "two", "three", "four"):
        switched = random.Random("is_switched_outputs" + text + "0").choices([False, True], k=1)[0]
        assert shown_order(text) == ("ba" if switched else "ab")


def test_alpaca_eval_shows_the_candidate_first_where_switched() -> None:
    suite = alpaca_suite()
    for prompt in suite.prompts():
        [task] = suite.tasks(prompt, said(prompt.id, "mine"))
        first = "mine" if task.order == "ba" else "b" * 50
        assert task.fields["output_1"] == first


def test_alpaca_eval_rates_and_counts() -> None:
    suite = alpaca_suite(4)
    answers, rows = alpaca_rows(suite, [1.0, 0.5, 0.25, 0.25])
    assert value(suite, "win_rate", answers, rows) == 50.0
    assert value(suite, "discrete_win_rate", answers, rows) == 37.5  # a win, a draw, two losses
    assert value(suite, "n_wins", answers, rows) == 1
    assert value(suite, "n_wins_base", answers, rows) == 2
    assert value(suite, "n_draws", answers, rows) == 1
    assert value(suite, "avg_length", answers, rows) == 40  # 30, 37, 44, 51: mean 40.5, floored
    # sd of (1, .5, .25, .25) is sqrt(0.125) with ddof 1; / sqrt(4)
    assert value(suite, "standard_error", answers, rows) == pytest.approx(100 * 0.125**0.5 / 2)


def test_alpaca_eval_length_control_with_both_errors() -> None:
    pytest.importorskip("sklearn")
    suite = alpaca_suite()
    noise = random.Random(1)
    answers, rows = alpaca_rows(suite, [0.6 + 0.4 * noise.random() for _ in range(40)])
    scores = suite.score(suite.prompts(), answers, rows).scores
    ours, theirs = scores["lc_win_rate"], scores["lc_win_rate_reference"]
    assert ours.value == theirs.value
    assert ours.value is not None
    assert ours.ci_low is not None
    assert ours.ci_high is not None
    assert ours.ci_low < ours.value < ours.ci_high
    assert suite.headline in scores


def test_alpaca_eval_without_any_pattern_gives_no_interval_of_width_zero() -> None:
    pytest.importorskip("sklearn")
    suite = alpaca_suite()
    noise = random.Random(1)
    answers, rows = alpaca_rows(suite, [noise.random() for _ in range(40)])
    found = suite.score(suite.prompts(), answers, rows)
    assert (found.scores["lc_win_rate"].value, found.scores["lc_win_rate"].ci_low) == (50.0, None)
    assert "all coefficients 0" in found.notes[-1]


def test_alpaca_eval_under_ninety_percent_gives_no_rate() -> None:
    suite = alpaca_suite(10)
    answers, rows = alpaca_rows(suite, [1.0] * 8 + [None] * 2)
    found = suite.score(suite.prompts(), answers, rows)
    assert found.scores["win_rate"].value is None
    assert found.scores["lc_win_rate"].value is None
    assert found.scores["n_wins"].value == 8
    assert (found.scores["win_rate"].n, found.scores["win_rate"].unscored) == (8, 2)
    assert "under 90%" in found.notes[-1]


def test_alpaca_eval_counts_a_missing_row_as_unscored() -> None:
    suite = alpaca_suite(40)
    answers, rows = alpaca_rows(suite, [0.75] * 39)
    score = suite.score(suite.prompts(), answers, rows).scores["win_rate"]
    assert (score.value, score.n, score.unscored) == (75.0, 39, 1)


def test_alpaca_eval_answer_settings_yield_to_the_checkpoint() -> None:
    ours = alpaca_suite().sampling(alpaca_suite().prompts()[0])
    assert (ours.temperature, ours.top_p, ours.max_tokens) == (0.7, 1.0, 4096)
    theirs = alpaca_suite(4, {"temperature": 0.6, "top_p": 0.9}).sampling(alpaca_suite().prompts()[0])
    assert (theirs.temperature, theirs.top_p) == (0.6, 0.9)
    greedy = alpaca_suite(4, {"do_sample": False, "temperature": 0.6}).sampling(alpaca_suite().prompts()[0])
    assert (greedy.temperature, greedy.top_p) == (0.0, None)


def test_chatml_is_split_before_answers_are_filled_in() -> None:
    text = "<|im_start|>system\nBe brief.\n<|im_end|>\n<|im_start|>user\n{instruction}: {output_1}\n\n<|im_end|>"
    template = read_chatml(text, name="t")
    assert (template.system, template.user) == ("Be brief.", "{instruction}: {output_1}")
    with pytest.raises(DataError, match="expected system and user"):
        read_chatml("<|im_start|>user\nx<|im_end|>", name="t")


# ------------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", BUILDERS)
def test_pocket_edition_runs_through_the_same_code(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    assert (suite.name, suite.version) == (name, "pocket-1")
    answers = [said(prompt.id, *("text " + prompt.id for _ in prompt.turns)) for prompt in suite.prompts()]
    tasks = [task for prompt, one in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, one)]
    assert len({task.key for task in tasks}) == len(tasks)
    noise = random.Random(0)
    rows = [
        judged(task, Rating(value=5.0) if task.template.parser == "rating" else Preference(value=noise.random()))
        for task in tasks
    ]
    for task in tasks:
        assert render(task)[-1]["role"] == "user"
    score = suite.score(suite.prompts(), answers, rows).scores[suite.headline]
    assert score.value is not None
    assert (score.n, score.unscored) == (len(tasks), 0)


@pytest.mark.parametrize("name", BUILDERS)
def test_scores_do_not_depend_on_the_order_of_arrival(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    noise = random.Random(0)
    answers, rows = [], []
    for prompt in suite.prompts():
        for index in range(2):
            one = said(prompt.id, *(f"{noise.random()}" * (1 + index) for _ in prompt.turns))
            answers.append(one.model_copy(update={"index": index}))
            for task in suite.tasks(prompt, answers[-1]):
                rating = task.template.parser == "rating"
                values = [noise.random() for _ in range(3)]
                verdicts = [Rating(value=1 + 9 * value) if rating else Preference(value=value) for value in values]
                rows += [judged(task, verdict, repeat) for repeat, verdict in enumerate(verdicts)]
    shuffled = suite.score(suite.prompts(), noise.sample(answers, len(answers)), noise.sample(rows, len(rows)))
    assert suite.score(suite.prompts(), answers, rows) == shuffled


@pytest.mark.parametrize("name", BUILDERS)
def test_a_failed_answer_is_never_judged(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    prompt = suite.prompts()[0]
    failure = Failure(reason="timeout", message="no answer")
    assert not suite.tasks(prompt, Answer(prompt_id=prompt.id, model="m", error=failure))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_that_says_the_original_tools_mark_of_failure_is_judged_by_what_it_said(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    prompt = suite.prompts()[0]
    assert suite.tasks(prompt, said(prompt.id, *("$ERROR$" for _ in prompt.turns)))


@pytest.mark.parametrize("name", BUILDERS)
def test_unknown_edition_lists_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="editions: official, pocket"):
        BUILDERS[name](SuiteOptions(edition="large"))


@needs_mirror
def test_unknown_reference_set_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="official, pr3158"):
        mt_bench.build(SuiteOptions(references="mine", cache_dir=tmp_path))


@needs_mirror
def test_reference_sets_differ_in_the_protocol_and_in_what_the_judge_sees(tmp_path: Path) -> None:
    official = mt_bench.build(SuiteOptions(cache_dir=tmp_path))
    corrected = mt_bench.build(SuiteOptions(references="pr3158", cache_dir=tmp_path))
    assert official.protocol() != corrected.protocol()
    by_id = [{prompt.id: prompt for prompt in suite.prompts()} for suite in (official, corrected)]
    assert by_id[0]["104"].reference != by_id[1]["104"].reference
    assert by_id[0]["131"].reference == ()


@needs_mirror
def test_official_sizes(tmp_path: Path) -> None:
    found = {name: build(SuiteOptions(cache_dir=tmp_path)) for name, build in BUILDERS.items()}
    assert {name: len(suite.prompts()) for name, suite in found.items()} == {
        "mt_bench": 80,
        "alpaca_eval": 805,
        "arena_hard": 500,
    }
    calls = {}
    for name, suite in found.items():
        answered = ((prompt, said(prompt.id, *("x" for _ in prompt.turns))) for prompt in suite.prompts())
        calls[name] = sum(len(suite.tasks(prompt, answer)) for prompt, answer in answered)
    assert calls == {"mt_bench": 160, "alpaca_eval": 805, "arena_hard": 1000}
    switched = [shown_order(prompt.turns[0]) for prompt in found["alpaca_eval"].prompts()].count("ba")
    assert switched == 406  # specs/alpaca_eval, section 1


@needs_mirror
@pytest.mark.skipif(importlib.util.find_spec("alpaca_eval") is None, reason="alpaca-eval is not installed")
def test_alpaca_eval_messages_equal_the_installed_packages(tmp_path: Path) -> None:
    """The package's own functions fill and convert the template: the messages must be equal, byte for byte."""
    utils = pytest.importorskip("alpaca_eval.utils")
    pandas = pytest.importorskip("pandas")
    suite = alpaca_eval.build(SuiteOptions(cache_dir=tmp_path))
    spec = importlib.util.find_spec("alpaca_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    text = (Path(spec.submodule_search_locations[0]) / alpaca_eval.TEMPLATE_FILE).read_text("utf-8")
    tasks = [suite.tasks(prompt, said(prompt.id, f" an {{answer}}\n{prompt.id} "))[0] for prompt in suite.prompts()]
    theirs, _ = utils.make_prompts(pandas.DataFrame([task.fields for task in tasks]), template=text)
    different = [
        task.prompt.id
        for task, prompt in zip(tasks, theirs, strict=True)
        if [dict(message) for message in utils.prompt_to_chatml(prompt.strip())] != render(task)
    ]
    assert different == []
