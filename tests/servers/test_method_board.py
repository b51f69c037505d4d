"""The board of methods and the sweeps of a recipe, from rewards and cards that a test can work out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.analysis.leaderboard import HeadlineDifference
from harness.records import Score, ScoreCard
from harness.store import read_card
from recipes.layout import Recipe
from recipes.report.data import read_all_measured
from recipes.report.methods import (
    BoardMeasure,
    CostRow,
    MethodBoard,
    _made_of,
    front_figure,
    front_of,
    method_board,
    method_sentence,
)
from recipes.report.suite_scores import Gap, SuiteComparison, SuiteGroup, _gap
from recipes.report.sweeps import sweep_reports, sweeps_markdown
from recipes.report.tables import Verdict
from recipes.stages.report import read_variant_board, report_step
from recipes.steps import run_step
from tests.fakes.made_runs import make_run, pocket
from tests.fakes.recipe_folder import toy_recipe, write_checkpoint, write_held_out, write_prompts

RECIPE = """
name: toy
output_dir: OUT
target: hf:org/target@abc
seeds: [1, 2]
prompts: {dataset: "hf:org/prompts", validation: 2, test: 4, decontaminate: []}
sources:
  - {name: a, model: "hf:org/a"}
  - {name: b, model: "hf:org/b"}
  - {name: c, model: "hf:org/c"}
reward: {kind: function, model: "world:reward"}
variants:
  dpo: {training: {alpha: 0}}
  wrpo: {training: {alpha: 0.5}}
sweeps:
  - {of: wrpo, alpha: [0.1, 0.9]}
  - {of: wrpo, leave_out: each}
evaluate: {temperatures: [0.0], models: [all, a, b]}
"""
BASE = (0.1, 0.2, 0.3, 0.4)
UNEVEN = (0.01, -0.01, 0.02, -0.02)
"""Without it, nothing would show how much a difference varies."""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = toy_recipe(tmp_path, RECIPE)
    write_prompts(recipe)
    gains = {"sft": 0.0, "dpo": 0.1, "wrpo": 0.4, "wrpo-alpha0.1": 0.2, "wrpo-alpha0.9": 0.405, "wrpo-without-a": 0.6}
    for seed in recipe.seeds:
        for place, (model, gain) in enumerate(gains.items()):
            sign = 1 if place % 2 else -1
            values = [value + gain + sign * extra for value, extra in zip(BASE, UNEVEN, strict=True)]
            write_held_out(recipe, model, seed, {0.0: [values]})
            write_checkpoint(recipe, model, seed)
    for model, gain in (("target", 0.0), ("a", 0.3), ("b", 0.2)):
        write_held_out(recipe, model, 1, {0.0: [[value + gain for value in BASE]]})
    return recipe


def test_swept_variants_are_compared_with_their_own_variant_only(recipe: Recipe) -> None:
    board = read_variant_board(recipe)

    assert {row.model for row in board.models} == {"sft", "dpo", "wrpo", "target", "a", "b"}
    assert not any("alpha0" in sentence for sentence in board.sentences)
    alpha, sources = sweep_reports(recipe, read_all_measured(recipe))
    assert [row.baseline for row in alpha.board.differences] == ["wrpo", "wrpo"]
    assert list(alpha.values.items()) == [("wrpo-alpha0.1", 0.1), ("wrpo", 0.5), ("wrpo-alpha0.9", 0.9)]
    assert alpha.note == ""
    assert sources.note.startswith("SFT and the target's own samples are those of wrpo")
    assert list(sources.values) == ["wrpo", "wrpo-without-a"]  # the others were not measured


def test_a_sweep_has_a_plain_sentence_per_value(recipe: Recipe) -> None:
    alpha, sources = sweep_reports(recipe, read_all_measured(recipe))

    assert alpha.sentences[0].startswith("Setting alpha to 0.1 instead of 0.5 lowers the reward of wrpo (T 0 -0.200 [")
    assert alpha.sentences[1].startswith("Setting alpha to 0.9 instead of 0.5 is not shown to change the reward of")
    assert sources.sentences == (sources.sentences[0],)
    assert sources.sentences[0].startswith("Leaving out a raises the reward of wrpo (T 0 +0.200 [")
    text = sweeps_markdown("toy", [alpha, sources])
    assert "| 0.5 (wrpo) | 0.650 \\[" in text
    assert "| wrpo itself | 0.650 \\[" in text


@pytest.mark.slow
def test_the_report_has_every_sweep_as_table_and_figure(recipe: Recipe) -> None:
    record = run_step(report_step(recipe, []))

    figures = {f"sweep-wrpo-{key}.{kind}" for key in ("alpha", "leave_out") for kind in ("svg", "png")}
    assert {"sweeps.json", "sweeps.md", "methods.json", "methods.md", *figures} <= set(record.outputs)
    page = (recipe.report / "variants.html").read_text()
    assert "Leaving out a raises the reward of wrpo" in page
    assert "wrpo: leaving out one source" in page
    card = (recipe.variant("wrpo-without-a", 1) / "README.md").read_text()
    assert "| wrpo | T 0 | +0.200" in card


def test_every_model_is_compared_with_the_target_and_with_the_best_source(recipe: Recipe) -> None:
    board = method_board(recipe, read_variant_board(recipe), [], [])

    (reward,) = board.measures
    assert board.models[:4] == ("wrpo", "a", "b", "dpo")
    assert set(board.models[4:]) == {"target", "sft"}  # equal
    assert reward.best_source == "a"
    assert reward.to_target["wrpo"].value == pytest.approx(0.4)
    assert reward.to_best_source["wrpo"].value == pytest.approx(0.1)
    assert reward.to_best_source["wrpo"].verdict == "better"
    assert reward.to_best_source["dpo"].verdict == "worse"
    assert {sentence.split()[0] for sentence in board.sentences} == {"wrpo", "dpo", "sft"}


def card(model: str, mean: float | None, *, higher: bool = True) -> ScoreCard:
    return ScoreCard(
        model=model,
        suite="pairs",
        suite_version="1",
        complete=True,
        sampling={},
        higher_is_better={"win_rate": higher},
        judge="j",
        headline="win_rate",
        scores={
            "win_rate": Score(value=None, n=0, unscored=80)
            if mean is None
            else Score(value=mean, ci_low=mean - 8, ci_high=mean + 8, se=4.0, n=80, unscored=0)
        },
        protocol={},
        provenance={"run_id": model},
    )


def test_a_suites_scores_are_measures_beside_the_reward(recipe: Recipe) -> None:
    cards = [card("org/target@abc", 40.0), card("toy-wrpo-seed1", 60.0), card("toy-b", 58.0)]
    board = method_board(recipe, read_variant_board(recipe), [], [(Path("none/card.json"), row) for row in cards])

    _, suite = board.measures
    assert (suite.name, suite.best_source) == ("pairs 1, win_rate", "b")
    assert suite.to_target["wrpo"].value == pytest.approx(20.0)
    assert suite.to_target["wrpo"].verdict == "better"  # se = sqrt(4^2 + 4^2) = 5.66
    assert suite.to_best_source["wrpo"].verdict == "not shown"
    assert "the best source is the one with the best score there, b" in board.notes[0]


def test_a_source_without_a_score_is_not_the_best_where_less_is_better(recipe: Recipe) -> None:
    means = {"org/target@abc": 40.0, "toy-a": None, "toy-b": 30.0}
    cards = [(Path("none/card.json"), card(name, mean, higher=False)) for name, mean in means.items()]
    measures = read_variant_board(recipe)
    recipe_board = method_board(recipe, measures.model_copy(update={"prompts": 0}), [], cards)

    (suite,) = recipe_board.measures
    assert suite.best_source == "b"
    assert recipe_board.models == ("b", "target", "a")  # without a score, last


def test_a_sweep_has_a_table_per_suite_paired_by_seed(recipe: Recipe) -> None:
    means = {"toy-wrpo-seed1": 60.0, "toy-wrpo-seed2": 66.0, "toy-wrpo-alpha0.9-seed1": 61.0, "toy-dpo-seed1": 1.0}
    means |= {"toy-wrpo-alpha0.9-seed2": 67.5, "toy-wrpo-without-b-seed2": 70.0}
    cards = [(Path("none/card.json"), card(name, mean)) for name, mean in means.items()]
    alpha, sources = sweep_reports(recipe, read_all_measured(recipe), cards)

    (suite,) = alpha.suites
    assert suite.name == "pairs 1, win_rate"
    assert {name: score.value for name, score in suite.scores.items()} == {"wrpo": 63.0, "wrpo-alpha0.9": 64.25}
    gap = suite.differences["wrpo-alpha0.9"]
    assert gap.reference == "wrpo"
    assert gap.value == pytest.approx(1.25)
    # per seed 1.0 and 1.5, each with errors of 4 on both sides: sqrt(32 + 0.125 / 2)
    assert gap.ci_high is not None
    assert gap.ci_high - 1.25 > 1.96 * 32**0.5
    assert gap.verdict == "not shown"
    (suite,) = sources.suites
    assert suite.differences["wrpo-without-b"].value == pytest.approx(4.0)  # seed 2 only
    text = sweeps_markdown("toy", [alpha, sources])
    assert "### wrpo: by alpha, pairs 1, win\\_rate" in text
    assert "| b | 70.000 \\[" in text  # although its answers to held-out prompts are missing


def test_a_sweep_that_was_only_run_on_suites_has_its_table(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, RECIPE)
    cards = [(Path("none/card.json"), card(f"toy-{name}-seed1", 50.0)) for name in ("wrpo", "wrpo-alpha0.1")]

    (alpha,) = sweep_reports(recipe, [], cards)

    assert (alpha.sentences, list(alpha.values)) == ((), ["wrpo-alpha0.1", "wrpo"])
    assert alpha.suites[0].differences["wrpo-alpha0.1"].value == 0.0


def test_several_seeds_have_one_mean_whose_error_covers_questions_and_seeds(recipe: Recipe) -> None:
    cards = [card("org/target@abc", 40.0), card("toy-wrpo-seed1", 60.0), card("toy-wrpo-seed2", 66.0)]
    board = method_board(recipe, read_variant_board(recipe), [], [(Path("none/card.json"), row) for row in cards])

    _, suite = board.measures
    assert suite.scores["wrpo"].value == 63.0
    assert suite.scores["wrpo"].se == pytest.approx((4.0**2 + 18.0 / 2) ** 0.5)  # seeds: variance 18, two of them
    gap = suite.to_target["wrpo"]
    assert gap.value == pytest.approx(23.0)
    assert gap.ci_high is not None
    assert gap.ci_high - gap.value > 1.96 * (4.0**2 + 4.0**2) ** 0.5  # more than the questions alone


def measure(name: str, target: float, source: float, work: float = 1.0) -> BoardMeasure:
    def gap(value: float, reference: str) -> dict[str, Gap]:
        verdict: Verdict = "better" if value > 0.5 else "not shown"
        return {"wrpo": Gap(reference=reference, value=value, ci_low=value - 1, ci_high=value + 1, verdict=verdict)}

    scores = {"wrpo": Score(value=work, n=1, unscored=0), "target": Score(value=0.5, n=1, unscored=0)}
    return BoardMeasure(
        name=name,
        file=name,
        higher_is_better=True,
        best_source="a",
        scores=scores,
        to_target=gap(target, "target"),
        to_best_source=gap(source, "a"),
    )


def test_a_methods_sentence_groups_measures_by_verdict_and_ends_with_its_cost() -> None:
    costs = [
        CostRow(model="wrpo", reward=1.0, device_hours=0.5, trained_tokens=12000.0, parameter_tokens=30.0),
        CostRow(model="target", reward=0.5, parameter_tokens=10.0),
    ]

    assert method_sentence("wrpo", [measure("reward", 1.0, 0.1), measure("mt_bench", 0.2, 0.3)], costs) == (
        "wrpo beats the target on reward (+1.000 [0.000, 2.000]); is not shown to differ from the target on mt_bench "
        "(+0.200 [-0.800, 1.200]); is not shown to differ from the best source on reward (a: +0.100 [-0.900, 1.100]), "
        "mt_bench (a: +0.300 [-0.700, 1.300]). It was trained on 12,000 tokens in 0.5 device-hours, and an answer "
        "takes 3 times the target's work."
    )
    assert method_sentence("moa", [], costs[1:]) == "moa was compared with nothing."


def test_the_front_figure_marks_what_nothing_beats() -> None:
    costs = (
        CostRow(model="wrpo", reward=1.0, parameter_tokens=30.0),
        CostRow(model="target", reward=0.5, parameter_tokens=10.0),
    )
    only = measure("reward", 1.0, 0.1, work=0.4)
    board = MethodBoard(recipe="toy", models=("wrpo", "target"), measures=(only,), costs=costs, sentences=())

    drawing = front_figure(board, only)

    assert drawing is not None
    assert "target *" in drawing.inline()
    assert "wrpo *" not in drawing.inline()
    assert front_of([("x", 1.0, 1.0), ("y", 1.0, 1.0), ("z", 0.5, 2.0)]) == {"x", "y"}


CHAIN = """
name: toy
output_dir: OUT
target: hf:org/target@abc
seeds: [1, 2]
prompts: {dataset: "hf:org/prompts", decontaminate: []}
sources: [{name: a, model: "hf:org/a"}, {name: b, model: "hf:org/b"}]
reward: {kind: function, model: "world:reward"}
variants:
  wrpo: {rounds: 2}
  more: {after: wrpo-round2}
  f: {method: fuserl}
  soup: {method: merge, models: [more, f], seeds: all}
"""


def test_training_counts_every_checkpoint_that_a_model_continues_from(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, CHAIN)
    of_more = ["sft", "wrpo-round1", "wrpo-round2", "more"]

    assert _made_of(recipe, "sft", 1) == [("sft", 1)]
    assert _made_of(recipe, "more", 1) == [(name, 1) for name in of_more]
    assert _made_of(recipe, "f", 2) == [("f-sft", 2), ("f", 2)]  # fuserl starts from the target, without SFT
    assert _made_of(recipe, "soup", 1) == [(name, seed) for seed in (1, 2) for name in (*of_more, "f-sft", "f")]
    assert _made_of(recipe, "target", 1) == []


def test_pairs_of_later_rounds_and_of_subsets_are_in_the_data_report(tmp_path: Path) -> None:
    from recipes.report.data import read_data
    from tests.fakes.recipe_folder import finish, pair, write_rows

    recipe = toy_recipe(tmp_path, CHAIN)
    data = json.dumps(
        {
            **dict.fromkeys(("prompts", "pairs", "source_better"), 1),
            "dropped": {},
            "sources": [],
            "target": {
                **dict.fromkeys(("answers", "failed", "truncated", "unrewarded"), 0),
                **dict.fromkeys(("rewards", "characters", "tokens")),
                "model": "target",
            },
            **dict.fromkeys(("margins", "source_margins")),
            **dict.fromkeys(("source_characters", "target_characters", "rejected_characters")),
        }
    )
    names = ["seed-1/pairs", "seed-1/pairs/without-a/samples-1", "seed-1/rounds/wrpo-round1/pairs"]
    for name in names:
        write_rows(recipe.out / name / "pairs.jsonl", [pair("p", "a", (3.0, 2.0, 1.0))])
        (recipe.out / name / "data.json").write_text(data)
        finish("pairs", name, recipe.out / name)

    report = read_data(recipe)

    assert [row.name for row in report.pairs] == names
    assert "seed-1/rounds/wrpo-round1/pairs" in report.counts


def test_equal_results_over_seeds_have_an_interval_and_none_leaves_the_scale(recipe: Recipe, tmp_path: Path) -> None:
    """No question differs in either seed, so the error is the least that a single seed's comparison has."""
    folders = [make_run(tmp_path / "runs", name, pocket("arena_hard"), skill=1.0) for name in ("first", "second")]
    first, second = (read_card(folder / "card.json") for folder in folders)
    both = {1: first, 2: second}
    compared = SuiteComparison(
        recipe, [(folder / "card.json", card) for folder, card in zip(folders, both.values(), strict=True)]
    )

    gap = compared.gaps(SuiteGroup("arena_hard", "arena_hard", {"wrpo": both, "dpo": both}), "dpo")["wrpo"]
    score = compared.score(both)

    assert gap.value == 0
    assert gap.ci_low is not None
    assert gap.ci_high is not None
    assert -gap.ci_low == pytest.approx(gap.ci_high)
    assert 1 < gap.ci_high < 20
    assert gap.p_adjusted == 1
    assert score.value is not None
    assert score.ci_high is not None
    assert score.value < score.ci_high <= 100


def test_a_small_p_beside_an_interval_with_0_shows_no_difference() -> None:
    cautious = HeadlineDifference(difference=-1.4, ci_low=-3.93, ci_high=1.13, p=0.036, paired=True)
    apart = cautious.model_copy(update={"ci_high": -0.1})

    assert [_gap("target", pair, 0.036, True, True).verdict for pair in (cautious, apart)] == ["not shown", "worse"]
