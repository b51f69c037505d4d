"""Stage `logps`: log-probabilities that sources give to the answers of the pairs; write logps.jsonl, one per source.

Only the method `infifpo` uses them. Pairs of different numbers of sources have different answers, so each set of pairs
is scored by its own steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.backends.devices import devices_of
from harness.records import ModelRef

from ..estimate import DeviceTime, Estimator, Mean, PlanItem, lines_of, number
from ..layout import PAIRS, Counts, Recipe
from ..likelihood import LOGPS, Texts, score_pairs
from ..records import PreferencePair, rows_in
from ..sampling import IDENTITY, Sampler, generation_time, gpus_of, needs_machine
from ..spec import SourceSpec, sources_used
from ..steps import Step

KEEP = (LOGPS, IDENTITY)


def logps_steps(recipe: Recipe, seed: int, name: str, pairs: Step) -> list[Step]:
    """Return the steps that a variant reads, one per source; none unless its method is infifpo.

    Variants with equal pairs get steps of the same names.
    """
    variant = recipe.variants[name]
    if variant.method != "infifpo":
        return []
    return [_step(recipe, seed, source, pairs) for source in sources_used(recipe.spec, variant)]


def _step(recipe: Recipe, seed: int, source: SourceSpec, pairs: Step) -> Step:
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

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        rows = known.prompts.of("preference")
        if known.done(pairs.name, pairs.folder):
            rows = lines_of(pairs.folder / PAIRS)
        left = known.missing(item, folder / LOGPS, rows)
        # each answer is read with its prompt
        per_pair = 3 * known.prompts.tokens.value + known.any_source_answer + 2 * known.target_answer.value
        tokens = left * per_pair
        time = reading_time(known, source, tokens, per_pair, name)
        update = {"model": source.name, "calls": left, "calls_done": rows - left, "prompt_tokens": tokens}
        yield known.timed(item.model_copy(update=update), time)

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


def reading_time(known: Estimator, source: SourceSpec, tokens: float, per_pair: float, step: str) -> DeviceTime:
    """Return the time in which a source reads tokens, by its steps of this name in all seeds, else `rates.reading`.

    Without either it is the time to generate as many tokens: an upper bound, since reading is faster.
    """
    recipe, devices = known.recipe, devices_of(source.serve)

    def rate(counts: Counts) -> float:
        pairs_read, seconds = number(counts, "session_pairs"), number(counts, "session_seconds")
        return per_pair * pairs_read / seconds / devices if seconds else 0.0

    _, _, rest = step.partition("/")
    folders = [recipe.seed(seed) / rest for seed in recipe.spec.seeds]
    configured = recipe.spec.rates.of("reading", source.name)
    speed = known.rate("reading", configured, folders, rate)
    if speed is None:
        time = generation_time(known, source.name, source.serve, tokens, measured=[recipe.source(source.name)])
        if time.rate is not None:
            speed = Mean(time.rate.value, f"generation's, {time.rate.by}: an upper bound, as reading is faster")
    return DeviceTime(tokens, speed, devices, "log-probabilities")
