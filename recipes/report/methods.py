"""Put every way to fuse on one board: score per suite, difference to the target and to the best source, and cost.

>>> first = CostRow(model="a", reward=0.5, parameter_tokens=10.0)
>>> [row.model for row in pareto([first, CostRow(model="b", reward=0.4, parameter_tokens=20.0)])]
['a']

The first measure is the mean test reward at the first temperature, the others are the suites' headlines. Differences
are paired by question, and by seed if there are several. p-values are adjusted (Holm) over the models compared with one
reference on one measure. The best source is chosen by validation reward; without one that was run on a suite, it is the
source with the highest score there, which flatters the source and not the methods.

Cost has two sides. Training counts every step that a checkpoint comes from: SFT, the variants, and for a merge those of
all its models, but not the sampling of sources. Work per answer is over the held-out answers at the first temperature:
active parameters times tokens read and written, summed over all models that took part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.analysis.reported import ReportedTable
from harness.pages.charts import ChartPoint, Drawing, scatter
from harness.pages.tables import cells, reported_columns
from harness.pages.text import escape_markdown
from harness.records import Answer, ModelRef, Record, Score
from harness.store import JsonlRows
from harness.store.checkpoint import resolve
from harness.store.weights import active_parameters

from ..estimate import number
from ..layout import ANSWERS, Recipe, record_in
from .board import draws, temperature_folder
from .suite_scores import TARGET, Gap, SuiteComparison, SuiteGroup, Suites, gap_cells, suite_groups
from .tables import Section, TextGrid, VariantBoard, Verdict, at, markdown_grid, score_text

# ---------------------------------------------------------------------------------------------------------------- costs


class CostRow(Record):
    """What one model costs. None: unknown."""

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
        self._parameters: dict[str, float | None] = {}
        self._sources = {source.name: source for source in recipe.spec.sources}

    def parameters(self, model: str) -> float | None:
        """Return the active parameters of a source, or of the target for every other model, which has its size."""
        source = self._sources.get(model)
        text = self._recipe.spec.target if source is None else source.model
        if text is None:
            return None
        if text not in self._parameters:
            ref = ModelRef.parse(text)
            self._parameters[text] = active_parameters(resolve(ref)) if ref.scheme == "path" else None
        return self._parameters[text]

    def dollars(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        source = self._sources.get(model)
        if source is None or source.price_in is None or source.price_out is None:
            return None
        return (prompt_tokens * source.price_in + completion_tokens * source.price_out) / 1e6


def _work(model: str, answers: Sequence[Answer], sizes: _Sizes) -> dict[str, float | None]:
    """Return the means per answer, each None if it is unknown of a model that took part."""
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
    return {
        "calls": calls / len(answers),
        "tokens": tokens / len(answers),
        "parameter_tokens": _sum_over(len(answers), parameter_tokens),
        "dollars": _sum_over(len(answers), dollars),
    }


def _sum_over(count: int, values: Sequence[float | None]) -> float | None:
    # one unknown part makes the whole unknown: leaving it out would make the model look cheap
    numbers = [value for value in values if value is not None]
    return sum(numbers) / count if len(numbers) == len(values) else None


def pareto(rows: Sequence[CostRow]) -> list[CostRow]:
    """Return the rows that no other row beats: neither its reward nor its work is worse, and one of them is better."""
    points = [(row.model, row.reward, row.parameter_tokens) for row in rows]
    front = front_of([(name, reward, work) for name, reward, work in points if reward is not None and work is not None])
    return [row for row in rows if row.model in front]


def front_of(points: Sequence[tuple[str, float, float]]) -> set[str]:
    """Return the names of the (name, score, work) that no other beats. More score and less work are better."""
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


# ------------------------------------------------------------------------------------------------- the board of methods


class BoardMeasure(Record):
    """One column of the board."""

    name: str
    file: str
    """Its name in file names."""
    higher_is_better: bool | None
    best_source: str | None = None
    scores: dict[str, Score]
    to_target: dict[str, Gap]
    to_best_source: dict[str, Gap]
    """By model; empty if no source was evaluated."""
    note: str = ""


class MethodBoard(Record):
    """The board, as in `report/methods.json`."""

    recipe: str
    models: tuple[str, ...]
    """Best first, by the first measure."""
    measures: tuple[BoardMeasure, ...]
    costs: tuple[CostRow, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...] = ()


def method_board(recipe: Recipe, board: VariantBoard, costs: Sequence[CostRow], suites: Suites) -> MethodBoard:
    """Return the board of all models that answered held-out prompts or suites. Swept variants have their own tables."""
    sources = [source.name for source in recipe.spec.sources]
    best = next((name for name in board.baselines if name in sources), None)
    measures = [*_reward(board, best), *_suite_measures(recipe, suites, best)]
    values: dict[str, float] = {}
    for measure in measures:
        for model, score in measure.scores.items():
            # a model without a score comes last
            signed = -math.inf if score.value is None else score.value * _sign(measure.higher_is_better)
            values.setdefault(model, signed)
    models = tuple(sorted(values, key=lambda model: (model not in measures[0].scores, -values[model], model)))
    methods = [model for model in models if model != TARGET and model not in sources]
    notes = [measure.note for measure in measures if measure.note]
    if measures and not any(measure.best_source for measure in measures):
        notes.append("no source was evaluated (evaluate.models), so nothing is compared with the best source")
    return MethodBoard(
        recipe=recipe.spec.name,
        models=models,
        measures=tuple(measures),
        costs=tuple(costs),
        sentences=tuple(method_sentence(model, measures, costs) for model in methods),
        notes=tuple(dict.fromkeys(notes)),
    )


def _reward(board: VariantBoard, best: str | None) -> list[BoardMeasure]:
    if not board.temperatures or not board.prompts:
        return []
    temperature = board.temperatures[0]

    def gaps(reference: str | None) -> dict[str, Gap]:
        rows = [] if reference is None else board.versus(temperature, reference)
        return {
            row.model: Gap(
                reference=row.baseline,
                value=row.value,
                ci_low=row.ci_low if row.se else None,
                ci_high=row.ci_high if row.se else None,
                p_adjusted=row.p_adjusted,
                verdict=row.verdict,
            )
            for row in rows
        }

    return [
        BoardMeasure(
            name=f"test reward, {at(temperature)}",
            file="reward",
            higher_is_better=True,
            best_source=best,
            scores={row.model: row.reward for row in board.rows(temperature)},
            to_target=gaps(TARGET),
            to_best_source=gaps(best),
        )
    ]


def _suite_measures(recipe: Recipe, suites: Suites, best: str | None) -> list[BoardMeasure]:
    compared = SuiteComparison(recipe, suites)
    swept = {name for sweep in recipe.spec.sweeps for name in sweep.variants}
    groups = [group.of(name for name in group.cards if name not in swept) for group in suite_groups(recipe, suites)]
    return [_suite_measure(recipe, group, compared, best) for group in groups if group.cards]


def _suite_measure(recipe: Recipe, group: SuiteGroup, compared: SuiteComparison, best: str | None) -> BoardMeasure:
    higher = group.higher_is_better
    scores = {model: compared.score(cards) for model, cards in group.cards.items()}
    values = {source.name: scores[source.name].value for source in recipe.spec.sources if source.name in scores}
    sources = {name: _sign(higher) * value for name, value in values.items() if value is not None}
    note = ""
    if sources and best not in sources:
        best = max(sources, key=lambda name: sources[name])
        note = f"{group.name}: the best source is the one with the best score there, {best}"
    best = best if sources else None
    return BoardMeasure(
        name=group.title,
        file=group.file,
        higher_is_better=higher,
        best_source=best,
        scores=scores,
        to_target=compared.gaps(group, TARGET),
        to_best_source=compared.gaps(group, best),
        note=note,
    )


def _sign(higher_is_better: bool | None) -> int:
    return -1 if higher_is_better is False else 1


CLAIMS: dict[Verdict, str] = {
    "better": "beats {} on",
    "worse": "is worse than {} on",
    "not shown": "is not shown to differ from {} on",
    "incomplete": "cannot be compared with {} (too many answers unscored) on",
}


def method_sentence(model: str, measures: Sequence[BoardMeasure], costs: Sequence[CostRow]) -> str:
    """Return on which measures a model beats the target and the best source, or is worse, and what it costs."""
    clauses = [
        *_claims("the target", [(measure.name, measure.to_target.get(model)) for measure in measures]),
        *_claims("the best source", [(measure.name, measure.to_best_source.get(model)) for measure in measures]),
    ]
    compared = "; ".join(clauses) or "was compared with nothing"
    cost = _cost_sentence(model, costs)
    return f"{model} {compared}." + (f" {cost}" if cost else "")


def _claims(reference: str, gaps: Sequence[tuple[str, Gap | None]]) -> list[str]:
    compared = [(name, gap) for name, gap in gaps if gap is not None]
    clauses = []
    for verdict, words in CLAIMS.items():
        figures = [
            f"{name} ({'' if gap.reference == TARGET else gap.reference + ': '}{gap.text})"
            for name, gap in compared
            if gap.verdict == verdict
        ]
        if figures:
            clauses.append(f"{words.format(reference)} {', '.join(figures)}")
    return clauses


def _cost_sentence(model: str, costs: Sequence[CostRow]) -> str:
    by_model = {row.model: row for row in costs}
    row, target = by_model.get(model), by_model.get(TARGET)
    if row is None:
        return ""
    parts = ["It needs no training"]
    if row.trained_tokens:
        parts = [f"It was trained on {row.trained_tokens:,.0f} tokens in {row.device_hours:.3g} device-hours"]
    if row.parameter_tokens and target is not None and target.parameter_tokens:
        parts.append(f"an answer takes {row.parameter_tokens / target.parameter_tokens:.2g} times the target's work")
    return ", and ".join(parts) + "."


def methods_section(board: MethodBoard) -> Section:
    """Return the board for a page: sentences, the front of score and work per measure, and tables."""
    drawings = tuple(drawing for measure in board.measures if (drawing := front_figure(board, measure)) is not None)
    lines = (*board.sentences, *board.notes)
    return Section("Methods: what each is worth and costs", lines, tuple(method_grids(board)), drawings)


def method_grids(board: MethodBoard) -> list[TextGrid]:
    """Return scores and cost in one table, the differences per measure, and the details of cost."""
    costs = {row.model: row for row in board.costs}
    head = ("model", *(measure.name for measure in board.measures), "training device-hours", "trained tokens")
    main = TextGrid(
        title="Scores [95 %] and cost; work is active parameters x tokens per answer",
        head=(*head, "work per answer", "dollars per answer"),
        rows=tuple(_main_cells(board, model, costs.get(model)) for model in board.models),
    )
    return [
        main,
        *(grid for measure in board.measures for grid in _difference_grid(board, measure)),
        cost_grid(board.costs),
    ]


def _main_cells(board: MethodBoard, model: str, cost: CostRow | None) -> tuple[str, ...]:
    scores = (score_text(score) if (score := measure.scores.get(model)) else "-" for measure in board.measures)
    if cost is None:
        return (model, *scores, "-", "-", "-", "-")
    work, dollars = ("-" if value is None else f"{value:.3g}" for value in (cost.parameter_tokens, cost.dollars))
    return (model, *scores, f"{cost.device_hours:.3g}", f"{cost.trained_tokens:.0f}", work, dollars)


def _difference_grid(board: MethodBoard, measure: BoardMeasure) -> list[TextGrid]:
    head = ["model", "to the target [95 %]", "p (Holm)", "verdict"]
    if measure.best_source is not None:
        head += [f"to the best source, {measure.best_source} [95 %]", "p (Holm)", "verdict"]
    references = [measure.to_target] + ([measure.to_best_source] if measure.best_source is not None else [])
    models = [model for model in board.models if any(model in gaps for gaps in references)]
    if not models:
        return []
    rows = tuple((model, *(cell for gaps in references for cell in gap_cells(gaps.get(model)))) for model in models)
    return [TextGrid(f"Differences on {measure.name}", tuple(head), rows)]


def front_figure(board: MethodBoard, measure: BoardMeasure) -> Drawing | None:
    """Return a figure of score and work per answer, with `*` on the front, or None if fewer than two have both."""
    work = {row.model: row.parameter_tokens for row in board.costs if row.parameter_tokens}
    sign = _sign(measure.higher_is_better)
    values = {
        model: score.value for model, score in measure.scores.items() if score.value is not None and work.get(model)
    }
    if len(values) < 2:
        return None
    front = front_of([(model, sign * value, work[model] or 0.0) for model, value in values.items()])
    points = [
        ChartPoint(
            f"{model} *" if model in front else model,
            math.log10(work[model] or 1.0),
            value,
            measure.scores[model].ci_low,
            measure.scores[model].ci_high,
        )
        for model, value in values.items()
    ]
    across = "log10 of active parameters x tokens per held-out answer; * not beaten"
    return scatter(points, f"{measure.name} and work per answer", across, measure.name, by="work per answer")


def reported_section(tables: Sequence[ReportedTable]) -> Section:
    """Return the figures that papers report on the measured suites, for a page."""
    lines = dict.fromkeys(text for table in tables for text in (table.reference, table.note) if text)
    grids = tuple(
        TextGrid(table.title, tuple(reported_columns(table)), tuple(tuple(cells(table, row)) for row in table.rows))
        for table in tables
    )
    return Section("Reported by others, not measured here", tuple(lines), grids)


def methods_markdown(board: MethodBoard) -> str:
    """Return the board as GitHub Markdown."""
    section = methods_section(board)
    parts = [
        f"# {escape_markdown(board.recipe)}: methods",
        "",
        *(f"- {escape_markdown(line)}" for line in section.lines),
    ]
    for grid in section.grids:
        parts += ["", f"## {escape_markdown(grid.title)}", "", markdown_grid(grid).rstrip()]
    return "\n".join(parts) + "\n"
