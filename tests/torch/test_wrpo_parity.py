"""The trainer's small print: SimPO beside TRL's, blocks in order, alpha's schedules, the release's, metrics' names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from recipes.training.losses import preference_loss  # noqa: E402
from recipes.training.packing import PreferenceCollator  # noqa: E402
from recipes.training.templates import Rendering, render  # noqa: E402
from tests.fakes.tiny_trainer import (  # noqa: E402
    CONFIG,
    ROWS,
    SETTINGS,
    TALKS,
    TOKENIZER,
    Note,
    beside,
    distance,
    logged,
    model_of,
    one_thread,
    trained,
    trainer_of,
    weights,
)

__all__ = ["one_thread", "weights"]  # fixtures


def simpo_by_trl(weights: dict[str, Any], out: Path, chosen: str, *, beta: float, gamma: float) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": talk["prompt"]}],
            "chosen": [{"role": "assistant", "content": talk[chosen]}],
            "rejected": [{"role": "assistant", "content": talk["rejected"]}],
        }
        for talk in TALKS
    ]
    further: dict[str, Any] = {"loss_type": "simpo", "cpo_alpha": 0.0, "gradient_checkpointing": False}
    config = CPOConfig(output_dir=str(out), beta=beta, simpo_gamma=gamma, **further, **SETTINGS)
    trainer = CPOTrainer(
        model=model_of(weights), args=config, train_dataset=Dataset.from_list(rows), processing_class=TOKENIZER
    )
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "chosen"), [(0.0, "target"), (1.0, "source")])
def test_simpo_is_trls(
    weights: dict[str, Any], tmp_path: Path, alpha: float, chosen: str, record_property: Note
) -> None:
    ours = trained(
        weights, tmp_path / "a", loss_type="simpo", alpha=alpha, alpha_schedule="constant", beta=2.0, gamma=0.6
    )
    theirs = simpo_by_trl(weights, tmp_path / "b", chosen, beta=2.0, gamma=0.6)
    record_property("measured", beside(ours, theirs))

    assert logged(ours) == pytest.approx(logged(theirs), abs=2e-5)
    assert distance(ours, theirs) < 2e-5


def test_wrpo_with_ipo_weighs_the_ratios_a_token(weights: dict[str, Any], tmp_path: Path) -> None:
    """By hand, from summed log-probabilities: ratios 4/2 and 6/3 and -1/1, alpha 0.25, beta 0.5."""
    trainer = trainer_of(weights, tmp_path, loss_type="ipo", alpha=0.25, beta=0.5)
    margin = 0.25 * 2 + 0.75 * 2 - -1  # 3, to be drawn to 1 / (2 * 0.5)

    rewards = torch.tensor([[2.0], [2.0], [-1.0]])
    assert float(trainer._loss(rewards, 0.25)) == pytest.approx((margin - 1) ** 2)


@pytest.mark.parametrize("layout", ["rows", "shared"])
def test_blocks_stand_in_the_order_source_target_rejected(layout: Any) -> None:
    batch = PreferenceCollator(CONFIG.pad_token_id, layout)(ROWS[:2])
    scored = batch["slot"] >= 0
    found: dict[int, list[int]] = {}
    for slot, token in zip(batch["slot"][scored].tolist(), batch["next_ids"][scored].tolist(), strict=True):
        found.setdefault(slot, []).append(token)

    expected = [list(row[f"{name}_ids"]) for name in ("source", "target", "rejected") for row in ROWS[:2]]  # type: ignore[literal-required]
    assert [found[slot] for slot in range(6)] == expected


def test_rows_of_the_official_layout_are_all_sources_then_all_targets_then_all_rejected() -> None:
    batch = PreferenceCollator(CONFIG.pad_token_id, "rows")(ROWS[:2])
    whole = [
        [*row["prompt_ids"], *row[f"{name}_ids"]]  # type: ignore[literal-required]
        for name in ("source", "target", "rejected")
        for row in ROWS[:2]
    ]

    assert [ids[: len(text)] for ids, text in zip(batch["input_ids"].tolist(), whole, strict=True)] == whole


def test_a_constant_alpha_stays(weights: dict[str, Any], tmp_path: Path) -> None:
    assert set(logged(trained(weights, tmp_path, alpha=0.4, alpha_schedule="constant"), "alpha")) == {0.4}


def test_alpha_counts_optimiser_steps_not_accumulated_batches(weights: dict[str, Any], tmp_path: Path) -> None:
    trainer = trained(weights, tmp_path, alpha=0.4, per_device_train_batch_size=4, gradient_accumulation_steps=2)

    assert logged(trainer, "alpha") == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_releases_schedule_knows_no_max_steps(
    weights: dict[str, Any], tmp_path: Path, record_property: Note
) -> None:
    """32 rows in batches of 8 are T = 4: alpha is 0.4 * step / 4 though training ends after 2."""
    trainer = trained(weights, tmp_path, alpha=0.4, max_steps=2, official_compat=True)
    record_property("measured", ", ".join(f"{value:.2f}" for value in logged(trainer, "alpha")))

    assert logged(trainer, "alpha") == pytest.approx([0.0, 0.1])


def test_official_losses_are_those_of_the_releases_formula(
    weights: dict[str, Any], tmp_path: Path, record_property: Note
) -> None:
    """The release: -log sigmoid(beta * (alpha * (s - s_ref) + (1 - alpha) * (t - t_ref) - (l - l_ref))), sums over
    the answer with its header and both end tokens, from plain right-padded rows and a whole log-softmax."""
    official = Rendering(official_compat=True)
    moved = {name: value + 0.02 * torch.randn_like(value) for name, value in weights.items()}
    rows = []
    for talk in TALKS[:4]:
        row = render(
            [{"role": "user", "content": talk["prompt"]}],
            (talk["source"], talk["target"], talk["rejected"]),
            TOKENIZER,
            official,
        )
        assert row is not None
        rows.append(row)

    def logp(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
        ids = torch.tensor([[*prompt, *answer]])
        tokens = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
        return float(tokens[len(prompt) - 1 :].sum())

    policy, reference = model_of(moved).eval(), model_of(weights).eval()
    expected = []
    with torch.no_grad():
        for row in rows:
            s, t, l = (logp(policy, row.prompt_ids, ids) - logp(reference, row.prompt_ids, ids) for ids in row.answers)  # noqa: E741
            expected.append(math.log1p(math.exp(-0.1 * (0.3 * s + 0.7 * t - l))))
    ids = [
        {
            "prompt_ids": list(row.prompt_ids),
            "source_ids": list(row.source_ids),
            "target_ids": list(row.target_ids),
            "rejected_ids": list(row.rejected_ids),
        }
        for row in rows
    ]
    trainer = trainer_of(weights, tmp_path, rows=ids, official_compat=True, alpha_schedule="constant")  # type: ignore[arg-type]
    trainer.model.load_state_dict(moved)
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, PreferenceCollator(CONFIG.pad_token_id, "rows")(ids)))  # type: ignore[arg-type]
    record_property("measured", f"losses {abs(loss - sum(expected) / 4):.1e} apart")

    assert loss == pytest.approx(sum(expected) / 4, abs=1e-5)
    assert loss != pytest.approx(math.log(2), abs=1e-3)


def test_the_release_calls_unweighted_what_ignores_alpha() -> None:
    rewards = torch.tensor([[3.0], [1.0], [0.0]])

    low, high = (preference_loss(rewards, loss_type="unweighted", alpha=alpha, beta=1.0) for alpha in (0.0, 1.0))
    assert torch.equal(low, high)


def test_metrics_have_the_fields_names(weights: dict[str, Any], tmp_path: Path) -> None:
    trainer = trained(weights, tmp_path, max_steps=1)

    assert {name for name in trainer.state.log_history[0] if "/" in name or name == "alpha"} == {
        "alpha",
        *(f"rewards/{name}" for name in ("chosen", "source_chosen", "target_chosen", "rejected", "margins")),
        *(f"rewards/{name}" for name in ("accuracies", "source_accuracies", "pivot_accuracies")),
        *(f"logps/{name}" for name in ("source_chosen", "target_chosen", "rejected")),
        *(f"lengths/{name}" for name in ("source_chosen", "target_chosen", "rejected")),
    }


def test_rewards_are_beta_times_the_log_ratio(weights: dict[str, Any], tmp_path: Path) -> None:
    from recipes.training.trainer import measures

    rewards = torch.tensor([[0.5, 1.5], [1.0, 2.0], [0.0, -1.0]])  # beta applied already
    found = measures(rewards, rewards, rewards, 0.25)

    assert found["rewards/source_chosen"] == pytest.approx(1.0)
    assert found["rewards/chosen"] == pytest.approx(0.25 * 1.0 + 0.75 * 1.5)
    assert found["rewards/margins"] == pytest.approx(1.375 - -0.5)
    assert found["rewards/accuracies"] == 1.0


def test_evaluation_without_training_stands_at_the_final_alpha(
    weights: dict[str, Any], tmp_path: Path, record_property: Note
) -> None:
    found = trainer_of(weights, tmp_path, alpha=0.4).evaluate()
    record_property("measured", f"alpha {found['eval_alpha']}, loss {found['eval_loss']:.6f}")

    assert found["eval_alpha"] == 0.4
    assert found["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
def test_a_reloaded_model_trains_on_as_the_saved_one(
    weights: dict[str, Any], tmp_path: Path, record_property: Note
) -> None:
    first = trained(weights, tmp_path / "a", max_steps=1)
    first.save_model(str(tmp_path / "saved"))
    again = LlamaForCausalLM.from_pretrained(tmp_path / "saved").state_dict()

    kept, loaded = (trained(state, tmp_path / name) for name, state in (("b", first.model.state_dict()), ("c", again)))
    record_property("measured", beside(kept, loaded))
    assert logged(kept) == logged(loaded)
    assert distance(kept, loaded) == 0.0
