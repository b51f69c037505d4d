"""What the report stage writes: leaderboard, page, data, curves, model cards that the Hub's own reader understands."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from huggingface_hub import ModelCard
from scipy import stats

from harness.store import dump_json
from harness.store.checkpoint import weights_digest
from recipes.layout import PromptRow, Recipe
from recipes.pairs import PairTally, Tally
from recipes.report.curves import read_log, training_curves
from recipes.report.data import data_grids, read_data
from recipes.stages.report import report_step
from recipes.steps import run_step
from tests.fakes.recipe_folder import (
    finish,
    pair,
    prompt,
    same,
    toy_recipe,
    write_checkpoint,
    write_held_out,
    write_prompts,
    write_rows,
)

LOG = [
    {
        "step": step,
        "loss": 0.7 - step / 100,
        "rewards/source_chosen": 0.0,
        "rewards/rejected": -0.1 * step,
        "alpha": 0.1,
    }
    for step in range(1, 4)
]


def write_pairs(recipe: Recipe) -> None:
    rows = [pair("p0", "a", (0.9, 0.8, 0.1)), pair("p1", "b", (0.5, 0.7, 0.4)), pair("p2", "a", (0.8, 0.6, 0.2))]
    folder = recipe.seed(1) / "pairs"
    write_rows(folder / "pairs.jsonl", rows)
    counted = PairTally()
    for row in rows:
        counted.add(row)
    tallies = [Tally(name, frozenset()) for name in ("a", "b")]
    data = counted.data(tallies, Tally("target", frozenset()))
    (folder / "data.json").write_text(dump_json(data.model_dump(mode="json")))
    finish("pairs", "seed-1/pairs", folder)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    found = toy_recipe(tmp_path)
    write_prompts(found)
    write_pairs(found)
    for seed in found.seeds:
        for model, more in (("sft", 0.0), ("dpo", 0.1), ("wrpo", 0.4), ("sft-cont", 0.1)):
            # wrpo gains unequally, or nothing would show how much its gain varies
            base = (0.1, 0.2, 0.3, 0.4) if model == "wrpo" else (0.11, 0.19, 0.31, 0.39)
            values = tuple(value + more for value in base)
            write_held_out(found, model, seed, same(values))
            write_checkpoint(found, model, seed, LOG if model == "wrpo" else ())
    return found


@pytest.mark.slow
def test_the_report_holds_every_part(recipe: Recipe) -> None:
    record = run_step(report_step(recipe, []))

    assert {"variants.json", "variants.md", "variants.html", "data.json", "data.md", "curves-wrpo.svg"} <= set(
        record.outputs
    )
    assert record.counts == {"models": 4, "figures": 1, "model_cards": 12}
    found = json.loads((recipe.report / "variants.json").read_text())
    assert found["sentences"][1].startswith("wrpo: beats dpo (T 0 +0.300 [0.282, 0.318]")
    page = (recipe.report / "variants.html").read_text()
    assert "wrpo: beats dpo" in page
    assert "Training curves of wrpo" in page


def test_the_report_is_made_anew_each_time_and_training_is_not_disturbed(recipe: Recipe) -> None:
    run_step(report_step(recipe, []))
    write_held_out(recipe, "target", 1, same((0.0, 0.0, 0.0, 0.0)))

    run_step(report_step(recipe, []))

    assert "Difference to target" in (recipe.report / "variants.md").read_text()
    finish("align", "wrpo/1", recipe.variant("wrpo", 1), beta=0.01, base="/home/someone/models/base")  # is still done


def test_a_recipe_without_test_prompts_has_a_report_that_compares_nothing(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    write_rows(recipe.prompts / "prompts.jsonl", [PromptRow(prompt=prompt("v0"), part="validation")])
    finish("prompts", "prompts", recipe.prompts)
    write_held_out(recipe, "wrpo", 1, same((0.1, 0.2, 0.3, 0.4)))

    run_step(report_step(recipe, []))

    found = json.loads((recipe.report / "variants.json").read_text())
    assert [row["reward"]["value"] for row in found["models"]] == [None, None]
    assert found["models"][0]["validation"] == pytest.approx(0.25)
    assert found["differences"] == []


def test_a_name_from_elsewhere_is_escaped_in_the_page(recipe: Recipe) -> None:
    path = recipe.seed(1) / "pairs" / "data.json"
    data = json.loads(path.read_text())
    data["sources"][0]["model"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(data))

    run_step(report_step(recipe, []))

    assert "<script>alert" not in (recipe.report / "variants.html").read_text()
    assert "&lt;script&gt;alert" in (recipe.report / "variants.html").read_text()
    assert "<script>" not in (recipe.report / "data.md").read_text()


def test_the_data_report_says_who_won_and_how_rewards_are_spread(recipe: Recipe) -> None:
    """y_ws: a twice, b once; y_ws above y_wt on p0 and p2; rewards of y_l 0.1, 0.2, 0.4: mean 0.2333, median 0.2."""
    grids = {grid.title: grid for grid in data_grids(read_data(recipe))}

    won = grids["Which source gave y_ws, seed-1/pairs (3 pairs of 3 prompts)"]
    assert won.rows == (("a", "2", "66.7"), ("b", "1", "33.3"), ("y_ws above y_wt", "2", "66.7"))
    worst = next(row for row in grids["Rewards of the pairs, seed-1/pairs"].rows if row[0].startswith("y_l"))
    assert (worst[1], worst[5]) == ("0.233", "0.200")
    assert ("seed-1/pairs", "made", "1") in grids["Counts of each step"].rows


def test_curves_are_a_drawing_of_each_seed_and_their_mean(recipe: Recipe) -> None:
    logs = [read_log(recipe.variant("wrpo", seed)) for seed in recipe.seeds]

    drawing = training_curves("wrpo", logs)

    assert drawing is not None
    root = ElementTree.fromstring(drawing.standalone())
    lines = [node for node in root.iter() if node.tag.endswith("polyline")]
    assert len(lines) == 4 * (3 + 1)  # loss, two rewards, alpha: three seeds and their mean each
    assert training_curves("empty", [[]]) is None


def test_a_log_that_was_torn_and_resumed_counts_each_step_once(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 0.7}', '{"step": 2, "lo', '{"step": 2, "loss": 0.6}', '{"step": 2, "eval_loss": 0.5}']
    (tmp_path / "training_log.jsonl").write_text("\n".join(lines))

    assert read_log(tmp_path) == [{"step": 1.0, "loss": 0.7}, {"step": 2.0, "loss": 0.6, "eval_loss": 0.5}]


def test_a_long_log_is_thinned_by_averaging(tmp_path: Path) -> None:
    drawing = training_curves("long", [[{"step": float(step), "loss": 1.0} for step in range(1000)]])

    assert drawing is not None
    assert max(part.count(",") for part in drawing.parts if part.startswith("<polyline")) == 250


def test_the_card_reads_back_as_the_hub_reads_it(recipe: Recipe) -> None:
    run_step(report_step(recipe, []))

    card = ModelCard.load(recipe.variant("wrpo", 2) / "README.md")

    assert (card.data.base_model, card.data.license) == ("org/target", "apache-2.0")
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert card.data.datasets == ["org/prompts"]
    assert {"model-fusion", "wrpo", "fused-from:org/a"} <= set(card.data.tags or [])
    results = {one.dataset_config: one for one in card.data.eval_results or []}
    assert set(results) == {"T 0", "T 0.3"}
    assert results["T 0"].metric_value == pytest.approx(0.65)
    half = stats.t.ppf(0.975, 3) * stats.sem((0.5, 0.6, 0.7, 0.8))
    assert results["T 0"].metric_args == {
        "ci_low": pytest.approx(0.65 - half, abs=1e-6),
        "ci_high": pytest.approx(0.65 + half, abs=1e-6),
        "confidence": 95,
        "n": 4,
    }
    assert card.data.model_name == "toy-wrpo"


def test_the_card_says_where_it_comes_from_and_nothing_of_this_machine(recipe: Recipe) -> None:
    before = weights_digest(recipe.variant("wrpo", 2), None)
    run_step(report_step(recipe, []))
    text = (recipe.variant("wrpo", 2) / "README.md").read_text()

    for said in (
        "| a | org/a | mit |",
        "| b | answers in b.jsonl | not stated |",
        "| beta | 0.01 |",
        "seed 2",
        "## Limits",
    ):
        assert said in text
    assert "/home/someone" not in text
    assert str(recipe.out) not in text
    assert weights_digest(recipe.variant("wrpo", 2), None) == before
    assert "It was not shown to be better" not in text
    assert "It was not shown to be better" not in (recipe.seed(2) / "sft" / "README.md").read_text()
