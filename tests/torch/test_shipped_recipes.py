"""The shipped recipes as they are typed: they train a Llama without a pad token, log and survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from recipes.layout import Recipe  # noqa: E402
from recipes.spec import read_recipe, recipe_path  # noqa: E402
from recipes.steps import Step, run_step  # noqa: E402
from recipes.worlds.tiny import EOS, build_tokenizer  # noqa: E402
from tests.fakes.training_steps import aligned, log_of, made, one_thread, pairs_of, sft_of, target_folder  # noqa: E402

__all__ = ["one_thread"]  # a fixture
RECIPES = ("wrpo-llama3-8b", "fusechat3-llama31-8b")
PAD = {"wrpo-llama3-8b": "<|reserved_special_token_250|>", "fusechat3-llama31-8b": "<|finetune_right_pad_id|>"}


def padless(folder: Path) -> Path:
    """A target as both Llamas are: its tokenizer has no pad token."""
    target_folder(folder)
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return folder


def on_a_cpu(keys: dict[str, Any]) -> dict[str, Any]:
    return {**keys, "bf16": False, "use_cpu": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}


def small(name: str, out: Path, target: Path) -> Recipe:
    """The recipe with its own keys, whatever the machine allows of them, on a tiny target."""
    spec = read_recipe(recipe_path(name))
    variants = {
        variant: entry.model_dump(exclude_unset=True)
        for variant, entry in spec.variants.items()
        if variant in ("wrpo", "lndpo")
    }
    return made(out, target, sft=on_a_cpu(spec.sft), training=on_a_cpu(spec.training), variants=variants)


@pytest.mark.slow
@pytest.mark.parametrize("name", [RECIPES[0], pytest.param(RECIPES[1], marks=pytest.mark.slow)])
def test_a_shipped_recipe_starts_logs_and_leaves_checkpoints(tmp_path: Path, name: str) -> None:
    recipe = small(name, tmp_path / "out", padless(tmp_path / "target"))
    sft = sft_of(recipe, count=20)
    run_step(sft)
    steps = aligned(recipe, sft, pairs_of(recipe, count=20))
    for step in steps:
        run_step(step)

    assert len(steps) == 2
    assert [entry["step"] for entry in log_of(steps[0]) if "loss" in entry] == [10, 20]


def test_both_llamas_name_a_pad_token_of_their_vocabulary() -> None:
    assert {name: read_recipe(recipe_path(name)).pad_token for name in RECIPES} == PAD
    assert read_recipe(recipe_path("wrpo-llama3-8b-released")).pad_token == PAD["wrpo-llama3-8b"]


def test_a_recipe_with_another_target_does_not_inherit_the_bases_pad_token(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: wrpo-llama3-8b\nname: mine\ntarget: hf:Qwen/Qwen2.5-7B-Instruct\n")

    assert (read_recipe(mine).pad_token, read_recipe(mine).target_license) == (None, None)


@pytest.mark.slow
def test_without_a_pad_token_the_end_token_pads_and_is_still_learned(tmp_path: Path) -> None:
    from recipes.training.rows import Rows
    from recipes.training.templates import load_tokenizer

    folder = padless(tmp_path / "target")
    tokenizer = load_tokenizer(str(folder))
    sft = sft_of(made(tmp_path / "out", folder), count=4)
    run_step(sft)
    rows = Rows(next((sft.folder.parent / "rows").iterdir())).load()

    assert tokenizer.pad_token == EOS
    assert all(ids[-1] == tokenizer.eos_token_id for ids in rows["source_ids"])


@pytest.mark.parametrize(("rows", "every"), [(8, 1), (100, 3), (311 * 4, 32)])
def test_a_kill_at_four_fifths_loses_a_tenth_of_the_steps_at_most(tmp_path: Path, rows: int, every: int) -> None:
    """The paper's 311 steps of 128 left no checkpoint at transformers' 500 steps."""
    from transformers import TrainerState

    from recipes.training.settings import TrainingSettings, trainer_config

    config = trainer_config(TrainingSettings(trainer={"use_cpu": True}), "preference", str(tmp_path), seed=0)
    state = TrainerState()
    state.compute_steps(config, max_steps=(rows + 3) // 4)

    assert (config.logging_steps, state.save_steps) == (10, every)


def saved_steps(step: Step) -> list[str]:
    return sorted(path.name for path in (step.folder / "checkpoints").glob("checkpoint-*"))


@pytest.mark.slow
def test_the_last_checkpoints_stay_if_asked_for(tmp_path: Path) -> None:
    recipe = made(
        tmp_path / "out",
        target_folder(tmp_path / "target"),
        sft={"use_cpu": True, "per_device_train_batch_size": 1, "save_total_limit": 2},
    )
    step = sft_of(recipe, count=20)
    run_step(step)

    assert saved_steps(step) == ["checkpoint-18", "checkpoint-20"]
