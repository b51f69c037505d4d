"""A recipe's folder as its stages leave it, from numbers that a test can work out by hand. Nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from harness.records import Answer, Failure, Prompt
from recipes.layout import Chosen, Counts, Part, PreferencePair, PromptRow, Recipe, RewardRow
from recipes.report.board import temperature_folder
from recipes.spec import RecipeSpec, read_recipe
from recipes.steps import BEGUN, Step, run_step

RECIPE = """
name: toy
output_dir: OUT
target: hf:org/target@abc
target_license: apache-2.0
seeds: [1, 2, 3]
prompts: {dataset: "hf:org/prompts", validation: 2, test: 4, decontaminate: []}
sources:
  - {name: a, model: "hf:org/a", license: mit}
  - {name: b, answers: /home/someone/b.jsonl}
reward: {kind: function, model: "world:reward"}
variants:
  dpo: {training: {alpha: 0}}
  wrpo: {training: {alpha: 0.1}}
  sft-cont: {method: sft}
evaluate: {temperatures: [0.0, 0.3], samples: 2}
"""
TEST, VALIDATION = ("t0", "t1", "t2", "t3"), ("v0", "v1")
Values = Sequence[float | None]
"""A reward a test prompt, in the order of TEST; None: no answer came."""


def toy_recipe(folder: Path, text: str = RECIPE) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text.replace("OUT", str(folder / "out")))
    return recipe_of(read_recipe(path))


def recipe_of(spec: RecipeSpec) -> Recipe:
    return Recipe(spec, dict(spec.variants), spec.seeds)


def finish(stage: str, name: str, folder: Path, **settings: JsonValue) -> None:
    """Writes step.json over what is in the folder."""

    def work(_: Path) -> Counts:
        return {"made": 1}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).write_text(json.dumps({"settings": settings, "inputs": {}}))  # what is in the folder is a step's
    run_step(Step(stage, name, folder, settings, work))


def write_rows(
    path: Path, rows: Sequence[Answer] | Sequence[RewardRow] | Sequence[PromptRow] | Sequence[PreferencePair]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))


def prompt(name: str) -> Prompt:
    return Prompt(id=name, turns=(f"What is {name}?",), category="toy")


def write_prompts(recipe: Recipe) -> None:
    parts: dict[Part, tuple[str, ...]] = {"test": TEST, "validation": VALIDATION, "preference": ("p0", "p1")}
    rows = [PromptRow(prompt=prompt(name), part=part) for part, names in parts.items() for name in names]
    write_rows(recipe.prompts / "prompts.jsonl", rows)
    finish("prompts", "prompts", recipe.prompts)


def write_held_out(recipe: Recipe, model: str, seed: int, by_temperature: Mapping[float, Sequence[Values]]) -> None:
    """`by_temperature`: for each draw the rewards of the test prompts; the validation prompts get their mean."""
    folder = recipe.held_out(model, seed)
    for temperature, draws in by_temperature.items():
        answers, rewards = [], []
        for index, values in enumerate(draws):
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known)
            for name, value in (*zip(TEST, values, strict=True), *((name, mean) for name in VALIDATION)):
                answer = toy_answer(name, model, index, None if value is None else f"{model} {seed} {name} {index}")
                answers.append(answer)
                if value is not None:
                    sha = answer.sha
                    rewards.append(RewardRow(prompt_id=name, model=model, index=index, answer_sha=sha, value=value))
        write_rows(temperature_folder(folder, temperature) / "answers.jsonl", answers)
        write_rows(temperature_folder(folder, temperature) / "rewards.jsonl", rewards)
    finish("evaluate", f"held-out/{model}/{seed}", folder)


def toy_answer(name: str, model: str, index: int, text: str | None) -> Answer:
    """Ten tokens; None: it failed."""
    if text is None:
        failure = Failure(reason="timeout", message="too slow")
        return Answer(prompt_id=name, model=model, index=index, error=failure)
    return Answer(prompt_id=name, model=model, index=index, turns=(text,), finish=("stop",), completion_tokens=(10,))


def same(values: Values) -> dict[float, list[Values]]:
    """The greedy answer and both samples alike."""
    return {0.0: [values], 0.3: [values, values]}


def write_checkpoint(recipe: Recipe, model: str, seed: int, log: Sequence[Mapping[str, float]] = ()) -> Path:
    """A folder with files named as a checkpoint's, and some that no one else should get."""
    folder = recipe.checkpoint(model, seed)
    assert folder is not None
    (folder / "checkpoint-5").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "checkpoint-5/config.json"):
        (folder / name).write_text("{}")
    for name in ("model.safetensors", "checkpoint-5/model.safetensors", "optimizer.pt", "training_args.bin"):
        (folder / name).write_bytes(f"{model} {seed} {name}".encode())
    (folder / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    finish("align", f"{model}/{seed}", folder, beta=0.01, base="/home/someone/models/base")
    return folder


def pair(name: str, source: str, rewards: tuple[float, float, float]) -> PreferencePair:
    """`rewards`: of y_ws, y_wt and y_l."""
    chosen = [
        Chosen(text=f"{model} says {number}", model=model, index=0, reward=reward)
        for number, (model, reward) in enumerate(zip((source, "target", "target"), rewards, strict=True))
    ]
    return PreferencePair(prompt=prompt(name), source=chosen[0], target=chosen[1], rejected=chosen[2])
