"""Recipe folders as the stages leave them: prompts and answers written by hand, their steps done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.records import Answer, Failure, Finish, Prompt
from recipes.layout import Counts, Part, PromptRow, Recipe, RewardRow
from recipes.spec import RecipeSpec
from recipes.steps import Step, run_step

Texts = Mapping[str, Sequence[str | None]]
"""Prompt id -> the samples' texts; None: a failed one."""


def recipe(folder: Path, reward: Mapping[str, object], **further: object) -> Recipe:
    """A recipe of the two sources a and b."""
    given = {
        "name": "toy",
        "output_dir": folder,
        "target": "models/target",
        "prompts": {"dataset": "prompts.jsonl"},
        "sources": [{"name": "a", "model": "models/a"}, {"name": "b", "answers": "b.jsonl"}],
        "reward": reward,
        "variants": {"wrpo": {}},
    }
    spec = RecipeSpec.model_validate(given | further)
    return Recipe(spec, spec.variants, spec.seeds)


def prompt_rows(ids: Sequence[str], part: Part = "preference", **columns: str) -> list[PromptRow]:
    return [
        PromptRow(prompt=Prompt(id=one, turns=(f"say {one}",), category="c"), part=part, columns=columns) for one in ids
    ]


def answer(prompt_id: str, index: int, text: str | None, *, model: str = "m") -> Answer:
    """A text that ends with … was cut at the limit of tokens."""
    finish: Finish = "length" if text is not None and text.endswith("…") else "stop"
    if text is None:
        error = Failure(reason="timeout", message="no answer")
        return Answer(prompt_id=prompt_id, model=model, index=index, error=error)
    return Answer(prompt_id=prompt_id, model=model, index=index, turns=(text,), finish=(finish,))


def prompts_step(made: Recipe, rows: Sequence[PromptRow]) -> Step:
    return _done("prompts", "prompts", made.prompts, "prompts.jsonl", [row.model_dump_json() for row in rows])


def answers_step(folder: Path, name: str, texts: Texts) -> Step:
    """`answers.jsonl` of these samples, the step done."""
    rows = [answer(one, place, text) for one, samples in texts.items() for place, text in enumerate(samples)]
    return _done("sources", name, folder, "answers.jsonl", [row.model_dump_json() for row in rows])


def _done(stage: str, name: str, folder: Path, file: str, lines: Sequence[str]) -> Step:
    def work(into: Path) -> Counts:
        (into / file).write_text("".join(f"{line}\n" for line in lines))
        return {}

    step = Step(stage, name, folder, {"lines": len(lines)}, work)
    run_step(step)
    return step


def rewards_step(folder: Path, name: str, texts: Texts, values: Mapping[str, Sequence[float | None]]) -> Step:
    """`rewards.jsonl` of these samples, the step done; None: the reward model failed."""
    failed = Failure(reason="context", message="too long")
    rows = [
        RewardRow(
            prompt_id=one,
            model=name.rpartition("/")[2],
            index=place,
            answer_sha=answer(one, place, text).sha,
            value=value,
            error=failed if value is None else None,
        )
        for one, samples in texts.items()
        for place, (text, value) in enumerate(zip(samples, values[one], strict=True))
        if text is not None
    ]
    return _done("rewards", name, folder, "rewards.jsonl", [row.model_dump_json() for row in rows])
