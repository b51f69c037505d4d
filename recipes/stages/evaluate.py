"""Stage `evaluate`: answer and reward the held-out prompts, and do `harness run` on the suites.

A held-out folder has one subfolder per temperature (`t0`, `t0.3`), each with answers.jsonl and rewards.jsonl. Suites
are run into the recipe's own results folder. For them, a checkpoint is served through a link
`models/RECIPE-MODEL-seedN`, whose last part becomes its name on the leaderboard.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from harness.analysis.leaderboard import run_id
from harness.records import ModelRef
from harness.records.errors import ConfigError, IncompleteError
from harness.records.results import what_is_missing
from harness.store import make_folder, write_atomic

from ..devices import Gpus, devices_of
from ..estimate import Estimator, PlanItem
from ..layout import ANSWERS, PROMPTS, REWARDS, Counts, Recipe
from ..report.board import HELD_OUT, best_by_validation, draws, temperature_folder
from ..report.data import SCORES, SuiteRuns, read_all_measured
from ..rewards.scoring import reward_alone, reward_gpus, reward_settings, score_answers
from ..sampling import AnswerFile, Sampler, generation_time, gpus_of, needs_machine, prompts_of, sample
from ..spec import RecipeSpec
from ..steps import Step
from ..suites import check_suites, run_suites, suite_calls
from .rewards import reward_time
from .target import target_time

KEPT = (f"*/{ANSWERS}", f"*/{REWARDS}", "*.json")


def held_out_steps(recipe: Recipe, seed: int, prompts: Step, models: Sequence[Step]) -> list[Step]:
    """Return one step per model: the target (once, with the first seed), the SFT model and every variant."""
    spec = recipe.spec
    if not (spec.prompts.validation or spec.prompts.test):
        return []
    by_folder = {step.folder: step for step in models}
    steps = [_held_out(recipe, "target", spec.seeds[0], prompts, None)] if seed == recipe.seeds[0] else []
    return steps + [
        _held_out(recipe, name, seed, prompts, by_folder[folder])
        for name in ("sft", *recipe.variants)
        if (folder := recipe.checkpoint(name, seed)) is not None
    ]


def _held_out(recipe: Recipe, model: str, seed: int, prompts: Step, trained: Step | None) -> Step:
    spec = recipe.spec
    sampler = _sampler(spec, model, seed, trained)

    def work(folder: Path) -> Counts:
        held_out = prompts_of(prompts.folder / PROMPTS, *HELD_OUT)
        files = []
        for temperature, samples in draws(spec.evaluate).items():
            sampling = spec.sampling.as_sampling(seed).model_copy(update={"temperature": temperature, "n": samples})
            subfolder = temperature_folder(folder, temperature)
            subfolder.mkdir(exist_ok=True)
            files.append(AnswerFile(subfolder / ANSWERS, held_out, sampling))
        counts = sample(sampler, files, folder)
        rewarded = [_score(spec, prompts.folder / PROMPTS, file.path, model) for file in files]
        return counts | {"rewarded": sum(rewarded)}

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        calls = 0 if item.done else known.prompts.of(*HELD_OUT) * sum(draws(spec.evaluate).values())
        item = _asked(known, item, model, calls)
        rewarding = reward_time(known, item.prompt_tokens + item.answer_tokens)
        yield known.timed(item, target_time(known, item.answer_tokens), *rewarding)

    settings: dict[str, JsonValue] = {
        **sampler.settings(),
        "temperatures": {f"{temperature:g}": samples for temperature, samples in draws(spec.evaluate).items()},
        "sampling": spec.sampling.as_sampling(seed).model_dump(mode="json", exclude={"temperature", "n"}),
        "reward": reward_settings(spec.reward),
    }
    name = "held-out/target" if trained is None else f"seed-{seed}/held-out/{model}"
    inputs = (prompts,) if trained is None else (prompts, trained)
    folder = recipe.held_out(model, seed)
    sampling, rewarding = gpus_of(sampler.model, sampler.backend, sampler.serve), reward_gpus(spec.reward)
    return Step(
        "evaluate",
        name,
        folder,
        settings,
        work,
        inputs,
        KEPT,
        seed=seed,
        alone=needs_machine(sampler.backend, sampler.serve) or reward_alone(spec.reward),
        gpus=replace(sampling, unit=max(sampling.unit, rewarding.unit)),
        estimate=estimate,
    )


def _asked(known: Estimator, item: PlanItem, model: str, calls: int) -> PlanItem:
    tokens = {"prompt_tokens": calls * known.prompts.tokens.value, "answer_tokens": calls * known.target_answer.value}
    return item.model_copy(update={"model": model, "calls": calls, **tokens})


def _sampler(spec: RecipeSpec, model: str, seed: int, trained: Step | None) -> Sampler:
    """Return a sampler that tolerates any number of failures, because a variant may have collapsed.

    Failures are reported beside the scores.
    """
    serve = spec.target_serve
    if trained is None and serve.chat_template is None and spec.chat_template is not None:
        serve = serve.model_copy(update={"chat_template": spec.chat_template})
    name = spec.target if trained is None else str(trained.folder)
    return Sampler(model, ModelRef.parse(name), spec.target_backend, serve, seed, max_failed=1.0)


def _score(spec: RecipeSpec, prompts: Path, answers: Path, model: str) -> int:
    """Return the number of answers with a reward; without any answer, the reward is not loaded."""
    with answers.open("rb") as file:
        if not any(b'"error":null' in line for line in file):
            return 0
    counts = score_answers(spec.reward, prompts=prompts, answers=answers, model=model, folder=answers.parent)
    rewarded = counts["rewarded"]
    assert isinstance(rewarded, int)
    return rewarded


def suite_steps(recipe: Recipe, models: Sequence[Step]) -> list[Step]:
    """Return one step per model that runs the suites, or none if the recipe names no suite.

    Raise ConfigError before anything is trained if a suite or judge does not exist, or if `best` has no validation
    prompts to choose by.
    """
    spec = recipe.spec
    if spec.evaluate.suite is None:
        return []
    check_suites(spec.evaluate)
    if "best" in spec.evaluate.models and not spec.prompts.validation:
        raise ConfigError("evaluate.models has `best`, which needs validation prompts: set prompts.validation")
    by_folder = {step.folder: step for step in models}
    seeds = recipe.seeds if spec.evaluate.suite_seeds == "all" else recipe.seeds[:1]
    steps: list[Step] = []
    for seed in seeds:
        for model in _chosen(recipe):
            if model == "target" and seed != seeds[0]:
                continue
            needed = _needed(recipe, model, seed, by_folder)
            if model == "best":
                needed += tuple(steps)  # `best` may be the same run as one of them
            steps.append(_suite(recipe, model, seed, needed))
    return steps


def _chosen(recipe: Recipe) -> list[str]:
    """Return the models to evaluate, `best` last: which variant it is depends on the held-out rewards."""
    requested = recipe.spec.evaluate.models
    every = ("target", "sft", *recipe.variants)
    names = [name for name in every if "all" in requested or name in requested]
    return [*names, "best"] if "best" in requested else names


def _needed(recipe: Recipe, model: str, seed: int, by_folder: dict[Path, Step]) -> tuple[Step, ...]:
    if model == "best":
        return tuple(step for step in by_folder.values() if step.stage == "evaluate")
    folder = recipe.checkpoint(model, seed)
    return () if folder is None else (by_folder[folder],)


def _suite(recipe: Recipe, model: str, seed: int, inputs: tuple[Step, ...]) -> Step:
    def work(folder: Path) -> Counts:
        return _run(recipe, model, seed, folder)

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        # the judges' calls are not included: `harness run --dry-run` estimates them
        calls = 0 if item.done else suite_calls(recipe.spec.evaluate, seed=recipe.spec.seeds[0])
        item = _asked(known, item, model, calls)
        folders = [recipe.target(each) for each in recipe.spec.seeds]
        serve = recipe.spec.evaluate.serve
        yield known.timed(item, generation_time(known, "target", serve, item.answer_tokens, measured=folders))

    best = model == "best"  # chosen again each time, as there may be new variants; existing runs are not repeated
    return Step(
        "evaluate",
        "suites/target" if model == "target" else f"seed-{seed}/suites/{model}",
        recipe.suites(model, seed),
        suite_settings(recipe, model, seed),
        work,
        inputs,
        always=best,
        alone=True,
        gpus=Gpus(devices_of(recipe.spec.evaluate.serve), replicas=1),
        seed=seed,
        estimate=estimate,
    )


def suite_settings(recipe: Recipe, model: str, seed: int) -> dict[str, JsonValue]:
    """Return the settings that decide the scores, without local paths."""
    settings = recipe.spec.evaluate.model_dump(mode="json", include={"suite", "edition", "judge", "limit", "backend"})
    target = ModelRef.parse(recipe.spec.target)
    name = target.short if target.scheme == "path" else str(target)
    return settings | {"model": name if model == "target" else recipe.label(model, seed)}


def _run(recipe: Recipe, model: str, seed: int, folder: Path) -> Counts:
    """Serve the model, run the suites and write the ids of its runs; resume an earlier run.

    Raise IncompleteError if too many answers are unscored for a score to be ranked.
    """
    chosen = best_variant(recipe) if model == "best" else model
    ref = _served(recipe, chosen, seed)
    # the first seed for all models: it decides which prompts `limit` draws
    cards = run_suites(recipe.spec.evaluate, ref, recipe.results, seed=recipe.spec.seeds[0])
    broken = [card for card in cards if not card.complete]
    if broken:
        raise IncompleteError(f"{ref.label}: {what_is_missing(broken)}")
    suite_runs = SuiteRuns(model=ref.label, runs=tuple(run_id(card) for card in cards))
    write_atomic(folder / SCORES, suite_runs.model_dump_json(indent=2) + "\n")
    return {"model": ref.label, **{card.suite: card.scores[card.headline].value for card in cards}}


def best_variant(recipe: Recipe) -> str:
    """Return the variant with the highest mean validation reward over seeds, at the first temperature."""
    ranked = [name for name in best_by_validation(read_all_measured(recipe)) if name in recipe.spec.variants]
    if not ranked:
        raise IncompleteError("no variant has a reward on the validation prompts, so there is no best one")
    return ranked[0]


def _served(recipe: Recipe, model: str, seed: int) -> ModelRef:
    folder = recipe.checkpoint(model, seed)
    if folder is None:
        return ModelRef.parse(recipe.spec.target)
    link = recipe.out / "models" / recipe.label(model, seed)
    make_folder(link.parent)
    goal = os.path.relpath(folder, link.parent)
    if not link.is_symlink():
        link.symlink_to(goal, target_is_directory=True)
    elif os.readlink(link) != goal:
        raise ConfigError(f"{link} points to {os.readlink(link)!r} instead of {goal!r}; move it away")
    return ModelRef(scheme="path", name=str(link))
