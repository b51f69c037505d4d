"""The trainer against TRL's, and against itself: layouts, accumulation, resume, reference, metrics."""

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from harness.records.errors import ConfigError  # noqa: E402
from recipes.training.packing import PreferenceCollator, batch_logps  # noqa: E402
from recipes.training.trainer import WRPOConfig, WRPOTrainer, with_reference  # noqa: E402
from tests.fakes.tiny_trainer import (  # noqa: E402
    ANSWERS,
    CONFIG,
    ROWS,
    SETTINGS,
    Note,
    beside,
    distance,
    logged,
    model_of,
    one_thread,
    trained,
    trainer_of,
    trl_trained,
    weights,
)

__all__ = ["one_thread", "weights"]  # fixtures


@pytest.mark.parametrize(("alpha", "chosen"), [(0.0, "target"), pytest.param(1.0, "source", marks=pytest.mark.slow)])
def test_the_ends_of_alpha_are_trls_dpo(
    weights: dict[str, Any], tmp_path: Path, alpha: float, chosen: str, record_property: Note
) -> None:
    ours = trained(weights, tmp_path / "a", alpha=alpha, alpha_schedule="constant")
    theirs = trl_trained(weights, tmp_path / "b", chosen)
    record_property("measured", beside(ours, theirs))

    assert logged(ours) == pytest.approx(logged(theirs), abs=2e-5)
    assert distance(ours, theirs) < 2e-5  # Adam at 1e-3 amplifies the last digit of a gradient


@pytest.mark.slow
@pytest.mark.parametrize(("loss_type", "theirs"), [("ipo", "ipo"), ("lndpo", "sigmoid_norm")])
def test_ipo_and_lndpo_are_trls(
    weights: dict[str, Any], tmp_path: Path, loss_type: str, theirs: str, record_property: Note
) -> None:
    ours = trained(weights, tmp_path / "a", alpha=0.0, alpha_schedule="constant", loss_type=loss_type)
    other = trl_trained(weights, tmp_path / "b", "target", loss_type=[theirs])
    record_property("measured", beside(ours, other))

    assert logged(ours) == pytest.approx(logged(other), rel=1e-4)
    assert distance(ours, other) < 5e-5


def test_the_first_loss_is_log_two(weights: dict[str, Any], tmp_path: Path, record_property: Note) -> None:
    first = logged(trained(weights, tmp_path, max_steps=1))[0]
    record_property("measured", f"{first:.6f}")

    assert first == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
def test_both_layouts_have_the_same_losses(weights: dict[str, Any], tmp_path: Path, record_property: Note) -> None:
    shared = trained(weights, tmp_path / "a", layout="shared")
    rows = trained(weights, tmp_path / "b", layout="rows")
    record_property("measured", beside(shared, rows))

    assert logged(shared) == pytest.approx(logged(rows), abs=1e-5)
    assert distance(shared, rows) < 2e-5


@pytest.mark.parametrize("layout", ["shared", "rows"])
def test_padding_and_neighbours_change_no_log_probability(
    weights: dict[str, Any], tmp_path: Path, layout: Any, record_property: Note
) -> None:
    trainer = trainer_of(weights, tmp_path, layout=layout)
    trainer.model.eval()
    collate = PreferenceCollator(CONFIG.pad_token_id, layout)
    with torch.no_grad():
        together = batch_logps(trainer.model, collate(ROWS[:8]))[0]
        alone = torch.cat([batch_logps(trainer.model, collate([row]))[0] for row in ROWS[:8]], dim=1)
    record_property("measured", f"log-probabilities {float((together - alone).abs().max()):.1e} apart")

    assert torch.allclose(together, alone, atol=2e-5)


@pytest.mark.parametrize("layout", ["shared", "rows"])
def test_log_probabilities_are_the_models_own(weights: dict[str, Any], tmp_path: Path, layout: Any) -> None:
    trainer = trainer_of(weights, tmp_path, layout=layout)
    plain = model_of(weights).eval()
    row = ROWS[3]
    ids = torch.tensor([row["prompt_ids"] + row["target_ids"]])
    with torch.no_grad():
        tokens = plain(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
        found, lengths = batch_logps(trainer.model, PreferenceCollator(CONFIG.pad_token_id, layout)([row]))

    assert float(found[1]) == pytest.approx(float(tokens[len(row["prompt_ids"]) - 1 :].sum()), abs=1e-4)
    assert lengths.flatten().tolist() == [len(row[f"{name}_ids"]) for name in ANSWERS]  # type: ignore[literal-required]


@pytest.mark.slow
def test_accumulation_changes_nothing(weights: dict[str, Any], tmp_path: Path, record_property: Note) -> None:
    whole = trained(weights, tmp_path / "a")
    parts = trained(weights, tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    record_property("measured", beside(whole, parts))

    assert logged(parts) == pytest.approx(logged(whole), abs=1e-5)
    assert distance(whole, parts) < 2e-5


def test_alpha_rises_by_completed_steps(weights: dict[str, Any], tmp_path: Path, record_property: Note) -> None:
    trainer = trained(weights, tmp_path, alpha=0.4, num_train_epochs=2)
    record_property("measured", ", ".join(f"{value:.2f}" for value in logged(trainer, "alpha")))

    assert logged(trainer, "alpha") == pytest.approx([0.05 * step for step in range(8)])


def test_max_steps_is_the_schedules_length(weights: dict[str, Any], tmp_path: Path, record_property: Note) -> None:
    trainer = trained(weights, tmp_path, alpha=0.4, max_steps=2)
    record_property("measured", ", ".join(f"{value:.2f}" for value in logged(trainer, "alpha")))

    assert logged(trainer, "alpha") == pytest.approx([0.0, 0.2])


@pytest.mark.slow
def test_a_resumed_run_has_the_losses_of_an_undisturbed_one(
    weights: dict[str, Any], tmp_path: Path, record_property: Note
) -> None:
    saving: dict[str, Any] = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    whole = trained(weights, tmp_path, **saving)
    resumed = trainer_of(weights, tmp_path, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    record_property("measured", beside(whole, resumed))

    assert logged(resumed) == logged(whole)
    assert distance(whole, resumed) == 0.0


@pytest.mark.parametrize("layout", ["shared", pytest.param("rows", marks=pytest.mark.slow)])
def test_stored_reference_log_probabilities_equal_a_live_reference(
    weights: dict[str, Any], tmp_path: Path, layout: Any, record_property: Note
) -> None:
    live = trained(weights, tmp_path / "a", layout=layout)
    rows = with_reference(Dataset.from_list([dict(row) for row in ROWS]), model_of(weights), layout=layout)
    offline = trained(weights, tmp_path / "b", rows=list(rows), reference=False, layout=layout)
    record_property("measured", beside(live, offline))

    assert logged(offline) == pytest.approx(logged(live), abs=1e-5)


def test_an_adapter_switched_off_is_the_reference(
    weights: dict[str, Any], tmp_path: Path, record_property: Note
) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model_of(weights), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    trainer = WRPOTrainer(
        model=adapted,
        args=WRPOConfig(output_dir=str(tmp_path), **{**SETTINGS, "beta": 0.1, "learning_rate": 1e-2}),
        train_dataset=Dataset.from_list([dict(row) for row in ROWS]),
    )
    trainer.train()
    batch = PreferenceCollator(CONFIG.pad_token_id, "shared")(ROWS[:8])
    off = trainer.reference_logps(batch)
    plain = trainer_of(weights, tmp_path)
    plain.model.eval()
    with torch.no_grad():
        expected = batch_logps(plain.model, batch)[0]
        moved = batch_logps(trainer.model, batch)[0]

    assert off is not None
    record_property("measured", f"log-probabilities {float((off - expected).abs().max()):.1e} apart")
    assert torch.allclose(off, expected, atol=1e-5)
    assert not torch.allclose(moved, expected, atol=1e-3)


@pytest.mark.slow
def test_evaluation_stands_at_a_fixed_alpha_and_names_both_ends(weights: dict[str, Any], tmp_path: Path) -> None:
    trainer = trained(weights, tmp_path, alpha=0.4, eval_strategy="steps", eval_steps=2)

    assert set(logged(trainer, "eval_alpha")) == {0.4}
    assert len(logged(trainer, "eval_loss_alpha_0")) == len(logged(trainer, "eval_loss_alpha_1")) == 2


@pytest.mark.slow
def test_official_evaluation_stands_at_the_moving_alpha(weights: dict[str, Any], tmp_path: Path) -> None:
    changed: dict[str, Any] = {"alpha": 0.4, "eval_strategy": "steps", "eval_steps": 2, "official_compat": True}
    trainer = trained(weights, tmp_path, **changed)

    assert logged(trainer, "eval_alpha") == pytest.approx([0.2, 0.4])


def test_pivot_accuracies_compare_each_prompt_with_itself(weights: dict[str, Any], tmp_path: Path) -> None:
    from recipes.training.trainer import measures

    rewards = torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 0.0]])  # target over rejected: no, yes

    assert measures(rewards, rewards, rewards, 0.5)["rewards/pivot_accuracies"] == 0.5


def test_a_saved_checkpoint_loads_as_any_other(weights: dict[str, Any], tmp_path: Path) -> None:
    trainer = trained(weights, tmp_path / "a", max_steps=1)
    trainer.save_model(str(tmp_path / "saved"))
    again = LlamaForCausalLM.from_pretrained(tmp_path / "saved")

    ids = torch.tensor([ROWS[0]["prompt_ids"]])
    assert torch.equal(again.eval()(ids).logits, trainer.model.eval()(ids).logits)


def test_a_loss_without_its_reference_is_refused(weights: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a reference"):
        trainer_of(weights, tmp_path, reference=False)


@pytest.mark.parametrize(("key", "value"), [("alpha", 1.5), ("beta", 0.0), ("label_smoothing", 0.7)])
def test_settings_outside_their_range_are_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        WRPOConfig(output_dir=str(tmp_path), **{**SETTINGS, key: value})
