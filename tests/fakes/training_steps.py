"""The stages sft and align on a tiny model: what their tests build and read."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from recipes.layout import Chosen, Counts, PreferencePair, Recipe, RewardRow  # noqa: E402
from recipes.stages.training import align_steps, sft_step  # noqa: E402
from recipes.steps import Step, run_step  # noqa: E402
from recipes.worlds.tiny import build_tokenizer  # noqa: E402
from tests.fakes.recipe_files import answers_step, prompt_rows, prompts_step, recipe  # noqa: E402
from tests.fakes.tiny_trainer import CONFIG  # noqa: E402

QUICK: dict[str, Any] = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1, "use_cpu": True}
REWARD = {"kind": "function", "model": "world:reward"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return target_folder(tmp_path_factory.mktemp("target"))


def target_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def word(rng: random.Random, low: int = 3, high: int = 9) -> str:
    return "".join(rng.choice("abcdefghij") for _ in range(rng.randint(low, high)))


def made(out: Path, target: Path, **further: Any) -> Recipe:
    keys: dict[str, Any] = {"sft": QUICK, "training": {**QUICK, "beta": 0.1, "alpha": 0.3}}
    return recipe(out, REWARD, target=str(target), **{**keys, **further})


def rows_step(stage: str, folder: Path, file: str, rows: Sequence[Any]) -> Step:
    def work(into: Path) -> Counts:
        (into / file).write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
        return {}

    step = Step(stage, f"{stage}/{folder.name}", folder, {"rows": len(rows)}, work)
    run_step(step)
    return step


def sft_of(recipe: Recipe, count: int = 12) -> Step:
    """The stage with two sources' answers, b's the better one; not run."""
    rng = random.Random(0)
    ids = [f"p{number}" for number in range(count)]
    prompts = prompts_step(recipe, prompt_rows(ids, "sft"))
    answers, rewards = [], []
    for value, name in enumerate("ab"):
        texts = {one: [f"{name} {word(rng)}"] for one in ids}
        answers.append(answers_step(recipe.source(name), f"sources/{name}", texts))
        given = [
            RewardRow(prompt_id=row["prompt_id"], model=name, answer_sha=sha(row), value=float(value))
            for row in map(json.loads, (recipe.source(name) / "answers.jsonl").read_text().splitlines())
        ]
        rewards.append(rows_step("rewards", recipe.source_rewards(name), "rewards.jsonl", given))
    return sft_step(recipe, 42, prompts, answers, rewards)


def sha(row: dict[str, Any]) -> str:
    from harness.records import Answer

    return Answer.model_validate(row).sha


def pairs_of(recipe: Recipe, count: int = 24) -> Step:
    rng = random.Random(1)
    rows = [
        PreferencePair(
            prompt=prompt.prompt,
            source=Chosen(text=f"s{word(rng)}", model="a", index=0, reward=2),
            target=Chosen(text=f"t{word(rng)}", model="target", index=0, reward=1),
            rejected=Chosen(text=f"r{word(rng)}", model="target", index=1, reward=0),
        )
        for prompt in prompt_rows([f"q{number}" for number in range(count)])
    ]
    return rows_step("pairs", recipe.seed(42) / "pairs", "pairs.jsonl", rows)


def aligned(recipe: Recipe, sft: Step, pairs: Step) -> list[Step]:
    return align_steps(recipe, 42, sft, pairs)


def log_of(step: Step) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (step.folder / "training_log.jsonl").read_text().splitlines()]


def losses(step: Step) -> list[float]:
    return [entry["loss"] for entry in log_of(step) if "loss" in entry]


def distance(one: Path, other: Path) -> float:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Step:
    step = sft_of(made(tmp_path_factory.mktemp("recipe"), target))
    run_step(step)
    return step
