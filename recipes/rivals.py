"""Ask the models that variants are compared with, sources and ensembles of all sources, and estimate what that costs.

An ensemble is asked through a team's file, which is written from the recipe. A dry run counts every call of its
members: those of a mixture of agents, for example, read what the members of the layer before have answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.backends.devices import devices_of
from harness.records import ModelRef
from harness.records.providers import ENDPOINT_KEY
from harness.records.settings import ServeSpec
from harness.store import write_atomic

from .estimate import DeviceTime, Estimator, PlanItem
from .layout import Recipe
from .sampling import generation_time
from .spec import RIVALS, RecipeSpec, SourceSpec


def write_team(recipe: Recipe, name: str) -> Path:
    """Write the file of an ensemble of the recipe's sources, and return it."""
    spec = recipe.spec
    members = {}
    for source in members_of(spec):
        entry = source.model_dump(mode="json", include={"model", "backend", "price_in", "price_out"}, exclude_none=True)
        key = {"key_env": ENDPOINT_KEY} if is_endpoint(source) else {}
        members[source.name] = {**entry, **key, "serve": source.serve.model_dump(mode="json", exclude_defaults=True)}
    team: dict[str, object] = {"members": members}
    if name == "best_source":
        team["reward"] = spec.reward.model_dump(mode="json", exclude_defaults=True)
    if name == "moa":
        team |= spec.evaluate.moa.model_dump(mode="json")
        if spec.evaluate.moa.aggregator == "target":
            serve = target_serve(spec).model_dump(mode="json", exclude_defaults=True)
            team["others"] = {"target": {"model": spec.target, "backend": spec.target_backend, "serve": serve}}
    path = recipe.team(name)
    write_atomic(path, "# Written by harness train.\n" + yaml.safe_dump(team, sort_keys=False))
    return path


def target_serve(spec: RecipeSpec) -> ServeSpec:
    """Return how the target itself is served: with the recipe's template, which checkpoints have in their folders."""
    serve = spec.target_serve
    if serve.chat_template is None and spec.chat_template is not None:
        serve = serve.model_copy(update={"chat_template": spec.chat_template})
    if spec.chat_template_kwargs:
        values = {**spec.chat_template_kwargs, **(serve.chat_template_kwargs or {})}
        serve = serve.model_copy(update={"chat_template_kwargs": values})
    return serve


def rival_ref(recipe: Recipe, name: str) -> ModelRef:
    """Return the model of a source, or the team of an ensemble, under its name on the leaderboard."""
    if name in RIVALS:
        scheme = "best_of" if name == "best_source" else name
        return ModelRef.parse(f"{scheme}:{recipe.team(name)}", title=recipe.label(name, 0))
    return ModelRef.parse(source_named(recipe.spec, name).model or "", title=recipe.label(name, 0))


def source_named(spec: RecipeSpec, name: str) -> SourceSpec:
    return next(source for source in spec.sources if source.name == name)


def members_of(spec: RecipeSpec) -> list[SourceSpec]:
    """Return the sources that can be asked; those with answers only cannot."""
    return [source for source in spec.sources if source.model is not None]


def rival_devices(spec: RecipeSpec, name: str) -> int:
    """Return the GPUs that an ensemble uses at a time: those of its largest model, as its models are loaded in turn."""
    serves = [source.serve for source in members_of(spec) if not is_endpoint(source)]
    if name == "moa" and spec.evaluate.moa.aggregator == "target":
        serves.append(spec.target_serve)
    return max(map(devices_of, serves), default=0)


def is_endpoint(source: SourceSpec) -> bool:
    return (source.model or "").startswith("endpoint:")


def list_price(source: SourceSpec, prompt_tokens: float, answer_tokens: float) -> float | None:
    """Return the dollars that an endpoint charges for these tokens, or None if the recipe has no prices."""
    if not prompt_tokens and not answer_tokens:
        return 0.0
    if source.price_in is None or source.price_out is None:
        return None
    return (prompt_tokens * source.price_in + answer_tokens * source.price_out) / 1e6


@dataclass(frozen=True)
class Asked:
    """Calls of one model, and the tokens that it reads and writes."""

    model: str
    """A source; everything else is served as the target."""
    calls: float
    read: float
    written: float


def asked_of(estimator: Estimator, model: str, questions: int) -> list[Asked]:
    """Return the calls that so many questions take: one each, but several for an ensemble."""
    spec, prompt = estimator.recipe.spec, estimator.prompts.tokens.value
    if model not in RIVALS:
        is_source = model in estimator.recipe.rivals
        length = estimator.source_answer(model).value if is_source else estimator.target_answer.value
        return [Asked(model, questions, questions * prompt, questions * length)]
    lengths = {source.name: estimator.source_answer(source.name).value for source in members_of(spec)}
    if model == "route":  # all read the question, and it is not known which one answers
        share = questions / max(1, len(lengths))
        return [Asked(name, share, (questions + share) * prompt, share * length) for name, length in lengths.items()]
    first = [Asked(name, questions, questions * prompt, questions * length) for name, length in lengths.items()]
    return first if model == "best_source" else [*first, *_later_layers(estimator, lengths, questions)]


def _later_layers(estimator: Estimator, lengths: dict[str, float], questions: int) -> Iterator[Asked]:
    """Yield the calls of a mixture of agents after its first layer: each reads the answers of the layer before."""
    moa, seen = estimator.recipe.spec.evaluate.moa, estimator.prompts.tokens.value + sum(lengths.values())
    calls = questions * (moa.layers - 2)
    if calls:
        for name, length in lengths.items():
            yield Asked(name, calls, calls * seen, calls * length)
    final = lengths.get(moa.aggregator, estimator.target_answer.value)
    yield Asked(moa.aggregator, questions, questions * seen, questions * final)


def with_asked(
    estimator: Estimator, item: PlanItem, requests: list[Asked], serve: ServeSpec, *extra: DeviceTime
) -> PlanItem:
    """Return the item with these calls, their tokens, time and price. `serve`: how all but the sources are served."""
    recipe = estimator.recipe
    sources = {source.name: source for source in members_of(recipe.spec)} if recipe.rivals else {}
    times: list[DeviceTime] = []
    prices: list[float | None] = []
    for part in requests:
        source = sources.get(part.model)
        if source is None:
            folders = [recipe.target(seed) for seed in recipe.spec.seeds]
            times.append(generation_time(estimator, "target", serve, part.written, measured=folders))
        elif is_endpoint(source):
            prices.append(list_price(source, part.read, part.written))
        else:
            folders = [recipe.source(source.name)]
            times.append(generation_time(estimator, source.name, source.serve, part.written, measured=folders))
    sums: dict[str, object] = {
        "calls": round(sum(part.calls for part in requests)),
        "prompt_tokens": sum(part.read for part in requests),
        "answer_tokens": sum(part.written for part in requests),
    }
    item = estimator.timed(item.model_copy(update=sums), *times, *extra)
    if not prices:
        return item
    dollars = None if None in prices or item.dollars is None else item.dollars + sum(filter(None, prices))
    return item.model_copy(update={"dollars": dollars})
