"""Sources and ensembles of a recipe as rows beside its variants: what is asked once, chosen, and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness.records import Answer
from harness.records.errors import ConfigError
from recipes.layout import Recipe, RewardRow, rows_in
from recipes.pipeline import all_steps, train
from recipes.report.methods import CostRow, cost_grid, pareto, read_costs
from recipes.rewards.scoring import check_reward
from recipes.rivals import rival_ref, write_team
from recipes.stages.evaluate import suite_settings, suite_steps
from recipes.stages.report import read_variant_board
from recipes.steps import Step, run_step
from tests.fakes.recipe_folder import TEST, VALIDATION, same, toy_recipe, write_held_out, write_prompts

RECIPE = """
name: toy
output_dir: OUT
target: FOLDER/target.jsonl
target_backend: scripted
seeds: [1, 2]
prompts: {dataset: "hf:org/prompts", validation: 2, test: 4, decontaminate: []}
sources:
  - {name: a, model: FOLDER/a.jsonl, backend: scripted, price_in: 1, price_out: 2}
  - {name: b, model: FOLDER/b.jsonl, backend: scripted}
  - {name: c, answers: FOLDER/c.jsonl}
reward: {kind: function, model: "FOLDER/reward.py:length"}
variants:
  dpo: {training: {alpha: 0}}
evaluate: {temperatures: [0.0], suite: mt_bench, edition: pocket, models: MODELS}
"""
REWARD = "def length(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"


def recipe_with(folder: Path, models: str = "[a, best_source, moa]") -> Recipe:
    (folder / "reward.py").write_text(REWARD)
    texts = {"a": "aaaa", "b": "bb", "target": "t"}
    for name, text in texts.items():
        rows = [{"prompt_id": key, "turns": [text]} for key in (*TEST, *VALIDATION)]
        if name == "b":
            rows[0]["turns"] = ["the longest answer"]
        if name == "a":
            rows = rows[:-1]  # no answer to the last validation prompt
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("FOLDER", str(folder)).replace("MODELS", models)
    recipe = toy_recipe(folder, text)
    write_prompts(recipe)
    return recipe


def rival_steps(recipe: Recipe) -> dict[str, Step]:
    return {step.name: step for step in all_steps(recipe) if step.name.startswith("held-out")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_REWARD_CACHE", str(tmp_path / "rewards.sqlite"))


def test_sources_and_ensembles_are_steps_of_the_first_seed_only(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)

    names = [step.name for step in all_steps(recipe) if "held-out" in step.name or "suites" in step.name]

    assert [name for name in names if not name.startswith("seed")] == [
        *("held-out/target", "held-out/a", "held-out/b", "held-out/moa", "held-out/best_source"),
        *("suites/a", "suites/best_source", "suites/moa"),  # b answers only because best_source needs it
    ]
    assert recipe_with(tmp_path, "[all]").rivals == ()


def test_the_best_source_answer_is_chosen_per_prompt_and_compared_with_the_best_source(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)
    for step in rival_steps(recipe).values():
        if step.name != "held-out/moa":
            run_step(step)
    for seed in recipe.seeds:
        write_held_out(recipe, "dpo", seed, same([3.0, 3.5, 3.0, 3.0]))

    folder = recipe.held_out("best_source", 1) / "t0"
    answers = {row.prompt_id: row for row in rows_in(folder / "answers.jsonl", Answer)}
    rewards = {row.prompt_id: row.value for row in rows_in(folder / "rewards.jsonl", RewardRow)}
    assert answers["t0"].turns == ("the longest answer",)
    assert answers["t1"].turns == ("aaaa",)
    assert answers["v1"].turns == ("bb",)  # a has no answer
    assert rewards["t0"] == 18
    assert [(work.member, work.calls) for work in answers["t1"].work] == [("a", 1), ("b", 1)]

    costs = {row.model: row for row in read_costs(recipe, read_variant_board(recipe))}
    assert (costs["a"].calls, costs["best_source"].calls) == (1, 2)  # a request that failed is a call
    assert costs["best_source"].parameter_tokens is None  # recorded answers have no weights

    board = read_variant_board(recipe)
    means = {row.model: row.reward.value for row in board.models}
    assert means["best_source"] == pytest.approx((18 + 4 + 4 + 4) / 4)
    assert means["a"] == 4
    assert "a" in board.baselines  # the best source on validation prompts: mean 4 of one answer, b has 2
    assert {(row.model, row.baseline) for row in board.differences} >= {("dpo", "a"), ("dpo", "target")}
    assert any(sentence.startswith("best_source: ") and "not shown to beat" in sentence for sentence in board.sentences)


def test_a_row_is_on_the_front_if_no_other_has_more_reward_for_less_work() -> None:
    rows = [
        CostRow(model=name, reward=reward, parameter_tokens=work)
        for name, reward, work in (("big", 0.9, 100.0), ("small", 0.5, 10.0), ("bad", 0.4, 10.0), ("worse", 0.5, 20.0))
    ]

    assert [row.model for row in pareto([*rows, CostRow(model="unknown", reward=1.0)])] == ["big", "small"]
    assert [line[0] for line in cost_grid(rows).rows] == ["big *", "small *", "bad", "worse"]


def test_a_mixture_of_agents_answers_the_held_out_prompts(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)
    step = rival_steps(recipe)["held-out/moa"]

    run_step(step)

    answers = {row.prompt_id: row for row in rows_in(step.folder / "t0" / "answers.jsonl", Answer)}
    assert {row.turns for row in answers.values()} == {("t",)}
    assert [(work.member, work.calls) for work in answers["t0"].work] == [("a", 1), ("b", 1), ("target", 1)]
    assert answers["t0"].work[0].dollars is not None
    assert list(step.folder.glob("members/**/*.jsonl")) != []


def test_a_team_has_the_recipes_sources_and_a_key_only_for_endpoints(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)

    team = yaml.safe_load(write_team(recipe, "moa").read_text())

    assert list(team["members"]) == ["a", "b"]
    assert team["members"]["a"] == {
        "model": str(tmp_path / "a.jsonl"),
        "backend": "scripted",
        "price_in": 1.0,
        "price_out": 2.0,
        "serve": {},
    }
    assert team["aggregator"] in team["others"]
    assert str(rival_ref(recipe, "best_source")).startswith("best_of:")
    assert rival_ref(recipe, "a").label == "toy-a"
    assert [step.name for step in suite_steps(recipe, [])][:1] == ["suites/a"]


def test_a_reward_that_cannot_score_questions_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)
    (tmp_path / "reward.py").write_text("def length(prompts, completions, gold):\n    return [1.0 for _ in gold]\n")
    for name in ("a", "b", "target"):
        (tmp_path / f"{name}.jsonl").unlink()
        (tmp_path / f"{name}.jsonl").mkdir()  # as if it were a model
    (tmp_path / "c.jsonl").touch()

    with pytest.raises(ConfigError, match="needs the column 'gold', which questions of suites do not have"):
        list(train(recipe))
    assert not (tmp_path / "out" / "resolved.yaml").exists()
    check_reward(recipe.spec.reward)  # of held-out prompts, which have the recipe's columns


def test_a_recipe_words_the_aggregators_instructions(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, '[moa], moa: {template: "Pick one: {answers}"}')
    step = rival_steps(recipe)["held-out/moa"]

    run_step(step)

    team = yaml.safe_load(recipe.team("moa").read_text())
    assert team["template"] == "Pick one: {answers}"
    assert step.settings["moa"] == {"aggregator": "target", "layers": 2, "template": "Pick one: {answers}"}
    assert suite_settings(recipe, "moa", 1)["moa"] == step.settings["moa"]
    with pytest.raises(ConfigError, match=r"needs \{answers\} once, where the answers go, not 0 times"):
        recipe_with(tmp_path, "[moa], moa: {template: Pick one}")


def test_rows_that_load_all_their_models_may_share_the_machine_and_those_with_servers_not(tmp_path: Path) -> None:
    text = RECIPE.replace("backend: scripted", "backend: in_process").replace("FOLDER", str(tmp_path))
    text = text.replace("MODELS", "[a, best_source, moa, dpo]")
    text = text.replace("target_backend: in_process", "target_backend: scripted")

    def sharing(text: str) -> set[str]:
        return {step.name for step in all_steps(toy_recipe(tmp_path, text)) if step.alone and step.one_core}

    assert sharing(text) == {"suites/a", "suites/best_source"}  # the aggregator is the target, which is scripted
    served = text.replace("target_backend: scripted", "target_backend: in_process")
    assert sharing(served) == {"suites/a", "suites/best_source", "suites/moa", "held-out/moa"}
    assert sharing(served.replace("suite: mt_bench", "suite: mt_bench, backend: in_process")) == {
        *("suites/a", "suites/best_source", "suites/moa", "held-out/moa"),
        "seed-1/suites/dpo",
    }
    assert sharing(served.replace("edition: pocket", "judge: local")) == {"held-out/moa"}  # it may start a judge


def test_names_that_cannot_be_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate names 'c', .*; models: dpo, sft, target, a, b, best_source, moa"):
        recipe_with(tmp_path, "[c]")
    with pytest.raises(ConfigError, match="aggregator = 'c' cannot be asked"):
        recipe_with(tmp_path, "[moa], moa: {aggregator: c}")
