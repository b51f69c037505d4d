"""AlpacaEval: tasks, answer settings and scores, on data small enough to work out by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from pydantic import JsonValue

from harness.records import Answer, JudgeTemplate, Judgment, Preference, Prompt, ScoreCard
from harness.records.errors import DataError
from harness.records.protocols import RunRows, SuiteData
from harness.suites.alpaca_eval.suite import AlpacaEval, read_chatml, shown_order
from tests.fakes.suite_rows import judged, said, value


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


def test_a_length_controlled_difference_is_of_the_instructions_judged_for_both() -> None:
    suite, noise = alpaca_suite(), random.Random(1)
    values: list[float | None] = [noise.random() for _ in range(40)]
    half = [None if place < 20 else value for place, value in enumerate(values)]
    card = ScoreCard.model_construct(model="m", scores={})
    rows = [alpaca_rows(suite, run) for run in (values, half)]
    whole, part = (RunRows("m", card, tuple(answers), tuple(judgments)) for answers, judgments in rows)

    fits = suite.paired_refits(suite.prompts(), whole, part)

    assert fits is not None
    assert fits.n == 20
    assert fits.values[0] == fits.values[1]  # the same verdicts on these twenty
