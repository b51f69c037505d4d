"""What each model of a recipe costs: device-hours and tokens of its training, and its work per answer.

>>> first = CostRow(model="a", reward=0.5, parameter_tokens=10.0)
>>> [row.model for row in pareto([first, CostRow(model="b", reward=0.4, parameter_tokens=20.0)])]
['a']

Training counts every step that the checkpoint comes from: SFT, the variants, and for a merge those of all its models,
but not the sampling of sources. Work per answer is over the held-out answers at the first temperature: active
parameters times tokens read and written, summed over all models that took part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from harness.records import Answer, ModelRef, Record
from harness.store import JsonlRows
from harness.store.checkpoint import resolve
from harness.store.weights import active_parameters

from ..estimate import number
from ..layout import ANSWERS, Recipe, record_in
from .board import draws, temperature_folder
from .tables import TextGrid, VariantBoard


class CostRow(Record):
    """One model. None: unknown."""

    model: str
    reward: float | None
    """Mean test reward at the first temperature."""
    device_hours: float = 0.0
    """Of training, mean over seeds; 0 for what needs none."""
    trained_tokens: float = 0.0
    """Tokens of the training rows, each counted once, mean over seeds."""
    calls: float | None = None
    tokens: float | None = None
    """Read and written per answer."""
    parameter_tokens: float | None = None
    dollars: float | None = None
    """Per answer, at list price."""


def read_costs(recipe: Recipe, board: VariantBoard) -> list[CostRow]:
    """Return a row per model of the board, in its order."""
    temperature = next(iter(draws(recipe.spec.evaluate)))
    sizes = _Sizes(recipe)
    rows = []
    for row in board.rows(temperature):
        seeds = [seed for seed in recipe.spec.seeds if record_in(recipe.held_out(row.model, seed)) is not None]
        seeds = seeds[:1] if row.model in recipe.fixed else seeds
        folders = [temperature_folder(recipe.held_out(row.model, seed), temperature) for seed in seeds]
        answers = [answer for folder in folders for answer in JsonlRows(folder / ANSWERS, Answer).every()]
        hours, tokens = _training(recipe, row.model, seeds)
        facts = {"device_hours": hours, "trained_tokens": tokens, **_work(row.model, answers, sizes)}
        rows.append(CostRow.model_validate({"model": row.model, "reward": row.reward.value, **facts}))
    return rows


def _training(recipe: Recipe, model: str, seeds: Sequence[int]) -> tuple[float, float]:
    hours = tokens = 0.0
    for seed in seeds:
        for name, part in _made_of(recipe, model, seed):
            folder = recipe.checkpoint(name, part)
            record = None if folder is None else record_in(folder)
            if record is not None:
                counts = record.counts
                hours += number(counts, "train_seconds") * max(1.0, number(counts, "processes")) / 3600
                tokens += number(counts, "tokens")
    return hours / max(1, len(seeds)), tokens / max(1, len(seeds))


def _made_of(recipe: Recipe, model: str, seed: int) -> list[tuple[str, int]]:
    """Return (name, seed) of every training that a model comes from."""
    if model in recipe.fixed:
        return []
    merge = recipe.spec.merges.get(model)
    if merge is None:
        return [(name, seed) for name in _trained(recipe, model)]
    parts = recipe.spec.seeds if merge.seeds == "all" else (seed,)
    models = [name for name in merge.models if name == "sft" or name in recipe.spec.variants]
    return list(dict.fromkeys((name, part) for part in parts for model in models for name in _trained(recipe, model)))


def _trained(recipe: Recipe, model: str) -> list[str]:
    """Return the trainings that lead to `sft` or a variant, itself the last."""
    variant = recipe.spec.variants.get(model)
    if variant is None or variant.method == "fusesft" or (variant.after is None and recipe.spec.starts_at_target):
        return [model]
    return [*_trained(recipe, variant.after or "sft"), model]


class _Sizes:
    """Active parameters and prices of the target and the sources."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._known: dict[str, float | None] = {}
        self._sources = {source.name: source for source in recipe.spec.sources}

    def parameters(self, model: str) -> float | None:
        """Return those of a source, or of the target for every other model."""
        source = self._sources.get(model)
        text = self._recipe.spec.target if source is None else source.model
        if text is None:
            return None
        if text not in self._known:
            ref = ModelRef.parse(text)
            self._known[text] = active_parameters(resolve(ref)) if ref.scheme == "path" else None
        return self._known[text]

    def dollars(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        source = self._sources.get(model)
        if source is None or source.price_in is None or source.price_out is None:
            return None
        return (prompt_tokens * source.price_in + completion_tokens * source.price_out) / 1e6


def _work(model: str, answers: Sequence[Answer], sizes: _Sizes) -> dict[str, float | None]:
    """Return the means per answer; None for what is unknown of any model that took part."""
    calls = tokens = 0.0
    parameter_tokens: list[float | None] = []
    dollars: list[float | None] = []
    for answer in answers:
        parts = [(work.member, work.calls, work.prompt_tokens, work.completion_tokens) for work in answer.work]
        for name, count, read, written in parts or [
            (model, 1, sum(answer.prompt_tokens), sum(answer.completion_tokens))
        ]:
            calls += count
            tokens += read + written
            size = sizes.parameters(name)
            parameter_tokens.append(None if size is None else size * (read + written))
            dollars.append(sizes.dollars(name, read, written))
    if not answers or not tokens:
        return {}
    total = partial(_sum_over, len(answers))
    return {
        "calls": calls / len(answers),
        "tokens": tokens / len(answers),
        "parameter_tokens": total(parameter_tokens),
        "dollars": total(dollars),
    }


def _sum_over(count: int, values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None) / count


def pareto(rows: Sequence[CostRow]) -> list[CostRow]:
    """Return the rows that no other beats: none has at least their reward for at most their work, and one better."""
    placed = [(row.model, row.reward, row.parameter_tokens) for row in rows]
    front = front_of([(name, reward, work) for name, reward, work in placed if reward is not None and work is not None])
    return [row for row in rows if row.model in front]


def front_of(points: Sequence[tuple[str, float, float]]) -> set[str]:
    """Return the names of (name, score, work) that no other beats: more of a score and less work are better."""
    return {
        name
        for name, score, work in points
        if not any(
            rival >= score and effort <= work and (rival > score or effort < work) for _, rival, effort in points
        )
    }


def cost_grid(rows: Sequence[CostRow]) -> TextGrid:
    """Return the table, best reward first; `*` marks the rows that no other beats in reward and work."""
    front = {row.model for row in pareto(rows)}
    head = ("model", "reward", "training device-hours", "trained tokens", "calls", "tokens per answer")
    return TextGrid(
        title="Cost; work is active parameters x tokens per answer, * no other row has more reward for less work",
        head=(*head, "work", "dollars per answer"),
        rows=tuple(
            (
                row.model + (" *" if row.model in front else ""),
                "-" if row.reward is None else f"{row.reward:.3f}",
                f"{row.device_hours:.4g}",
                f"{row.trained_tokens:.0f}",
                _text(row.calls),
                _text(row.tokens),
                _text(row.parameter_tokens),
                _text(row.dollars),
            )
            for row in rows
        ),
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
