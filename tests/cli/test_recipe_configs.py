"""The shipped recipes: all of them parse, hold the paper's numbers, and are found by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.records import ModelRef
from harness.records.documents import read_yaml
from harness.records.errors import ConfigError
from recipes.spec import CONFIGS, about, launch_path, read_recipe, recipe_path, shipped_recipes
from recipes.training.settings import check_training

FAMILY = {"dpo", "simpo", "ipo", "lndpo", "wrpo", "wrpo-static", "wrpo-simpo", "wrpo-ipo"}
CONTROLS = {"sft-cont", "rft", "wrpo-alpha1"}
TOY = "name: toy\noutput_dir: out\ntarget: t\nprompts: {dataset: p.jsonl}\nsources: [{name: a, model: m}]\n"
TOY += "reward: {kind: function}\nvariants: {dpo: {}}\n"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_parses_and_says_what_it_is(name: str) -> None:
    spec = read_recipe(recipe_path(name))

    assert spec.variants
    assert about(recipe_path(name)).endswith(".")
    assert spec.launch is None or launch_path(spec.launch).is_file()
    for source in spec.sources:
        if source.model is not None:
            ModelRef.parse(source.model)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_training_key_is_one_of_the_trainers(name: str) -> None:
    spec = read_recipe(recipe_path(name))
    parts = [spec.sft, spec.training, *(variant.training for variant in spec.variants.values())]
    for part in parts:  # where there is no GPU, transformers refuses bf16 itself
        part.pop("bf16", None)

    check_training(spec)


def test_the_papers_recipe_has_its_sources_and_numbers() -> None:
    spec = read_recipe(recipe_path("wrpo-llama3-8b"))

    assert len(spec.sources) == 10
    assert set(spec.variants) == FAMILY | CONTROLS  # `sft` is every variant's parent
    assert (spec.sampling.n, spec.sampling.temperature, spec.sampling.top_p) == (5, 0.8, 0.95)
    assert (spec.sft["learning_rate"], spec.training["learning_rate"], spec.training["beta"]) == (7e-6, 3e-7, 0.01)
    assert spec.variants["wrpo"].training == {"alpha": 0.1, "alpha_schedule": "linear"}
    for stage in (spec.sft, spec.training):  # 128 on eight devices
        assert (
            int(str(stage["per_device_train_batch_size"])) * int(str(stage["gradient_accumulation_steps"])) * 8 == 128
        )


def test_fusechat_3_pairs_within_its_margins() -> None:
    spec = read_recipe(recipe_path("fusechat3-llama31-8b"))

    assert (spec.prompts.sft_share, spec.pairs.min_margin, spec.pairs.max_margin) == (0.4, 0.01, 0.1)


def test_a_base_gives_the_sections_a_recipe_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TOY)
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: base.yaml\nname: mine\nvariants: {wrpo: {}}\n")

    spec = read_recipe(mine)

    assert (spec.name, list(spec.variants), spec.target) == ("mine", ["wrpo"], "t")
    assert len(read_recipe(recipe_path("wrpo-llama3-8b-released")).sources) == 1
    assert "wrpo-sources2" in read_recipe(recipe_path("wrpo-llama3-8b-sweep")).variants


def test_a_base_that_is_not_there_or_has_a_base_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: nope\nname: mine\n")
    with pytest.raises(ConfigError, match="no recipe 'nope': neither a file nor one of fusechat3-llama31-8b"):
        read_recipe(mine)

    mine.write_text("base: wrpo-llama3-8b-sweep\n")
    with pytest.raises(ConfigError, match="has a base itself"):
        read_recipe(mine)


def test_launch_is_a_file_or_one_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("distributed_type: NO\n")

    assert launch_path(str(own)) == own
    assert launch_path("zero3") == CONFIGS / "accelerate" / "zero3.yaml"
    assert read_yaml(launch_path("fsdp2"))["num_processes"] == 8
    with pytest.raises(ConfigError, match="launch = 'zero4' is neither a file nor one of ddp, fsdp2, zero3"):
        launch_path("zero4")


def test_train_lists_what_is_shipped_and_names_it_when_asked_for_another() -> None:
    listed = CliRunner().invoke(app, ["train", "--list", "--json"])

    found = {one["name"]: one for one in json.loads(listed.stdout)}
    assert set(found) == set(shipped_recipes())
    assert "wrpo-static" in found["wrpo-llama3-8b"]["variants"]
    with pytest.raises(ConfigError, match="no recipe given"):
        CliRunner().invoke(app, ["train"], catch_exceptions=False)
