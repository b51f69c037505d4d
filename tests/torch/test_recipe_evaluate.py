"""Stage evaluate with a real small model in process: held-out rewards, then the suites under names of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.records import Answer
from harness.records.errors import ConfigError, IncompleteError
from harness.store import JsonlRows
from recipes.layout import Counts, Recipe, RewardRow
from recipes.report.board import temperature_folder
from recipes.report.data import read_all_measured
from recipes.spec import EvaluateSpec
from recipes.stages.evaluate import best_variant, held_out_steps, suite_steps
from recipes.stages.report import report_step
from recipes.steps import Step, run_step
from tests.fakes.recipe_folder import finish, toy_recipe, write_prompts
from tests.fakes.tiny_models import make_checkpoint

RECIPE = """
name: toy
output_dir: OUT
target: TARGET
seeds: [1, 2]
prompts: {dataset: "hf:org/prompts", validation: 2, test: 4, decontaminate: []}
sources: [{name: a, model: "hf:org/a"}]
sampling: {max_tokens: 8}
target_backend: in_process
reward: {kind: function, model: "REWARD:length"}
variants: {wrpo: {}}
evaluate:
  temperatures: [0.0, 0.7]
  samples: 2
  suite: arena_hard
  edition: pocket
  limit: 1
  backend: in_process
  serve: {max_model_len: 400}
"""
REWARD = "def length(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"


def step(recipe: Recipe, stage: str, name: str, folder: Path) -> Step:
    def work(_: Path) -> Counts:
        raise AssertionError("it is done")

    return Step(stage, name, folder, {}, work)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Trained already: a tiny checkpoint of its own for each model and seed."""
    (tmp_path / "reward.py").write_text(REWARD)
    target = make_checkpoint(tmp_path / "target")
    text = RECIPE.replace("TARGET", str(target)).replace("REWARD", str(tmp_path / "reward.py"))
    recipe = toy_recipe(tmp_path, text)
    write_prompts(recipe)
    for place_, (model, seed) in enumerate((m, s) for s in recipe.seeds for m in ("sft", *recipe.variants)):
        folder = recipe.checkpoint(model, seed)
        assert folder is not None
        make_checkpoint(folder, seed=place_ + 1)
        finish("align", f"seed-{seed}/{model}", folder)
    return recipe


def steps_of(recipe: Recipe) -> list[Step]:
    prompts = step(recipe, "prompts", "prompts", recipe.prompts)
    found: list[Step] = []
    for seed in recipe.seeds:
        models = [
            step(recipe, "align", f"seed-{seed}/{model}", folder)
            for model in ("sft", *recipe.variants)
            if (folder := recipe.checkpoint(model, seed)) is not None
        ]
        found += [*models, *held_out_steps(recipe, seed, prompts, models)]
    return found


@pytest.mark.slow
def test_every_model_is_asked_and_rewarded_and_the_target_once(recipe: Recipe) -> None:
    steps = [one for one in steps_of(recipe) if one.stage == "evaluate"]

    for one in steps:
        run_step(one)

    assert [one.name for one in steps] == [
        "held-out/target",
        *(f"seed-{seed}/held-out/{model}" for seed in (1, 2) for model in ("sft", "wrpo")),
    ]
    folder = recipe.held_out("wrpo", 2)
    greedy = JsonlRows(temperature_folder(folder, 0.0) / "answers.jsonl", Answer).read()
    drawn = JsonlRows(temperature_folder(folder, 0.7) / "answers.jsonl", Answer).read()
    assert (len(greedy), len(drawn)) == (6, 12)
    rewards = JsonlRows(temperature_folder(folder, 0.7) / "rewards.jsonl", RewardRow).read()
    texts = {f"{one.key}|{one.sha}": one.turns[0] for one in drawn if one.error is None}
    assert {row.key: row.value for row in rewards} == {key: float(len(text)) for key, text in texts.items()}
    record = run_step(steps[-1])
    assert {"t0/answers.jsonl", "t0.7/rewards.jsonl", "identity.json"} <= set(record.outputs)
    assert str(recipe.out) not in json.dumps(record.settings)
    assert len(read_all_measured(recipe)) == 5 * 2 * 2  # models, temperatures, parts


@pytest.mark.slow
def test_a_step_killed_before_its_rewards_asks_nothing_again(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    one = next(one for one in steps_of(recipe) if one.name == "seed-1/held-out/wrpo")
    with monkeypatch.context() as stopped:
        stopped.setattr("recipes.stages.evaluate.score_answers", _killed)
        with pytest.raises(KeyboardInterrupt):
            run_step(one)
    answers = (temperature_folder(one.folder, 0.7) / "answers.jsonl").read_bytes()

    record = run_step(one)

    assert record.counts["session_answers"] == 0
    assert (temperature_folder(one.folder, 0.7) / "answers.jsonl").read_bytes() == answers
    assert record.counts["rewarded"] == record.counts["answers"]


def _killed(*given: object, **named: object) -> Counts:
    raise KeyboardInterrupt


def test_a_model_that_never_answers_is_unscored_and_stops_nothing(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a variant that collapsed and ends every answer at once."""
    monkeypatch.setattr("recipes.stages.evaluate.sample", _fail_all)
    one = next(one for one in steps_of(recipe) if one.name == "seed-1/held-out/wrpo")

    assert run_step(one).counts["rewarded"] == 0

    assert {measured.unscored for measured in read_all_measured(recipe)} == {2, 4, 8}


def _fail_all(sampler: object, wanted: list[object], folder: Path) -> Counts:
    from recipes.sampling import AnswerFile
    from tests.fakes.recipe_folder import toy_answer, write_rows

    for one in wanted:
        assert isinstance(one, AnswerFile)
        write_rows(one.path, [toy_answer(draw.prompt.id, "wrpo", draw.index, None) for draw in one.draws()])
    return {}


@pytest.mark.slow
def test_checkpoints_go_through_the_suites_under_names_that_stay_apart(recipe: Recipe) -> None:
    chosen = recipe.spec.evaluate.model_copy(update={"models": ("wrpo", "best"), "suite_seeds": "all"})
    recipe = Recipe(recipe.spec.model_copy(update={"evaluate": chosen}), recipe.variants, recipe.seeds)
    steps = steps_of(recipe)
    for one in steps:
        if one.stage == "evaluate":
            run_step(one)

    found = {one.name: run_step(one) for one in suite_steps(recipe, steps)}

    best = best_variant(recipe)
    assert {name: record.counts["model"] for name, record in found.items()} == {
        **{f"seed-{seed}/suites/wrpo": f"toy-wrpo-seed{seed}" for seed in (1, 2)},
        **{f"seed-{seed}/suites/best": f"toy-{best}-seed{seed}" for seed in (1, 2)},
    }
    run_step(report_step(recipe, []))
    board = (recipe.report / "suites.md").read_text()
    assert "toy-wrpo-seed1" in board
    assert "toy-wrpo-seed2" in board
    again = [one for one in suite_steps(Recipe(recipe.spec, {}, recipe.seeds), steps) if "best" in one.name]
    assert [run_step(one).counts for one in again] == [found[one.name].counts for one in again]  # of no variant now
    shutil.rmtree(recipe.suites("wrpo", 1))  # as where it is trained anew: the results stay, the scores are not its own
    shutil.rmtree(recipe.suites("best", 1))
    run_step(report_step(recipe, []))
    assert "toy-wrpo-seed1" not in (recipe.report / "suites.md").read_text()
    assert "arena_hard pocket" in (recipe.variant("wrpo", 2) / "README.md").read_text()


def test_what_cannot_be_evaluated_is_said_before_anything_is_trained(recipe: Recipe) -> None:
    def with_(**changed: object) -> Recipe:
        evaluate = EvaluateSpec.model_validate(recipe.spec.evaluate.model_dump() | changed)
        return Recipe(recipe.spec.model_copy(update={"evaluate": evaluate}), recipe.variants, recipe.seeds)

    with pytest.raises(ConfigError, match="no suite named 'mt_bunch'"):
        suite_steps(with_(suite="mt_bunch"), [])
    with pytest.raises(ConfigError, match="judge"):
        suite_steps(with_(judge="no-such-judge"), [])
    prompts = recipe.spec.prompts.model_copy(update={"validation": 0})
    blind = with_(models=("best",))
    spec = blind.spec.model_copy(update={"prompts": prompts})
    with pytest.raises(ConfigError, match="needs validation prompts"):
        suite_steps(Recipe(spec, blind.variants, blind.seeds), [])
    with pytest.raises(IncompleteError, match="there is no best one"):
        best_variant(recipe)


def test_without_held_out_prompts_and_suites_there_is_nothing_to_do(recipe: Recipe) -> None:
    spec = recipe.spec.model_copy(
        update={
            "prompts": recipe.spec.prompts.model_copy(update={"validation": 0, "test": 0}),
            "evaluate": EvaluateSpec(),
        }
    )
    bare = Recipe(spec, recipe.variants, recipe.seeds)

    assert held_out_steps(bare, 1, step(bare, "prompts", "prompts", bare.prompts), []) == []
    assert suite_steps(bare, []) == []
