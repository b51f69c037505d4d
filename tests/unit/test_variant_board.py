"""The leaderboard of variants: numbers by hand, pairing by prompt and seed, plain sentences."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from recipes.layout import Recipe
from recipes.report.board import Measured, best_by_validation, draws, variant_board
from recipes.report.data import baselines, read_all_measured
from recipes.report.tables import VariantBoard, markdown, rich_tables, signed, verdict_grid
from recipes.spec import EvaluateSpec
from recipes.stages.report import read_variant_board
from tests.fakes.recipe_folder import TEST, Values, same, toy_recipe, write_held_out, write_prompts


def one(model: str, seed: int, values: Values, *, temperature: float = 0.0) -> Measured:
    rewards = {name: value for name, value in zip(TEST, values, strict=True) if value is not None}
    lost = len(values) - len(rewards)
    return Measured(model, seed, "test", temperature, rewards, len(rewards), lost, 0, None)


def board(*measured: Measured, against: tuple[str, ...] = ("dpo",)) -> VariantBoard:
    return variant_board("toy", measured, baselines=against, preference=("wrpo",))


def test_the_greedy_answer_is_drawn_once() -> None:
    assert draws(EvaluateSpec(temperatures=(0.0, 0.3), samples=2)) == {0.0: 1, 0.3: 2}


def test_a_difference_is_paired_by_prompt_and_seed() -> None:
    """Differences by seed: 1 1 1 1 and 3 3 3 3: mean 2, no spread over prompts, se over seeds sqrt(2/2) = 1, df 1."""
    found = board(
        one("dpo", 1, (0, 1, 2, 3)),
        one("dpo", 2, (5, 5, 0, 0)),
        one("wrpo", 1, (1, 2, 3, 4)),
        one("wrpo", 2, (8, 8, 3, 3)),
    )

    (versus,) = found.differences
    assert (versus.value, versus.se, versus.df) == pytest.approx((2.0, 1.0, 1.0))
    assert versus.by_seed == {1: 1.0, 2: 3.0}
    assert (versus.prompts_low, versus.prompts_high) == (2.0, 2.0)
    assert versus.ci_low == pytest.approx(2 - stats.t.ppf(0.975, 1))
    assert versus.p == pytest.approx(2 * stats.t.sf(2, 1))
    assert versus.verdict == "not shown"


def test_with_one_seed_the_difference_is_the_paired_t_test_and_a_note_says_so() -> None:
    mine, theirs = (1.0, 2.0, 3.0, 5.0), (0.5, 1.5, 2.0, 3.5)

    found = board(one("dpo", 1, theirs), one("wrpo", 1, mine))

    assert found.differences[0].p == pytest.approx(stats.ttest_rel(mine, theirs).pvalue)
    assert "only one seed, so the intervals do not cover what another seed would give" in found.notes


def test_p_values_are_adjusted_over_the_models_compared_with_one_baseline() -> None:
    """Holm: the smaller of two is doubled."""
    found = board(
        one("dpo", 1, (0, 0, 0, 0)), one("wrpo", 1, (1.0, 1.1, 0.9, 1.0)), one("ipo", 1, (1.0, -1.0, 1.0, -0.9))
    )

    by_model = {versus.model: versus for versus in found.differences}
    assert by_model["wrpo"].p_adjusted == pytest.approx(2 * by_model["wrpo"].p)
    assert by_model["ipo"].p_adjusted == pytest.approx(by_model["ipo"].p)
    assert (by_model["wrpo"].verdict, by_model["ipo"].verdict) == ("better", "not shown")


def test_the_target_of_one_seed_stands_beside_every_seed() -> None:
    found = board(
        one("target", 1, (0, 0, 0, 0)), one("wrpo", 1, (1, 1, 1, 1)), one("wrpo", 2, (2, 2, 2, 2)), against=("target",)
    )

    assert found.differences[0].by_seed == {1: 1.0, 2: 2.0}


def test_an_answer_without_a_reward_is_counted_and_pairs_nothing() -> None:
    """9 of 10 answers are needed; here 3 of 4 are there."""
    found = board(one("dpo", 1, (0, 0, 0, 0)), one("wrpo", 1, (1, 2, None, 3)))

    row = next(row for row in found.models if row.model == "wrpo")
    assert (row.reward.value, row.reward.n, row.reward.unscored, row.complete) == (2.0, 3, 1, False)
    assert (found.differences[0].prompts, found.differences[0].verdict) == (3, "incomplete")
    assert "wrpo at T 0: 1 of 4 answers are unscored, so it is not compared" in found.notes
    assert [row.model for row in found.models] == ["dpo", "wrpo"]  # incomplete below complete


@pytest.mark.parametrize(
    ("gaps", "said", "verdict"),
    [
        (((1.0, 1.1), (1.0, 1.1)), "wrpo: beats dpo (T 0 +1.050 ", "better"),
        (((-1.0, -1.1), (-1.0, -1.1)), "wrpo: is worse than dpo (T 0 -1.050 ", "worse"),
        (((1.0, -1.0), (1.0, -1.0)), "wrpo: not shown to beat dpo (T 0 +0.000 ", "not shown"),
        (((1.0, 1.1), (1.0, -1.0)), "wrpo: beats dpo at T 0, not shown at T 0.3 (T 0 +1.050 ", "better at T 0"),
        (
            ((-1.0, -1.1), (1.0, -1.0)),
            "wrpo: does not beat dpo: worse at T 0, not shown to be better at T 0.3 (T 0 -1",
            "worse at T 0",
        ),
        (
            ((1.0, 1.1), (-1.0, -1.1)),
            "wrpo: beats dpo at T 0, is worse at T 0.3 (T 0 +1.050 ",
            "better at T 0, worse at T 0.3",
        ),
    ],
)
def test_a_sentence_says_plainly_whether_a_variant_beats_a_baseline(
    gaps: tuple[tuple[float, float], ...], said: str, verdict: str
) -> None:
    rows = []
    for temperature, (low, high) in zip((0.0, 0.3), gaps, strict=True):
        rows.append(one("dpo", 1, (0, 0, 0, 0), temperature=temperature))
        rows.append(one("wrpo", 1, (low, high, low, high), temperature=temperature))

    compared = board(*rows)
    assert compared.sentences[0].startswith(said)
    assert verdict_grid(compared).rows == (("wrpo", verdict),)


def measured_recipe(tmp_path: Path) -> Recipe:
    """Three seeds; wrpo is dpo and 0.5 more (0.45 or 0.55), sft-cont exactly as dpo, one draw of seed 2 is lost."""
    recipe = toy_recipe(tmp_path)
    write_prompts(recipe)
    base = (0.1, 0.2, 0.3, 0.4)
    write_held_out(recipe, "target", 1, same((0.0, 0.0, 0.0, 0.0)))
    for seed in recipe.seeds:
        write_held_out(recipe, "sft", seed, same((0.0, 0.1, 0.2, 0.3)))
        write_held_out(recipe, "dpo", seed, same(base))
        write_held_out(recipe, "sft-cont", seed, same(base))
        more = tuple(value + gain for value, gain in zip(base, (0.45, 0.55, 0.45, 0.55), strict=True))
        lost = (None, *more[1:]) if seed == 2 else more
        write_held_out(recipe, "wrpo", seed, {0.0: [more], 0.3: [more, lost]})
    return recipe


def test_a_board_from_files_agrees_with_the_numbers_put_in(tmp_path: Path) -> None:
    recipe = measured_recipe(tmp_path)

    found = read_variant_board(recipe)

    assert found.baselines == ("dpo", "sft-cont", "sft", "target") == baselines(recipe.spec)
    assert (found.seeds, found.prompts, found.temperatures) == ((1, 2, 3), 4, (0.0, 0.3))
    first = found.rows(0.0)[0]
    assert (first.model, first.reward.n, first.tokens) == ("wrpo", 12, 10.0)
    assert first.reward.value == first.validation == pytest.approx(0.75)
    at_three = next(row for row in found.rows(0.3) if row.model == "wrpo")
    assert (at_three.reward.n, at_three.reward.unscored) == (23, 1)
    assert at_three.reward.value == pytest.approx(0.75)  # the other draw of that prompt stands for it
    against = {versus.model: versus for versus in found.versus(0.0, "dpo")}
    assert against["wrpo"].value == pytest.approx(0.5)
    assert against["wrpo"].verdict == "better"
    assert (against["sft-cont"].value, against["sft-cont"].p, against["sft-cont"].verdict) == (0.0, 1.0, "not shown")
    assert found.sentences[1].startswith("wrpo: beats dpo (")


def test_the_interval_of_a_mean_reward_is_over_prompts_where_seeds_agree(tmp_path: Path) -> None:
    """0.1 0.2 0.3 0.4 thrice: se = sd / 2, t with 3 degrees of freedom."""
    row = next(row for row in read_variant_board(measured_recipe(tmp_path)).rows(0.0) if row.model == "dpo")

    sd = math.sqrt(sum((value - 0.25) ** 2 for value in (0.1, 0.2, 0.3, 0.4)) / 3)
    assert row.reward.ci_high == pytest.approx(0.25 + stats.t.ppf(0.975, 3) * sd / 2)


def test_the_best_model_is_chosen_on_validation(tmp_path: Path) -> None:
    assert best_by_validation(read_all_measured(measured_recipe(tmp_path)))[0] == "wrpo"


def test_a_folder_with_some_models_missing_is_reported_as_it_is(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    assert read_variant_board(recipe).models == ()
    write_prompts(recipe)
    write_held_out(recipe, "wrpo", 2, same((0.1, 0.2, 0.3, 0.4)))

    found = read_variant_board(recipe)

    assert {row.model for row in found.models} == {"wrpo"}
    assert "dpo was not measured, so nothing is compared with it" in found.notes
    assert found.sentences == ("wrpo: not compared with any baseline.",)


def test_names_are_escaped_in_markdown_and_the_tables_hold_every_model(tmp_path: Path) -> None:
    found = variant_board(
        "<b>|", [one("a|b", 1, (1, 2, 3, 4)), one("dpo", 1, (0, 0, 0, 1))], baselines=["dpo"], preference=[]
    )

    text = markdown(found)

    assert "&lt;b>\\|" in text
    assert "| a\\|b | 2.500 \\[" in text
    assert len(rich_tables(found)) == 2


def test_what_rounds_to_nothing_has_no_sign_of_loss() -> None:
    assert (signed(-0.0004), signed(-0.0006), signed(0.12)) == ("+0.000", "-0.001", "+0.120")
