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
from harness.backends.devices import devices_of
from harness.records import Answer, ModelRef
from harness.records.asking import Work
from harness.records.errors import ConfigError, IncompleteError
from harness.records.results import what_is_missing
from harness.records.settings import ServeSpec
from harness.store import make_folder, write_atomic, write_lines

from ..estimate import Estimator, Gpus, PlanItem
from ..layout import ANSWERS, PROMPTS, REWARDS, Counts, Recipe, RewardRow, rows_in
from ..report.board import HELD_OUT, best_by_validation, draws, temperature_folder
from ..report.data import SCORES, SuiteRuns, read_all_measured
from ..rewards.scoring import reward_alone, reward_gpus, reward_settings, score_answers
from ..rivals import asked_of, rival_devices, rival_ref, source_named, target_serve, with_asked, write_team
from ..sampling import AnswerFile, Sampler, gpus_of, needs_machine, prompts_of, sample
from ..spec import RIVALS, RecipeSpec, SuitesSpec
from ..steps import Step
from ..suites import check_suites, own_suites, run_suites, suite_calls
from .rewards import reward_time

KEPT = (f"*/{ANSWERS}", f"*/{REWARDS}", "*.json")


def held_out_steps(recipe: Recipe, seed: int, prompts: Step, models: Sequence[Step]) -> list[Step]:
    """Return one step per model: the SFT model, every variant, and with the first seed the target and its rivals."""
    spec = recipe.spec
    if not (spec.prompts.validation or spec.prompts.test):
        return []
    by_folder = {step.folder: step for step in models}
    steps = []
    if seed == recipe.seeds[0]:
        names = [name for name in recipe.fixed if name != "best_source"]
        steps = [_held_out(recipe, name, spec.seeds[0], prompts, None) for name in names]
    if seed == recipe.seeds[0] and "best_source" in recipe.rivals:
        steps.append(_best_source(recipe, prompts, steps))
    return steps + [
        _held_out(recipe, name, seed, prompts, by_folder[folder])
        for name in (*(() if spec.starts_at_target else ("sft",)), *recipe.variants)
        if (folder := recipe.checkpoint(name, seed)) is not None
    ]


def merged_held_out_steps(recipe: Recipe, seed: int, prompts: Step, models: Sequence[Step]) -> list[Step]:
    """Return one step per merge that has a checkpoint of this seed."""
    if not (recipe.spec.prompts.validation or recipe.spec.prompts.test):
        return []
    by_folder = {step.folder: step for step in models}
    return [
        _held_out(recipe, name, seed, prompts, by_folder[folder])
        for name in recipe.merges
        if (folder := recipe.variant(name, seed)) in by_folder
    ]


def _held_out(recipe: Recipe, model: str, seed: int, prompts: Step, trained: Step | None) -> Step:
    spec = recipe.spec
    sampler = _sampler(recipe, model, seed, trained)

    def work(folder: Path) -> Counts:
        if model in RIVALS:
            write_team(recipe, model)
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

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        answers = 0 if item.done else estimator.prompts.of(*HELD_OUT) * sum(draws(spec.evaluate).values())
        requests = asked_of(estimator, model, answers)
        last = requests[-1].written / max(1.0, requests[-1].calls)  # tokens per answer of the one that is rewarded
        rewarding = reward_time(estimator, answers * (estimator.prompts.tokens.value + last))
        yield with_asked(estimator, item.model_copy(update={"model": model}), requests, spec.target_serve, *rewarding)

    settings: dict[str, JsonValue] = {
        **sampler.settings(),
        "temperatures": {f"{temperature:g}": samples for temperature, samples in draws(spec.evaluate).items()},
        "sampling": spec.sampling.as_sampling(seed).model_dump(mode="json", exclude={"temperature", "n"}),
        "reward": reward_settings(spec.reward),
    }
    if model == "moa":
        settings["moa"] = spec.evaluate.moa.model_dump(mode="json")
    name = f"held-out/{model}" if trained is None else f"seed-{seed}/held-out/{model}"
    inputs = (prompts,) if trained is None else (prompts, trained)
    folder = recipe.held_out(model, seed)
    sampling, rewarding = gpus_of(sampler.model, sampler.backend, sampler.serve), reward_gpus(spec.reward)
    if model in RIVALS:
        sampling = Gpus(rival_devices(spec, model), replicas=1)
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
        one_core=model in RIVALS and _loads_all(recipe, model) and not reward_alone(spec.reward),
        gpus=replace(sampling, unit=max(sampling.unit, rewarding.unit)),
        estimate=estimate,
    )


def _best_source(recipe: Recipe, prompts: Step, held_out: Sequence[Step]) -> Step:
    """Return the step that takes, per draw, the source answer with the highest reward. It asks nothing.

    The reward that chooses is the one that scores, so this is what choosing by the reward can reach at best.
    """
    spec = recipe.spec
    names = [source.name for source in spec.sources if source.name in recipe.rivals]
    folders = {name: recipe.held_out(name, spec.seeds[0]) for name in names}

    def work(folder: Path) -> Counts:
        count = 0
        for temperature in spec.evaluate.temperatures:
            subfolder = temperature_folder(folder, temperature)
            subfolder.mkdir(exist_ok=True)
            count += choose_best([temperature_folder(source, temperature) for source in folders.values()], subfolder)
        return {"answers": count}

    inputs = (prompts, *(step for step in held_out if step.folder in folders.values()))
    settings: dict[str, JsonValue] = {"sources": list(names)}
    return Step("evaluate", "held-out/best_source", recipe.held_out("best_source", 0), settings, work, inputs, KEPT)


def choose_best(sources: Sequence[Path], folder: Path) -> int:
    """Write, per draw, the answer with the highest reward of several folders, and that reward; the first of equals.

    A draw that no source has answered with a reward is left out, and counts as unscored. Return the number of draws.
    """
    best: dict[str, tuple[RewardRow, Answer]] = {}
    spent: dict[str, list[Answer]] = {}
    for source in sources:
        rewards = {row.key: row for row in rows_in(source / REWARDS, RewardRow)} if (source / REWARDS).exists() else {}
        for answer in rows_in(source / ANSWERS, Answer):
            spent.setdefault(answer.key, []).append(answer)
            row = rewards.get(f"{answer.key}|{answer.sha}")
            if row is None or row.value is None:
                continue
            if answer.key not in best or row.value > (best[answer.key][0].value or 0.0):
                best[answer.key] = row, answer
    chosen = [answer.model_copy(update={"work": _work(spent[key])}) for key, (_, answer) in best.items()]
    write_lines(folder / ANSWERS, (answer.model_dump_json() for answer in chosen))
    write_lines(folder / REWARDS, (row.model_dump_json() for row, _ in best.values()))
    return len(best)


def _work(answers: Sequence[Answer]) -> tuple[Work, ...]:
    return tuple(
        Work(
            member=answer.model,
            calls=1,
            prompt_tokens=sum(answer.prompt_tokens),
            completion_tokens=sum(answer.completion_tokens),
        )
        for answer in answers
    )


def _sampler(recipe: Recipe, model: str, seed: int, trained: Step | None) -> Sampler:
    """Return a sampler that tolerates any number of failures, because a variant may have collapsed.

    Failures are reported beside the scores.
    """
    spec = recipe.spec
    if model in recipe.rivals:
        ref, backend, serve = rival_ref(recipe, model), model, ServeSpec()
        if model not in RIVALS:
            source = source_named(spec, model)
            backend = "endpoint" if ref.scheme == "endpoint" else source.backend
            serve = source.serve
        return Sampler(model, ref, backend, serve, seed, max_failed=1.0)
    serve = target_serve(spec) if trained is None else spec.target_serve
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
            if model in recipe.fixed and seed != seeds[0]:
                continue
            if model in recipe.merges and seed not in recipe.merge_seeds(model):
                continue
            needed = _needed(recipe, model, seed, by_folder)
            if model == "best":
                needed += tuple(steps)  # `best` may be the same run as one of them
            steps.append(_suite(recipe, model, seed, needed))
    return steps


def _chosen(recipe: Recipe) -> list[str]:
    """Return the models to evaluate, `best` last: which variant it is depends on the held-out rewards."""
    requested = recipe.spec.evaluate.models
    start = () if recipe.spec.starts_at_target else ("sft",)
    every = ("target", *start, *recipe.variants, *recipe.merges)
    names = [name for name in every if "all" in requested or name in requested]
    names += [name for name in recipe.rivals if name in requested]
    return [*names, "best"] if "best" in requested else names


def _needed(recipe: Recipe, model: str, seed: int, by_folder: dict[Path, Step]) -> tuple[Step, ...]:
    if model == "best":
        return tuple(step for step in by_folder.values() if step.stage == "evaluate")
    folder = recipe.checkpoint(model, seed)
    return () if folder is None else (by_folder[folder],)


def _suite(recipe: Recipe, model: str, seed: int, inputs: tuple[Step, ...]) -> Step:
    def work(folder: Path) -> Counts:
        return _run(recipe, model, seed, folder)

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        # the judges' calls are not included: `harness run --dry-run` estimates them
        calls = 0 if item.done else suite_calls(recipe.spec.evaluate, seed=recipe.spec.seeds[0])
        requests = asked_of(estimator, model, calls)
        chosen = sum(part.read + part.written for part in requests) if model == "best_source" else 0.0
        rewarding = reward_time(estimator, chosen)
        item = item.model_copy(update={"model": model})
        yield with_asked(estimator, item, requests, recipe.spec.evaluate.serve, *rewarding)

    spec = recipe.spec.evaluate
    best = model == "best"  # chosen again each time, as there may be new variants; existing runs are not repeated
    return Step(
        "evaluate",
        f"suites/{model}" if model in recipe.fixed else f"seed-{seed}/suites/{model}",
        recipe.suites(model, seed),
        suite_settings(recipe, model, seed),
        work,
        inputs,
        always=best,
        alone=True,
        one_core=spec.judge is None and spec.edition == "pocket" and _loads_all(recipe, model),
        gpus=Gpus(_suite_devices(recipe, model), replicas=1),
        seed=seed,
        estimate=estimate,
    )


def _suite_devices(recipe: Recipe, model: str) -> int:
    if model in RIVALS:
        return rival_devices(recipe.spec, model)
    return devices_of(_suites_spec(recipe, model).serve)


def _loads_all(recipe: Recipe, model: str) -> bool:
    """Return whether every model that answers is loaded in the step's own process, so that no server is started."""
    spec = recipe.spec
    if model not in recipe.rivals:
        return spec.evaluate.backend == "in_process"
    sources = [source for source in spec.sources if source.model is not None and model in (source.name, *RIVALS)]
    backends = {source.backend for source in sources if not (source.model or "").startswith("endpoint:")}
    if model == "moa" and spec.evaluate.moa.aggregator == "target":
        backends.add(spec.target_backend)
    return backends <= {"in_process"}


def suite_settings(recipe: Recipe, model: str, seed: int) -> dict[str, JsonValue]:
    """Return the settings that decide the scores, without local paths."""
    settings = recipe.spec.evaluate.model_dump(mode="json", include={"suite", "edition", "judge", "limit", "backend"})
    if content := own_suites(recipe.spec.evaluate):
        settings["own_suites"] = content
    target = ModelRef.parse(recipe.spec.target)
    name = target.short if target.scheme == "path" else str(target)
    if model == "moa":
        settings["moa"] = recipe.spec.evaluate.moa.model_dump(mode="json")
    if model == "best_source":
        settings["reward"] = reward_settings(recipe.spec.reward)
    return settings | {"model": name if model == "target" else recipe.label(model, seed)}


def _run(recipe: Recipe, model: str, seed: int, folder: Path) -> Counts:
    """Serve the model, run the suites and write the ids of its runs; resume an earlier run.

    Raise IncompleteError if too many answers are unscored for a score to be ranked.
    """
    chosen = best_variant(recipe) if model == "best" else model
    ref = _served(recipe, chosen, seed)
    # the first seed for all models: it decides which prompts `limit` draws
    cards = run_suites(_suites_spec(recipe, chosen), ref, recipe.results, seed=recipe.spec.seeds[0])
    broken = [card for card in cards if not card.complete]
    if broken:
        raise IncompleteError(f"{ref.label}: {what_is_missing(broken)}")
    suite_runs = SuiteRuns(model=ref.label, runs=tuple(run_id(card) for card in cards))
    write_atomic(folder / SCORES, suite_runs.model_dump_json(indent=2) + "\n")
    return {"model": ref.label, **{card.suite: card.scores[card.headline].value for card in cards}}


def _suites_spec(recipe: Recipe, model: str) -> SuitesSpec:
    """Return how suites are run on a model; a source is served as when it is sampled, an ensemble by its members."""
    spec = recipe.spec.evaluate
    if model in RIVALS:
        return spec.model_copy(update={"serve": ServeSpec()})
    for source in recipe.spec.sources:
        if source.name == model and model in recipe.rivals:
            return spec.model_copy(update={"backend": source.backend, "serve": source.serve})
    return spec


def best_variant(recipe: Recipe) -> str:
    """Return the variant with the highest mean validation reward over seeds, at the first temperature."""
    ranked = [
        name
        for name in best_by_validation(read_all_measured(recipe))
        if name in (*recipe.spec.variants, *recipe.spec.merges)
    ]
    if not ranked:
        raise IncompleteError("no variant has a reward on the validation prompts, so there is no best one")
    return ranked[0]


def _served(recipe: Recipe, model: str, seed: int) -> ModelRef:
    if model in RIVALS:
        write_team(recipe, model)
    if model in recipe.rivals:
        return rival_ref(recipe, model)
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
