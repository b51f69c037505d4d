"""Score answers with the reward (stage `rewards`), and with the sources' log-probabilities (stage `logps`).

Every answer of a source and of the target gets a reward, from which the pairs are chosen. Only the method `infifpo`
reads log-probabilities: those that each source gives to the three answers of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.backends.devices import devices_of
from harness.records import ModelRef

from ..estimate import DeviceTime, Estimator, Mean, PlanItem, lines_of, number, replicas
from ..layout import ANSWERS, PAIRS, PROMPTS, REWARDS, Counts, PreferencePair, Recipe, rows_in
from ..likelihood import LOGPS, Texts, score_pairs
from ..rewards.scoring import reward_alone, reward_gpus, reward_settings, score_answers
from ..sampling import IDENTITY, Sampler, generation_time, gpus_of, needs_machine
from ..spec import SourceSpec, sources_used
from ..steps import Step
from .answers import ANSWERED

WITHOUT_DEVICE = ("function", "judge", "pooling")
"""Kinds of reward that load no model on our devices, and so take no device time."""
Expected = Callable[[Estimator], tuple[int, Mean]]
"""Return how many answers there will be, and their mean length in tokens."""


def source_reward_steps(recipe: Recipe, prompts: Step, answers: Sequence[Step]) -> list[Step]:
    """Return one step per source. `answers` has the steps with their answers, in the recipe's order."""
    return [
        _step(recipe, source.name, f"rewards/{source.name}", (prompts, step), None, _expected_of(source, step))
        for source, step in zip(recipe.spec.sources, answers, strict=True)
    ]


def target_reward_step(recipe: Recipe, seed: int, prompts: Step, target: Step, after: str | None = None) -> Step:
    """Return the step that scores the answers of one seed's SFT model, or of the variant `after`."""

    def expected(estimator: Estimator) -> tuple[int, Mean]:
        return estimator.prompts.of("preference") * recipe.spec.sampling.n, estimator.target_answer

    name = str((recipe.sampled(after, seed) / "target-rewards").relative_to(recipe.out))
    return _step(recipe, "target", name, (prompts, target), seed, expected)


def _step(
    recipe: Recipe, model: str, name: str, inputs: tuple[Step, Step], seed: int | None, expected: Expected
) -> Step:
    spec, folder = recipe.spec.reward, recipe.out / name
    prompts, answers = inputs

    def work(into: Path) -> Counts:
        files = {"prompts": prompts.folder / PROMPTS, "answers": answers.folder / ANSWERS}
        return score_answers(spec, **files, model=model, folder=into)

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        count, length = expected(estimator)
        left = estimator.missing(item, folder / REWARDS, count)
        tokens = left * (estimator.prompts.tokens.value + length.value)
        answered_by = model if seed is None else "sft"
        counts = {"model": answered_by, "calls": left, "calls_done": count - left, "prompt_tokens": tokens}
        yield estimator.timed(item.model_copy(update=counts), *reward_time(estimator, tokens))

    settings = reward_settings(spec) | {"answers_of": model}
    gpus, alone = reward_gpus(spec), reward_alone(spec)
    return Step("rewards", name, folder, settings, work, inputs, seed=seed, alone=alone, gpus=gpus, estimate=estimate)


def _expected_of(source: SourceSpec, answers: Step) -> Expected:
    """Existing answers are one per prompt, or as many as their file has once it was imported."""

    def expected(estimator: Estimator) -> tuple[int, Mean]:
        prompts = estimator.prompts.of(*ANSWERED)
        count = prompts * estimator.recipe.spec.sampling.n
        if source.model is None:
            count = max(prompts, lines_of(answers.folder / ANSWERS))
        return count, estimator.source_answer(source.name)

    return expected


def reward_time(estimator: Estimator, tokens: float) -> list[DeviceTime]:
    """Return the time in which the reward model reads tokens; empty if the reward takes no time of our devices."""
    spec = estimator.recipe.spec
    if spec.reward.kind in WITHOUT_DEVICE:
        return []
    devices = devices_of(spec.reward.serve) * max(1, spec.reward.workers)

    def rate(counts: Counts) -> float:
        seconds = number(counts, "session_seconds")
        return number(counts, "session_tokens") / seconds / (devices * replicas(counts)) if seconds else 0.0

    folders = [estimator.recipe.source_rewards(source.name) for source in spec.sources]
    return [DeviceTime(tokens, estimator.rate("reward", spec.rates.reward, folders, rate), devices, "reward")]


# ---------------------------------------------------------------------------------------------------- log-probabilities
# Pairs of different numbers of sources have different answers, so each set of pairs is scored by its own steps.


KEEP = (LOGPS, IDENTITY)


def logps_steps(recipe: Recipe, seed: int, name: str, pairs: Step) -> list[Step]:
    """Return the steps that a variant reads, one per source; none unless its method is infifpo.

    Variants with equal pairs get steps of the same names.
    """
    variant = recipe.variants[name]
    if variant.method != "infifpo":
        return []
    return [_logps_step(recipe, seed, source, pairs) for source in sources_used(recipe.spec, variant)]


def _logps_step(recipe: Recipe, seed: int, source: SourceSpec, pairs: Step) -> Step:
    spec = recipe.spec
    assert source.model is not None  # the specification was checked
    model = ModelRef.parse(source.model)
    engine_seed = spec.sampling.seed or 0
    sampler = Sampler(source.name, model, source.backend, source.serve, engine_seed, spec.sampling.max_failed)
    name = f"{pairs.name.replace('/pairs', '/logps', 1)}/{source.name}"
    folder = recipe.out / name

    def work(into: Path) -> Counts:
        rows = rows_in(pairs.folder / PAIRS, PreferencePair)
        texts = [Texts.of(pair, keep_reasoning=spec.keep_reasoning) for pair in rows]
        return score_pairs(sampler, texts, into)

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        rows = estimator.prompts.of("preference")
        if estimator.done(pairs.name, pairs.folder):
            rows = lines_of(pairs.folder / PAIRS)
        left = estimator.missing(item, folder / LOGPS, rows)
        # each answer is read with its prompt
        per_pair = 3 * estimator.prompts.tokens.value + estimator.any_source_answer + 2 * estimator.target_answer.value
        tokens = left * per_pair
        time = reading_time(estimator, source, tokens, per_pair, name)
        update = {"model": source.name, "calls": left, "calls_done": rows - left, "prompt_tokens": tokens}
        yield estimator.timed(item.model_copy(update=update), time)

    settings = sampler.settings() | ({"keep_reasoning": True} if spec.keep_reasoning else {})
    return Step(
        "logps",
        name,
        folder,
        settings,
        work,
        (pairs,),
        KEEP,
        alone=needs_machine(source.backend, source.serve),
        gpus=replace(gpus_of(model, source.backend, source.serve), replicas=1),
        seed=seed,
        estimate=estimate,
    )


def reading_time(estimator: Estimator, source: SourceSpec, tokens: float, per_pair: float, step: str) -> DeviceTime:
    """Return the time in which a source reads tokens, by its steps of this name in all seeds, else `rates.reading`.

    Without either it is the time to generate as many tokens: an upper bound, since reading is faster.
    """
    recipe, devices = estimator.recipe, devices_of(source.serve)

    def rate(counts: Counts) -> float:
        pairs_read, seconds = number(counts, "session_pairs"), number(counts, "session_seconds")
        return per_pair * pairs_read / seconds / devices if seconds else 0.0

    _, _, rest = step.partition("/")
    folders = [recipe.seed(seed) / rest for seed in recipe.spec.seeds]
    configured = recipe.spec.rates.of("reading", source.name)
    speed = estimator.rate("reading", configured, folders, rate)
    if speed is None:
        time = generation_time(estimator, source.name, source.serve, tokens, measured=[recipe.source(source.name)])
        if time.rate is not None:
            speed = Mean(time.rate.value, f"generation's, {time.rate.by}: an upper bound, as reading is faster")
    return DeviceTime(tokens, speed, devices, "log-probabilities")
