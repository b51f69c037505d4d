"""Two runs on the same questions: what differs, by how much, on which questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.analysis.comparison import adjusted, compare, differing
from harness.analysis.finished_runs import PairOptions, compare_models, find_runs
from harness.pages.comparison_text import (
    CAUTIOUS,
    correction_lines,
    markdown,
    models_correction_lines,
    other_lines,
    verdict,
)
from harness.records import Prompt
from harness.records.errors import ConfigError
from harness.records.protocols import RunRows
from tests.fakes.commands import Done
from tests.fakes.deciding import LOSS, PROTOCOL, TIE, WIN, games, mixed, prompts_of, toy_run, write_run


def test_the_difference_is_of_the_questions_both_have() -> None:
    first = toy_run("a", [WIN, LOSS, TIE, LOSS])
    other = toy_run("b", [WIN, WIN, TIE, WIN, WIN])

    found = compare(first, other)
    row = found.difference("arena_hard")

    # q0..q3: a 1 + 0 + 0.5 + 0 = 1.5 of 4 -> 37.5; b 3.5 of 4 -> 87.5; q4 is b's alone
    assert row is not None
    assert row.ci_low is not None
    assert (row.first, row.other, row.value, row.n) == (37.5, 87.5, 50.0, 4)
    # differences 0, 100, 0, 100: sd 57.735, se 28.87; t(3) at 97.5 % is 3.182
    assert row.se == pytest.approx(28.8675, abs=1e-4)
    assert row.value - row.ci_low == pytest.approx(3.18245 * 28.8675, abs=1e-3)
    assert (found.only_first, found.only_other) == (0, 1)
    # two questions of four move: sign flips give |sum| >= what was seen in half of all cases
    assert row.p == pytest.approx(0.5, abs=0.02)


def test_what_could_be_seen_is_two_point_eight_standard_errors() -> None:
    row = compare(toy_run("a", mixed(20, 20)), toy_run("b", mixed(25, 15))).difference("arena_hard")

    assert row is not None
    assert row.detectable == pytest.approx((1.95996 + 0.84162) * row.se, rel=1e-4)


def test_categories_are_compared_where_the_questions_are_known() -> None:
    first, other = toy_run("a", [WIN, LOSS, WIN, LOSS]), toy_run("b", [WIN, WIN, WIN, WIN])

    found = compare(first, other, prompts=prompts_of(4))

    headline = [row for row in found.differences if row.metric == "arena_hard"]
    assert [(row.category, row.value) for row in headline] == [(None, 50.0), ("even", 0.0), ("odd", 100.0)]


def test_a_question_flips_when_one_wins_and_the_other_loses() -> None:
    first, other = toy_run("a", [WIN, LOSS, TIE, WIN]), toy_run("b", [LOSS, WIN, WIN, WIN])

    flipped = compare(first, other).flips

    assert {(one.prompt_id, one.kind) for one in flipped} == {("q0", "lost"), ("q1", "gained")}


def test_verdicts_that_hang_on_the_order_are_counted_and_taken_out() -> None:
    first = toy_run("a", [(1.0, 0.0), LOSS, WIN])
    other = toy_run("b", [WIN, LOSS, WIN])

    orders = compare(first, other).orders

    assert orders is not None
    assert (orders.first, orders.other, orders.either, orders.without) == (1, 0, ("q0",), 0.0)


def test_lengths_and_truncation_are_compared_on_answers_both_gave() -> None:
    first, other = toy_run("a", [WIN, WIN]), toy_run("b", [WIN, WIN])
    longer = tuple(one.model_copy(update={"turns": ("y" * 30,), "finish": ("length",)}) for one in other.answers)

    shifts = {one.name: one.value for one in compare(first, RunRows("b", other.card, longer, other.judgments)).shifts}

    assert shifts == {"characters": 20.0, "truncated, percent": 100.0}


def test_several_models_are_corrected_by_holm() -> None:
    base = toy_run("a", mixed(10, 30))
    found = adjusted([compare(base, toy_run(name, mixed(wins, 40 - wins))) for name, wins in (("b", 14), ("c", 12))])

    rows = [one.differences[0] for one in found]
    smaller, larger = sorted(rows, key=lambda row: row.p)
    assert smaller.p_adjusted == pytest.approx(min(1.0, 2 * smaller.p))
    assert larger.p_adjusted == pytest.approx(max(2 * smaller.p, larger.p))


def test_categories_are_corrected_by_holm_and_the_table_says_so() -> None:
    prompts = [Prompt(id=f"q{n}", turns=("?",), category="even" if n % 2 == 0 else "odd") for n in range(40)]
    pair = compare(toy_run("a", mixed(10, 30)), toy_run("b", mixed(20, 20)), prompts=prompts)
    (corrected,) = adjusted([pair])

    assert corrected.differences[0].p_adjusted is None  # all questions, one model: nothing to correct
    rows = [row for row in corrected.differences if row.metric == "arena_hard" and row.category is not None]
    smaller, larger = sorted(rows, key=lambda row: row.p)
    assert smaller.p_adjusted == pytest.approx(min(1.0, 2 * smaller.p))
    assert larger.p_adjusted == pytest.approx(max(2 * smaller.p, larger.p))
    assert "p of categories: corrected by Holm over 2 categories" in other_lines(corrected)
    assert models_correction_lines(corrected) == []  # so a report, which has no categories, says nothing of them

    both = adjusted([pair, compare(toy_run("a", mixed(10, 30)), toy_run("c", mixed(12, 28)), prompts=prompts)])
    assert correction_lines(both[0]) == [
        "p over all questions: corrected by Holm over 2 models",
        "p of categories: corrected by Holm over 4 tests, the categories of 2 models",
    ]


def test_runs_of_other_protocols_are_refused_with_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path, toy_run("a", mixed(5, 5)))
    write_run(tmp_path, toy_run("b", mixed(6, 4), protocol={**PROTOCOL, "judge": "another"}))

    with pytest.raises(ConfigError, match="judge: 'toy' and 'another'"):
        compare_models(["a", "b"], tmp_path)
    (found,) = compare_models(["a", "b"], tmp_path, PairOptions(force=True))
    assert found.forced == ("judge: 'toy' and 'another'",)


def test_equal_protocols_differ_in_nothing() -> None:
    assert differing(toy_run("a", [WIN]).card, toy_run("b", [LOSS]).card) == []


def test_cards_without_rows_are_compared_by_their_errors() -> None:
    first, other = toy_run("a", mixed(20, 20)), toy_run("b", mixed(30, 10))
    (row,) = compare(RunRows("a", first.card), RunRows("b", other.card)).differences

    errors = [run.card.scores["arena_hard"].se or 0.0 for run in (first, other)]
    assert row.method == "unpaired"
    assert row.se == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5)


def test_a_name_that_is_no_run_says_what_is_there(tmp_path: Path) -> None:
    write_run(tmp_path, toy_run("a", mixed(5, 5)))

    with pytest.raises(ConfigError, match=r"no run named 'z'.*there: a"):
        compare_models(["a", "z"], tmp_path)


def test_a_model_without_a_run_of_the_suite_says_what_it_has(tmp_path: Path) -> None:
    write_run(tmp_path, toy_run("a", mixed(5, 5)))

    sentence = r"'a' has no run of arenahard \(did you mean 'arena_hard'\?\); its runs under .* are of arena_hard"
    with pytest.raises(ConfigError, match=sentence):
        find_runs("a", tmp_path, ["arenahard"])


def test_hostile_names_stay_text_in_markdown() -> None:
    evil = toy_run("<script>|`x`", mixed(20, 20))
    text = markdown([compare(toy_run("a", mixed(20, 20)), evil)], flips=3)

    assert "<script>" not in text
    assert "no difference shown between <script>|`x`" in verdict(compare(toy_run("a", mixed(20, 20)), evil))


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(harness: Callable[..., Done], tmp_path: Path) -> None:
    for run in (toy_run("a", mixed(20, 20)), toy_run("b", mixed(32, 8))):
        write_run(tmp_path / "results", run)

    done = harness("compare", "a", "b", "--json")

    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["comparisons"]
    assert found["differences"][0]["value"] == pytest.approx(30.0)
    assert harness("compare", "a").code == 2


def test_strong_verdicts_weigh_three_times_in_a_comparison() -> None:
    base, other = toy_run("a", [WIN, LOSS]), toy_run("b", [WIN, LOSS])
    strong = (*games([WIN], "b", strength=2), *[row for row in other.judgments if row.prompt_id == "q1"])

    row = compare(base, RunRows("b", other.card, other.answers, strong)).difference("arena_hard")

    assert row is not None
    assert row.other == pytest.approx(100 * 6 / 8)  # two games of weight 3 won, two of weight 1 lost


def test_a_small_p_beside_an_interval_with_0_is_not_called_shown() -> None:
    """Six of six won: exact p 2 / 64, while one more question won and one lost widen the interval beyond 0."""
    pair = compare(toy_run("a", [LOSS] * 6), toy_run("b", [TIE] * 6))
    row = pair.difference("arena_hard")

    assert row is not None
    assert row.ci_low is not None
    assert row.p == pytest.approx(2 / 64, abs=0.01)
    assert row.ci_low < 0
    assert (row.is_cautious, row.is_shown) == (True, False)
    assert verdict(pair).startswith("arena_hard: no difference shown between b and a")
    assert verdict(pair).endswith(CAUTIOUS)
    assert CAUTIOUS in other_lines(pair)


def test_where_p_and_interval_agree_nothing_is_said_of_it() -> None:
    pair = compare(toy_run("a", mixed(10, 30)), toy_run("b", mixed(30, 10)))

    assert " is better than a " in verdict(pair)
    assert CAUTIOUS not in other_lines(pair)


def test_four_equal_differences_show_little_and_stay_within_the_scores_range() -> None:
    row = compare(toy_run("a", [LOSS] * 4), toy_run("b", [WIN] * 4)).difference("arena_hard")

    assert row is not None
    # 100 four times, 100 and -100: mean 200/3, error 100 sqrt(30/9 / 30), Student's t of 3 degrees of freedom
    assert (row.value, row.ci_high) == (100.0, 100.0)
    assert row.ci_low == pytest.approx(100 - 3.182446305 * 100 / 3)
