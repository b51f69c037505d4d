"""Estimates of the stages that sample and score answers: sources, rewards, target, evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.config.choice import suite_names
from harness.plugins import load_plugin
from harness.protocols import Suite, SuiteOptions

from ..spec import SourceSpec
from .items import DeviceTime, PlanContext, PlanItem
from .measured import Mean, devices_of, lines_of

WITHOUT_DEVICE = ("function", "judge", "pooling")
"""Kinds of reward that load no model on our devices, and so take no device time."""
OFFICIAL = {"mt_bench": 160, "alpaca_eval": 805, "arena_hard": 500}
"""Questions (turns) of the official editions, so that a plan does not download their files."""


def source_item(context: PlanContext, source: SourceSpec) -> PlanItem:
    """Estimate the answers of one source: device time, or dollars for an endpoint."""
    known, folder = context.known, context.recipe.source(source.name)
    item = PlanItem(
        stage="sources", name=f"sources/{source.name}", model=source.name, done=context.done("sources", folder)
    )
    if source.model is None:
        return item
    draws = known.prompts.of("sft", "preference") * context.recipe.spec.sampling.n
    left = context.left("sources", folder / "answers.jsonl", draws)
    item = item.model_copy(
        update={
            "calls": left,
            "calls_done": draws - left,
            "prompt_tokens": left * known.prompts.tokens.value,
            "answer_tokens": left * known.source_answer(source.name).value,
        }
    )
    if source.model.startswith("endpoint:"):
        return item.model_copy(update={"dollars": _list_price(item, source)})
    rate = known.generation(source.name, [folder], source.serve)
    return context.timed(item, DeviceTime(item.answer_tokens, rate, devices_of(source.serve), "generation"))


def _list_price(item: PlanItem, source: SourceSpec) -> float | None:
    if not item.calls:
        return 0.0
    if source.price_in is None or source.price_out is None:
        return None
    return (item.prompt_tokens * source.price_in + item.answer_tokens * source.price_out) / 1e6


def source_reward_item(context: PlanContext, source: SourceSpec) -> PlanItem:
    """Estimate the rewards of a source's answers.

    A source with existing answers has one per prompt, or as many as its file has if the file is on this machine.
    """
    spec, prompts = context.recipe.spec, context.known.prompts.of("sft", "preference")
    existing = lines_of(context.recipe.source(source.name) / "answers.jsonl")
    answers = max(prompts, existing) if source.model is None else prompts * spec.sampling.n
    folder, length = context.recipe.source_rewards(source.name), context.known.source_answer(source.name)
    return _rewarded(context, f"rewards/{source.name}", source.name, folder, answers=answers, length=length)


def target_items(context: PlanContext, seed: int) -> Iterator[PlanItem]:
    """Estimate a seed's samples of the SFT model, and their rewards."""
    known, folder = context.known, context.recipe.seed(seed)
    draws = known.prompts.of("preference") * context.recipe.spec.sampling.n
    left = context.left("target", folder / "target" / "answers.jsonl", draws)
    item = PlanItem(
        stage="target",
        name=f"seed-{seed}/target",
        seed=seed,
        model="sft",
        done=context.done("target", folder / "target"),
        calls=left,
        calls_done=draws - left,
        prompt_tokens=left * known.prompts.tokens.value,
        answer_tokens=left * known.target_answer.value,
    )
    yield context.timed(item, _by_target(context, item.answer_tokens))
    name, rewards_folder = f"seed-{seed}/target-rewards", folder / "target-rewards"
    rewarded = _rewarded(
        context, name, "sft", rewards_folder, answers=draws, length=known.target_answer, since="target"
    )
    yield rewarded.model_copy(update={"seed": seed})


def _rewarded(
    context: PlanContext, name: str, model: str, folder: Path, *, answers: int, length: Mean, since: str = "rewards"
) -> PlanItem:
    """Estimate one set of rewards. `since` is the stage whose rerun makes them obsolete."""
    left = context.left(since, folder / "rewards.jsonl", answers)
    item = PlanItem(
        stage="rewards",
        name=name,
        model=model,
        done=context.done(since, folder),
        calls=left,
        calls_done=answers - left,
        prompt_tokens=left * (context.known.prompts.tokens.value + length.value),
    )
    return context.timed(item, *_by_reward(context, item.prompt_tokens))


def _by_reward(context: PlanContext, tokens: float) -> list[DeviceTime]:
    spec = context.recipe.spec.reward
    if spec.kind in WITHOUT_DEVICE:
        return []
    return [DeviceTime(tokens, context.known.reward, devices_of(spec.serve) * max(1, spec.workers), "reward")]


def _by_target(context: PlanContext, tokens: float) -> DeviceTime:
    spec = context.recipe.spec
    folders = [context.recipe.seed(seed) / "target" for seed in spec.seeds]
    rate = context.known.generation("target", folders, spec.target_serve)
    return DeviceTime(tokens, rate, devices_of(spec.target_serve), "generation")


def held_out_item(context: PlanContext, seed: int, model: str) -> PlanItem:
    """Estimate answering the held-out prompts at every temperature, and rewarding the answers."""
    spec, known = context.recipe.spec, context.known
    each = sum(spec.evaluate.samples if temperature else 1 for temperature in spec.evaluate.temperatures)
    folder = context.recipe.held_out(model, seed)
    done = context.done("evaluate", folder)
    calls = 0 if done else known.prompts.of("validation", "test") * each
    read, written = calls * known.prompts.tokens.value, calls * known.target_answer.value
    item = PlanItem(
        stage="evaluate",
        name=f"seed-{seed}/held-out/{model}",
        seed=seed,
        model=model,
        done=done,
        calls=calls,
        prompt_tokens=read,
        answer_tokens=written,
    )
    return context.timed(item, _by_target(context, written), *_by_reward(context, read + written))


def suite_items(context: PlanContext) -> Iterator[PlanItem]:
    """Estimate the suites: one item per model and seed, and one for the target.

    Calls and dollars of judges are not included; `harness run --dry-run` estimates them.
    """
    evaluate = context.recipe.spec.evaluate
    if evaluate.suite is None:
        return
    questions = 0
    for suite in suite_names(evaluate.suite):
        turns = _turns(suite, evaluate.edition)
        questions += turns if evaluate.limit is None else min(turns, evaluate.limit)
    everyone = ("target", "sft", *context.recipe.variants)
    models = everyone if "all" in evaluate.models else tuple(dict.fromkeys(evaluate.models))
    seeds = context.recipe.seeds if evaluate.suite_seeds == "all" else context.recipe.seeds[:1]
    for seed in seeds:
        for model in models:
            if model in (*everyone, "best") and (model != "target" or seed == context.recipe.seeds[0]):
                yield _suite_item(context, seed, model, questions)


def _suite_item(context: PlanContext, seed: int, model: str, questions: int) -> PlanItem:
    done = context.done("evaluate", context.recipe.suites(model, seed))
    questions = 0 if done else questions
    item = PlanItem(
        stage="evaluate",
        name=f"seed-{seed}/suites/{model}",
        seed=seed,
        model=model,
        done=done,
        calls=questions,
        prompt_tokens=questions * context.known.prompts.tokens.value,
        answer_tokens=questions * context.known.target_answer.value,
    )
    return context.timed(item, _by_target(context, item.answer_tokens))


def _turns(name: str, edition: str) -> int:
    """Return the number of questions (turns) of a suite."""
    if edition == "official" and name in OFFICIAL:
        return OFFICIAL[name]
    suite: Suite = load_plugin("suites", name.partition(":")[0])(SuiteOptions(edition=edition))
    return sum(len(prompt.turns) for prompt in suite.prompts())
