"""Every way to fuse on one board: score per suite, difference to the target and to the best source, and cost.

The first measure is the mean test reward at the first temperature, the others are the suites' headlines. Differences
are paired by question, and by seed if there are several. p-values are adjusted (Holm) over the models compared with one
reference on one measure. The best source is chosen by validation reward; without one that was run on a suite, it is the
source with the highest score there, which flatters the source and not the methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.analysis.reported import ReportedTable
from harness.pages.charts import ChartPoint, Drawing, scatter
from harness.pages.reported import cells, columns
from harness.pages.text import escape_markdown
from harness.records import Record, Score

from ..layout import Recipe
from .costs import CostRow, cost_grid, front_of
from .suite_scores import TARGET, Gap, SuiteComparison, SuiteGroup, Suites, gap_cells, suite_groups
from .tables import Section, TextGrid, VariantBoard, Verdict, at, markdown_grid, score_text


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
    """`report/methods.json`."""

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
    """Return what a model is worth: better or worse than the target and the best source, where, and at what cost."""
    clauses = [
        *_claims("the target", [(measure.name, measure.to_target.get(model)) for measure in measures]),
        *_claims("the best source", [(measure.name, measure.to_best_source.get(model)) for measure in measures]),
    ]
    compared = "; ".join(clauses) or "was compared with nothing"
    cost = _cost_sentence(model, costs)
    return f"{model} {compared}." + (f" {cost}" if cost else "")


def _claims(reference: str, gaps: Sequence[tuple[str, Gap | None]]) -> list[str]:
    known = [(name, gap) for name, gap in gaps if gap is not None]
    clauses = []
    for verdict, words in CLAIMS.items():
        figures = [
            f"{name} ({'' if gap.reference == TARGET else gap.reference + ': '}{gap.text})"
            for name, gap in known
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
    """Return score against work per answer, `*` on the front; None with fewer than two models of known work."""
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
        TextGrid(table.title, tuple(columns(table)), tuple(tuple(cells(table, row)) for row in table.rows))
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
