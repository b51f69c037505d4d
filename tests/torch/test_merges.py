"""Merges: mergekit's own tensors, from the models that the recipe names, and refusals before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("mergekit")

from safetensors.torch import load_file

from harness.records.errors import ConfigError
from recipes.layout import Counts, Recipe
from recipes.report.data import checkpoints
from recipes.spec import MergeSpec, read_recipe
from recipes.stages.evaluate import merged_held_out_steps
from recipes.stages.merge import check_mergeable, check_merges, merge_config, merge_steps, run_mergekit
from recipes.steps import Step, run_step
from tests.fakes.recipe_folder import finish, recipe_of, toy_recipe
from tests.fakes.tiny_models import make_checkpoint

RECIPE = """
name: toy
output_dir: OUT
target: TARGET
seeds: [1, 2]
prompts: {dataset: "hf:org/prompts", validation: 2, test: 4, decontaminate: []}
sources: [{name: a, model: SOURCE}]
reward: {kind: function, model: "world:reward"}
variants:
  dpo: {training: {alpha: 0}}
  wrpo: {training: {alpha: 0.1}}
  soup: {method: merge, models: [wrpo], seeds: all}
  both: {method: merge, merge: sce, models: [dpo, wrpo], topk: 0.5}
  fused: {method: merge, merge: ties, models: [a, sft], density: 0.5, weights: [0.3, 0.7]}
  mixed: {method: merge, models: [wrpo, a], seeds: all, weights: [1, 3]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    target, source = make_checkpoint(tmp_path / "target"), make_checkpoint(tmp_path / "source", seed=9)
    recipe = toy_recipe(tmp_path, RECIPE.replace("TARGET", str(target)).replace("SOURCE", str(source)))
    for number, (model, seed) in enumerate((model, seed) for seed in (1, 2) for model in ("sft", "dpo", "wrpo")):
        folder = recipe.checkpoint(model, seed)
        assert folder is not None
        make_checkpoint(folder, seed=number + 1)
        finish("align", f"seed-{seed}/{model}", folder)
    return recipe


def trained_steps(recipe: Recipe) -> list[Step]:
    def work(_: Path) -> Counts:
        raise AssertionError("it is done")

    return [
        Step("align", f"seed-{seed}/{model}", folder, {}, work)
        for seed in recipe.seeds
        for model in ("sft", "dpo", "wrpo")
        if (folder := recipe.checkpoint(model, seed)) is not None
    ]


def weights(folder: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


@pytest.mark.slow
def test_a_soup_is_the_mean_of_all_seeds_and_a_row_of_one(recipe: Recipe) -> None:
    steps = {step.name: step for step in merge_steps(recipe, trained_steps(recipe))}

    assert sorted(steps) == [
        *("seed-1/align/both", "seed-1/align/fused", "seed-1/align/mixed", "seed-1/align/soup"),
        *("seed-2/align/both", "seed-2/align/fused"),
    ]
    soup = steps["seed-1/align/soup"]
    assert [step.name for step in soup.inputs] == ["seed-1/wrpo", "seed-2/wrpo"]
    run_step(soup)

    first, second = weights(recipe.variant("wrpo", 1)), weights(recipe.variant("wrpo", 2))
    merged = weights(soup.folder)
    assert set(merged) == set(first)
    for name, tensor in merged.items():
        assert (tensor - (first[name] + second[name]) / 2).abs().max() < 1e-6
    assert json.loads((soup.folder / "fusion.json").read_text())["method"] == "merge, linear"
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (soup.folder / name).read_bytes() == (recipe.variant("wrpo", 1) / name).read_bytes()
    assert ("soup", 1) in [(row.model, row.seed) for row in checkpoints(recipe)]
    assert [step.name for step in merged_held_out_steps(recipe, 1, soup, [soup])] == ["seed-1/held-out/soup"]


@pytest.mark.slow
def test_a_merge_of_variants_starts_from_the_sft_model_and_one_with_sources_from_the_target(recipe: Recipe) -> None:
    steps = {step.name: step for step in merge_steps(recipe, trained_steps(recipe))}

    assert [step.name for step in steps["seed-2/align/both"].inputs] == ["seed-2/sft", "seed-2/dpo", "seed-2/wrpo"]
    assert [step.name for step in steps["seed-2/align/fused"].inputs] == ["seed-2/sft"]
    fused = steps["seed-1/align/fused"]
    run_step(fused)
    config = yaml.safe_load((fused.folder / "mergekit.yaml").read_text())
    assert config["base_model"].endswith("/target")
    assert [model["parameters"] for model in config["models"]] == [
        {"weight": 0.3, "density": 0.5},
        {"weight": 0.7, "density": 0.5},
    ]
    assert not (fused.folder / "merging").exists()


@pytest.mark.slow
def test_a_source_is_one_model_however_many_seeds_are_merged(recipe: Recipe) -> None:
    mixed = {step.name: step for step in merge_steps(recipe, trained_steps(recipe))}["seed-1/align/mixed"]

    run_step(mixed)

    first, second = weights(recipe.variant("wrpo", 1)), weights(recipe.variant("wrpo", 2))
    source = weights(Path(recipe.spec.sources[0].model or ""))
    for name, tensor in weights(mixed.folder).items():
        assert (tensor - (first[name] + second[name] + 3 * source[name]) / 5).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "keys", "expected"),
    [
        ("linear", {"weights": (1.0, 3.0)}, {"weight": True}),
        ("slerp", {"t": 0.25}, {"parameters": {"t": 0.25}, "base": "a"}),
        ("ties", {"density": 0.5}, {"weight": True, "base": "base"}),
        ("dare_ties", {"density": 0.5}, {"weight": True, "base": "base"}),
        ("model_stock", {}, {"base": "base"}),
        ("sce", {"topk": 0.3}, {"parameters": {"select_topk": 0.3}, "base": "base"}),
    ],
)
def test_a_merge_equals_mergekits_own(
    tmp_path: Path, method: Any, keys: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The expected configuration is written by hand from mergekit's README."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    folders = {name: make_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "a", "b"))}
    spec = MergeSpec(merge=method, models=("a", "b"), **keys)

    weight = dict(zip("ab", keys.get("weights", (1.0, 1.0)), strict=True))
    by_folder = {folders[name]: number for name, number in weight.items()}

    run_mergekit(merge_config(spec, by_folder, folders["base"]), tmp_path / "ours", seed=7)

    models = []
    for name in "ab":
        parameters = {"weight": weight[name]} if "weight" in expected else {}
        parameters |= {"density": keys["density"]} if "density" in keys else {}
        models.append({"model": str(folders[name]), "parameters": parameters})
    config = {"merge_method": method, "models": models, "parameters": expected.get("parameters")}
    if "base" in expected:
        config["base_model"] = str(folders[expected["base"]])
    choices = MergeOptions(copy_tokenizer=False, random_seed=7)
    choices.apply_global_options()
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "theirs"), options=choices)
    ours, theirs = weights(tmp_path / "ours"), weights(tmp_path / "theirs")
    assert set(ours) == set(theirs)
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_models_that_cannot_be_merged_are_refused_before_anything_runs(recipe: Recipe, tmp_path: Path) -> None:
    check_merges(recipe)
    odd = make_checkpoint(tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"architectures": ["GemmaForCausalLM"]}))
    with pytest.raises(ConfigError, match=r"'odd' and 'target' have different architectures \(architecture: Gemma"):
        check_mergeable("m", {"target": tmp_path / "target", "odd": odd})

    tokenizer = json.loads((tmp_path / "source" / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 999, "content": "<new>"})
    (tmp_path / "source" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="merge 'fused': 'sft' and 'a' have different vocabularies"):
        check_merges(recipe)


@pytest.mark.parametrize(
    ("merge", "sentence"),
    [
        ("{models: [wrpo]}", "has one model only"),
        ("{models: [wrpo, nobody]}", "names 'nobody', which has no weights; models: dpo, wrpo, sft, target, a"),
        ("{merge: slerp, models: [wrpo, dpo, sft]}", "slerp merges two models of one seed"),
        ("{models: [wrpo, dpo], base: sft}", "`base` has no meaning for linear"),
        ("{models: [wrpo, dpo], weights: [1]}", "1 weights for 2 models"),
        ("{merge: dare, models: [wrpo, dpo]}", "merge = 'dare'"),
    ],
)
def test_a_wrong_merge_is_one_sentence(tmp_path: Path, merge: str, sentence: str) -> None:
    text = RECIPE.replace("{method: merge, models: [wrpo], seeds: all}", "{method: merge, " + merge[1:])
    (tmp_path / "recipe.yaml").write_text(text)

    with pytest.raises(ConfigError, match="merge") as error:
        recipe_of(read_recipe(tmp_path / "recipe.yaml"))
    assert sentence in str(error.value)
