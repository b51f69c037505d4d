"""A recipe of existing pairs: no source, no reward, no SFT; and keys that TRL's users know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from harness.cli.main import app  # noqa: E402
from harness.records.errors import ConfigError  # noqa: E402
from recipes.steps import run_step  # noqa: E402
from tests.fakes.tiny_models import make_checkpoint  # noqa: E402
from tests.fakes.training_steps import (  # noqa: E402
    QUICK,
    aligned,
    distance,
    losses,
    made,
    one_thread,
    pairs_of,
    sft_of,
)

__all__ = ["one_thread"]  # a fixture


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "target")


def train(folder: Path, target: Path, *flags: str, **further: Any) -> Any:
    rows = [{"prompt": f"say {n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(20)]
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows.append({"prompt": talk, "chosen": "d", "rejected": "e"})  # type: ignore[dict-item]
    rows.append({"prompt": "nothing", "chosen": "", "rejected": "f"})
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "mine",
        "output_dir": str(folder / "out"),
        "target": str(target),
        "prompts": {"decontaminate": []},
        "pairs": {"dataset": str(folder / "mine.jsonl")},
        "training": {**QUICK, "beta": 0.1},
        "variants": {"dpo": {"training": {"alpha": 0}}},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe | further))
    return CliRunner().invoke(app, ["train", str(path), *flags])


def step(folder: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "out" / name / "step.json").read_text())
    return record


def log_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "out/seed-42/align/dpo/training_log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_own_pairs_are_trained_on_from_the_target_and_exported(tmp_path: Path, target: Path) -> None:
    ran = train(tmp_path, target, "--export-pairs", str(tmp_path / "trl.jsonl"))

    assert ran.exit_code == 0, ran.output
    assert step(tmp_path, "seed-42/pairs")["counts"] == {"rows": 22, "pairs": 21, "dropped_no_answer": 1}
    assert step(tmp_path, "seed-42/align/dpo")["counts"]["steps"] == 6  # 21 rows by 4
    assert log_of(tmp_path)[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the reference is the target itself
    exported = [json.loads(line) for line in (tmp_path / "trl.jsonl").read_text().splitlines()]
    assert len(exported) == 21
    assert [message["content"] for message in exported[-1]["prompt"]] == ["a", "b", "c"]
    assert "Preference pairs from mine.jsonl" in (tmp_path / "out/seed-42/align/dpo/README.md").read_text()
    assert train(tmp_path, target).exit_code == 0  # everything is done


def test_a_dry_run_counts_own_pairs(tmp_path: Path, target: Path) -> None:
    ran = train(tmp_path, target, "--dry-run", "--json", rates={"training": 100})

    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["by_stage"]["align"]["trained_tokens"] == 22 * (200 + 3 * 500)


@pytest.mark.slow
def test_held_out_pairs_are_evaluated_at_a_fixed_alpha_and_never_trained_on(tmp_path: Path, target: Path) -> None:
    pairs = {"dataset": str(tmp_path / "mine.jsonl"), "held_out": 5}
    keys = {**QUICK, "beta": 0.1, "eval_strategy": "steps", "eval_steps": 2}
    ran = train(tmp_path, target, pairs=pairs, training=keys)

    assert ran.exit_code == 0, ran.output
    assert step(tmp_path, "seed-42/align/dpo")["counts"]["steps"] == 4  # 21 - 5 rows by 4
    evaluated = [entry for entry in log_of(tmp_path) if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert not any("runtime" in key for entry in evaluated for key in entry)


@pytest.mark.slow
def test_values_of_template_variables_are_trained_with_and_saved(tmp_path: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    ran = train(tmp_path, target, chat_template_kwargs={"enable_thinking": False})
    saved = AutoTokenizer.from_pretrained(tmp_path / "out/seed-42/align/dpo").chat_template

    assert ran.exit_code == 0, ran.output
    assert saved.startswith("{%- if enable_thinking is not defined %}{% set enable_thinking = false %}")


@pytest.mark.slow
def test_without_a_share_for_sft_variants_start_at_the_target(tmp_path: Path, target: Path) -> None:
    """The step's weights are links to the target's, its tokenizer has the recipe's pad token."""
    recipe = made(tmp_path, target, prompts={"dataset": "p.jsonl", "sft_share": 0}, pad_token="<|system|>")
    start = sft_of(recipe)
    run_step(start)
    (dpo,) = aligned(recipe, start, pairs_of(recipe))
    run_step(dpo)

    assert (start.folder / "model.safetensors").resolve() == (target / "model.safetensors").resolve()
    assert distance(start.folder, target) == 0
    assert "<|system|>" in (dpo.folder / "tokenizer_config.json").read_text()
    assert losses(dpo)[0] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        ({"pairs": "nope.jsonl"}, "pairs: no such data file: 'nope.jsonl'"),
        ({"pairs": {}}, "the section `prompts` is missing, or empty"),
        ({"training": {"eval_strategy": "steps"}}, "training: eval_strategy = 'steps' needs pairs to evaluate"),
        ({"prompts": {"dataset": "p.jsonl", "test": 5}}, "the section `reward` is missing"),
        ({"sources": [{"name": "a", "model": "m"}]}, "`sources` and existing `pairs` exclude each other"),
        ({"training": {"optim": "muom"}}, "training: optim = 'muom'"),
    ],
)
def test_a_wrong_recipe_of_own_pairs_is_one_sentence(
    tmp_path: Path, target: Path, further: dict[str, Any], sentence: str
) -> None:
    ran = train(tmp_path, target, **further)

    assert isinstance(ran.exception, ConfigError)
    assert sentence in str(ran.exception)
    assert not (tmp_path / "out").exists()
