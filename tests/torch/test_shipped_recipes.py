"""The shipped recipes as they are typed: they train a Llama without a pad token, log and survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from recipes.layout import STAGES, Recipe  # noqa: E402
from recipes.plan import make_plan  # noqa: E402
from recipes.preflight import preflight  # noqa: E402
from recipes.spec import read_recipe, recipe_path, shipped_recipes  # noqa: E402
from recipes.steps import Step, run_step  # noqa: E402
from recipes.train import narrow  # noqa: E402
from recipes.worlds.tiny import EOS, build_tokenizer  # noqa: E402
from tests.fakes.tiny_trainer import CONFIG  # noqa: E402
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


def stand_ins(name: str, folder: Path) -> Recipe:
    """A shipped recipe whose models of the Hub are tiny ones on this machine."""
    spec = read_recipe(recipe_path(name))
    target = folder / "target"
    if not target.is_dir():
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": [*PAD.values()]})
        padless(target)
        tokenizer.pad_token = None
        tokenizer.save_pretrained(target)
        LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_dict(), "vocab_size": len(tokenizer)})).save_pretrained(target)
    model = str(target)
    sources = tuple(
        source.model_copy(update={"model": model} if source.model is not None else {}) for source in spec.sources
    )
    reward = (
        spec.reward.model_copy(update={"model": model}) if (spec.reward.model or "").startswith("hf:") else spec.reward
    )
    changes = {"target": model, "sources": sources, "reward": reward, "output_dir": folder / "out"}
    return narrow(spec.model_copy(update=changes), None, None)


OF_MACHINE = ("before a run on this machine: evaluate: no judge", "before a run on this machine: launch: zero3")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_passes_its_own_checks_on_stand_ins(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates, modules, keys and free disk are checked; what is noted is the machine's or a licence's."""
    for variable in ("OPENAI_API_KEY", "HARNESS_JUDGE"):
        monkeypatch.delenv(variable, raising=False)
    recipe = stand_ins(name, tmp_path)

    notes = preflight(recipe, frozenset(STAGES), runs_here=False)

    licences = [note for note in notes if "its licence" in note]
    assert [note for note in notes if note not in licences and not note.startswith(OF_MACHINE)] == []
    assert not any("--judge" in note or "--edition" in note for note in notes)  # flags that harness train does not have


@pytest.mark.parametrize("name", sorted(name for name in shipped_recipes() if "8b" in name))
def test_every_shipped_recipe_of_8b_says_what_it_takes(tmp_path: Path, name: str) -> None:
    spec = read_recipe(recipe_path(name))
    plan = make_plan(narrow(spec.model_copy(update={"output_dir": tmp_path / "out"}), None, None))

    assert all(item.gpu_hours is not None for item in plan.items)
    assert plan.schedule
    assert plan.busy_devices > 5
