"""Stages sft and align: rows, checkpoints, adapters, precision, templates, suites while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: E402

from harness.store.checkpoint import read_checkpoint_fusion  # noqa: E402
from recipes.steps import Step, run_step  # noqa: E402
from recipes.worlds.tiny import EOS, build_tokenizer  # noqa: E402
from tests.fakes.tiny_trainer import CONFIG  # noqa: E402
from tests.fakes.training_steps import (  # noqa: E402
    QUICK,
    aligned,
    distance,
    log_of,
    losses,
    made,
    one_thread,
    pairs_of,
    sft,
    sft_of,
    target,
)

__all__ = ["one_thread", "sft", "target"]  # fixtures


@pytest.mark.slow
def test_sft_learns_the_best_source_answers_and_leaves_an_ordinary_checkpoint(sft: Step, target: Path) -> None:
    from recipes.training.rows import Rows, completions

    record = run_step(sft)
    rows = Rows(next((sft.folder.parent / "rows").iterdir())).load()
    tokenizer = AutoTokenizer.from_pretrained(sft.folder)
    trained = completions(rows, "source")[0]
    scored = [token for token in trained["labels"] if token != -100]

    assert record.counts["rows"] == 12
    assert record.counts["steps"] == 3
    assert tokenizer.decode(scored).startswith("b ")
    assert tokenizer.decode(scored).count(EOS) == 1
    assert tokenizer.decode(trained["input_ids"]).startswith("<|bos|><|user|>say p0<|assistant|>b ")
    assert AutoModelForCausalLM.from_pretrained(sft.folder).dtype == torch.float32
    assert distance(sft.folder, target) > 0
    assert not list((sft.folder / "checkpoints").glob("checkpoint-*"))
    found = read_checkpoint_fusion(sft.folder)
    assert found is not None
    assert (found.method, found.sources, found.target) == ("sft", ("a", "b"), target.name)


VARIANTS: dict[str, Any] = {
    "dpo": {"training": {"alpha": 0}},
    "wrpo": {},
    "wrpo-alpha1": {"training": {"alpha": 1, "alpha_schedule": "constant"}},
    "simpo": {"training": {"loss_type": "simpo", "alpha": 0, "beta": 2, "gamma": 0.5}},
    "ipo": {"training": {"loss_type": "ipo", "alpha": 0}},
    "lndpo": {"training": {"loss_type": "lndpo", "alpha": 0}},
    "sft-cont": {"method": "sft", "answers": "source"},
    "rft": {"method": "sft", "answers": "target"},
}


@pytest.mark.slow
@pytest.mark.parametrize("names", [("dpo", "wrpo"), pytest.param(tuple(VARIANTS), marks=pytest.mark.slow)])
def test_every_variant_starts_at_the_sft_model_and_takes_equal_steps(
    sft: Step, tmp_path: Path, target: Path, names: tuple[str, ...]
) -> None:
    recipe = made(tmp_path, target, variants={name: VARIANTS[name] for name in names})
    pairs = pairs_of(recipe)
    steps = aligned(recipe, sft, pairs)
    records = {step.name.rpartition("/")[2]: run_step(step) for step in steps}
    first = {step.name.rpartition("/")[2]: losses(step)[0] for step in steps}

    assert {record.counts["steps"] for record in records.values()} == {6}
    for name in {"dpo", "wrpo", "wrpo-alpha1", "lndpo"} & set(names):
        assert first[name] == pytest.approx(0.693147, abs=1e-5)
    if names == tuple(VARIANTS):
        assert first["ipo"] == pytest.approx(25.0, abs=1e-3)  # (0 - 1 / (2 * 0.1))^2
        assert first["sft-cont"] != first["rft"]
    assert len(list((tmp_path / "seed-42" / "rows").iterdir())) == 1
    assert len(list((tmp_path / "seed-42" / "rows").glob("*/reference-*.json"))) == 1
    wrpo = next(step for step in steps if step.name.endswith("/wrpo"))
    logged = {"rewards/source_chosen", "rewards/target_chosen", "rewards/rejected", "rewards/margins", "alpha"}
    assert logged < set(log_of(wrpo)[0])
    assert [entry["alpha"] for entry in log_of(wrpo) if "alpha" in entry] == pytest.approx([0.05 * n for n in range(6)])
    fusion = read_checkpoint_fusion(wrpo.folder)
    assert fusion is not None
    assert (fusion.method, fusion.alpha) == ("wrpo", 0.3)


# -------------------------------------------------------------------------------------------------- models and text


@pytest.mark.slow
def test_an_adapter_is_worked_into_the_checkpoint(sft: Step, tmp_path: Path, target: Path) -> None:
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 1e-2}
    recipe = made(tmp_path, target, variants={"lora": {"training": lora}})
    step = aligned(recipe, sft, pairs_of(recipe))[0]
    run_step(step)
    before, after = (load_file(folder / "model.safetensors") for folder in (sft.folder, step.folder))

    assert losses(step)[0] == pytest.approx(0.693147, abs=1e-5)
    assert (step.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}


@pytest.mark.slow
def test_a_bf16_reference_has_the_arithmetic_of_bf16_training(sft: Step, tmp_path: Path, target: Path) -> None:
    variants = {layout: {"training": {"bf16": True, "layout": layout}} for layout in ("shared", "rows")}
    recipe = made(tmp_path, target, variants=variants)
    for step in aligned(recipe, sft, pairs_of(recipe)):
        run_step(step)

        assert losses(step)[0] == pytest.approx(0.693147, abs=1e-3)


@pytest.mark.slow
def test_gradient_checkpointing_and_accumulation_change_no_loss(sft: Step, tmp_path: Path, target: Path) -> None:
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    variants = {
        "plain": {},
        "checkpointing": {"training": {"gradient_checkpointing": True}},
        "accumulation": {"training": parts},
    }
    recipe = made(tmp_path, target, variants=variants)
    plain, *others = aligned(recipe, sft, pairs_of(recipe))
    run_step(plain)
    for other in others:
        run_step(other)
        assert losses(other) == pytest.approx(losses(plain), abs=2e-5)
        assert distance(other.folder, plain.folder) < 2e-5


@pytest.mark.slow
def test_a_bf16_target_gives_a_bf16_checkpoint_with_its_generation_settings(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).to(torch.bfloat16).save_pretrained(parent)
    build_tokenizer().save_pretrained(parent)
    settings = '{"do_sample": true, "temperature": 0.6, "eos_token_id": [2, 5]}'
    (parent / "generation_config.json").write_text(settings)
    step = sft_of(made(tmp_path / "out", parent))
    run_step(step)

    assert {value.dtype for value in load_file(step.folder / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(step.folder).dtype == torch.bfloat16  # so is what is trained from it
    assert (step.folder / "generation_config.json").read_text() == settings


def bf16_parent(folder: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_updates_that_bf16_cannot_hold_are_counted_and_float32_keeps_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A weight of 0.02 has neighbours 1e-4 apart in bf16; three steps of 1e-6 move it by 3e-6 at most."""
    parent, keys = bf16_parent(tmp_path / "parent"), {**QUICK, "learning_rate": 1e-6}
    rounded = sft_of(made(tmp_path / "rounded", parent, sft=keys))
    kept = sft_of(made(tmp_path / "kept", parent, sft=keys, save_dtype="float32"))

    shares = [run_step(step).counts["changed_weights"] for step in (rounded, kept)]

    assert isinstance(shares[0], float)
    assert isinstance(shares[1], float)
    assert shares[0] < 0.2
    assert shares[1] > 0.7  # a fifth are rows of the embedding whose tokens do not occur
    (warning,) = [record.getMessage() for record in caplog.records if "save_dtype" in record.getMessage()]
    assert warning.startswith(f"{rounded.name}: {100 * shares[0]:.1f} % of the saved weights differ")
    assert {value.dtype for value in load_file(kept.folder / "model.safetensors").values()} == {torch.float32}
    assert AutoConfig.from_pretrained(kept.folder).dtype == torch.float32
    assert losses(rounded) == losses(kept)  # trained in float32 either way


def test_the_share_of_changed_weights_by_hand(tmp_path: Path) -> None:
    from recipes.training.checkpoint import changed_share

    for name, values in (("before", [1.0, 2.0, 3.0, 4.0]), ("after", [1.0, 2.0, 3.0, 5.0])):
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor(values), "n": torch.tensor([1])}, tmp_path / name / "model.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")

    assert changed_share(tmp_path / "before", tmp_path / "after") == 0.25
    assert changed_share(tmp_path, tmp_path / "after") is None


@pytest.mark.slow
def test_a_tokenizer_without_a_template_is_refused_until_the_recipe_gives_one(tmp_path: Path, target: Path) -> None:
    from harness.records.errors import ConfigError

    parent = tmp_path / "parent"
    LlamaForCausalLM(CONFIG).save_pretrained(parent)
    tokenizer = build_tokenizer()
    template = tmp_path / "template.jinja"
    template.write_text(tokenizer.chat_template)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(parent)

    with pytest.raises(ConfigError, match=r"has no chat template; .*`chat_template: "):
        run_step(sft_of(made(tmp_path / "a", parent)))
    step = sft_of(made(tmp_path / "b", parent, chat_template=str(template)))
    run_step(step)
    saved = AutoTokenizer.from_pretrained(step.folder)
    assert saved.chat_template == build_tokenizer().chat_template


def test_a_pad_token_that_is_no_token_is_refused(tmp_path: Path, target: Path) -> None:
    from harness.records.errors import ConfigError

    with pytest.raises(ConfigError, match="pad_token: '<pad>' is not in the vocabulary"):
        run_step(sft_of(made(tmp_path, target, pad_token="<pad>")))


@pytest.mark.slow
def test_suites_while_training_are_on_the_board_and_change_no_loss(sft: Step, tmp_path: Path, target: Path) -> None:
    every = {"steps": 2, "suite": "arena_hard", "limit": 1, "backend": "in_process"}
    steps = []
    for name, further in (("plain", {}), ("watched", {"evaluate_every": every})):
        recipe = made(tmp_path / name, target, **further)
        steps += aligned(recipe, sft, pairs_of(recipe))
    plain, watched = steps
    run_step(plain)
    run_step(watched)
    label = recipe.label("wrpo", 42)
    cards = sorted(path.parents[2].name for path in (tmp_path / "watched" / "results").rglob("card.json"))

    assert losses(watched) == losses(plain)
    assert distance(plain.folder, watched.folder) == 0.0
    assert cards == [f"{label}-step2", f"{label}-step4"]
    assert [entry["step"] for entry in log_of(watched) if any(key.startswith("suite/") for key in entry)] == [2, 4]
