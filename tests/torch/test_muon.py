"""Optimizer `muon`: which weights it has, that it trains, and that a killed training resumes as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import LlamaForCausalLM, TrainingArguments  # noqa: E402

from recipes.steps import Step, run_step  # noqa: E402
from recipes.training.run import MuonWithAdamW, hidden_and_rest  # noqa: E402
from tests.fakes.tiny_trainer import CONFIG  # noqa: E402
from tests.fakes.training_steps import (  # noqa: E402
    QUICK,
    aligned,
    distance,
    losses,
    made,
    one_thread,
    pairs_of,
    sft,
    target,
)
from tests.torch.test_recipe_training_resume import killed_at  # noqa: E402

__all__ = ["one_thread", "sft", "target"]  # fixtures


def test_muon_has_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = LlamaForCausalLM(CONFIG)
    names = {id(weight): name for name, weight in model.named_parameters()}

    hidden, rest = hidden_and_rest(model)

    assert len(hidden) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert {names[id(weight)] for weight in rest} == {
        *("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"),
        *(f"model.layers.{layer}.{norm}_layernorm.weight" for layer in (0, 1) for norm in ("input", "post_attention")),
    }


def test_a_first_step_of_muon_has_orthogonal_updates_of_adamw_s_size(tmp_path: Path) -> None:
    """0.2 x sqrt(max(rows, columns)) times an orthogonal matrix has entries of 0.2 on average (root mean square)."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    weight = model.model.layers[0].self_attn.q_proj.weight  # 32 x 32
    before = weight.detach().clone()
    args = TrainingArguments(output_dir=str(tmp_path), learning_rate=0.01, weight_decay=0.0, use_cpu=True)
    optimizer = MuonWithAdamW(model, args, decayed=[])
    ids = torch.arange(2, 34)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()

    update = (before - weight.detach()) / 0.01
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)  # five Newton-Schulz steps are rough
    assert float(torch.linalg.svdvals(update)[0]) < 0.2 * 32**0.5 * 1.3
    assert [group["lr"] for group in optimizer.param_groups] == [0.01] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0] * 2


@pytest.mark.slow
def test_a_killed_training_resumes_with_identical_losses(
    sft: Step, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_in(name: str, **keys: object) -> Step:
        keys = {**QUICK, "save_steps": 2, "beta": 0.1, **keys}
        recipe = made(tmp_path / name, target, training=keys)
        return aligned(recipe, sft, pairs_of(recipe))[0]

    whole, cut, adamw = step_in("whole", optim="muon"), step_in("cut", optim="muon"), step_in("adamw")
    for step in (whole, adamw):
        run_step(step)
    killed_at(cut, monkeypatch, at=3)
    run_step(cut)

    assert losses(cut) == losses(whole)
    assert distance(cut.folder, whole.folder) == 0
    assert losses(whole)[0] == pytest.approx(losses(adamw)[0])
    assert losses(whole)[-1] != losses(adamw)[-1]
