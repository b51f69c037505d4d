"""Stage `rewards` with functions as rewards: what gets a reward, what stops it, what a second run does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from recipe_files import answers_step, prompt_rows, prompts_step, recipe

from harness.errors import ConfigError, IncompleteError, PluginError
from harness.store import JsonlRows
from recipes.records import Reward
from recipes.stages.rewards import source_reward_steps, target_reward_step
from recipes.steps import Step, StepRecord, run_step

CALLS: list[list[str]] = []
"""Completions of every call of the functions below, in order."""


def length(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    CALLS.append(list(completions))
    return [float(len(text)) for text in completions]


async def wanted(prompts: Sequence[str], completions: Sequence[str], gold: Sequence[str]) -> list[float]:
    await asyncio.sleep(0)
    return [float(one == other) for one, other in zip(completions, gold, strict=True)]


def spoken(prompts: Sequence[list[dict[str, str]]], completions: Sequence[list[dict[str, str]]]) -> list[float]:
    assert [talk[0]["role"] for talk in completions] == ["assistant"] * len(completions)
    return [float(len(talk[-1]["content"])) for talk in prompts]


def broken(prompts: Sequence[str], completions: Sequence[str], prompt_id: Sequence[str], **columns: object) -> object:
    made = {"nan": float("nan"), "none": None, "text": "3", "infinite": float("-inf")}
    if "short" in prompt_id:
        return [1.0]
    if "number" in prompt_id:
        return 1.0
    if "raise" in prompt_id:
        raise KeyError("gold")
    return [made.get(one, 1.0) for one in prompt_id]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


ROWS = prompt_rows(["p", "q"], gold="fox")
TEXTS = {"p": ["fox", "a dog", "fox"], "q": [None, "hare"]}


def scored(folder: Path, name: str, texts: dict[str, list[str | None]] = TEXTS, **reward: object) -> Step:  # type: ignore[assignment]
    """The first source's rewards step, not run yet."""
    made = recipe(folder, {"kind": "function", "model": f"{__name__}:{name}", **reward})
    prompts = prompts_step(made, prompt_rows(list(texts), gold="fox"))
    answers = [answers_step(made.source(one), f"sources/{one}", texts) for one in "ab"]
    return source_reward_steps(made, prompts, answers)[0]


def rewards(step: Step) -> dict[str, float | None]:
    rows = JsonlRows(step.folder / "rewards.jsonl", Reward).read()
    return {f"{row.prompt_id}#{row.index}": row.value for row in rows}


def test_every_answer_gets_its_reward_and_a_failed_one_gets_none(tmp_path: Path) -> None:
    step = scored(tmp_path, "length")

    done = run_step(step)

    assert rewards(step) == {"p#0": 3.0, "p#1": 5.0, "p#2": 3.0, "q#1": 4.0}
    assert {key: done.counts[key] for key in ("answers", "rewarded", "answers_failed", "scored")} == {
        "answers": 5,
        "rewarded": 4,
        "answers_failed": 1,
        "scored": 3,  # "fox" once for both draws
    }
