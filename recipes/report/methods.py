"""Every way to fuse on one board: score per suite, difference to the target and to the best source, and cost.

The first measure is the mean test reward at the first temperature, the others are the suites' headlines. Differences
are paired by question, and by seed if there are several. p-values are adjusted (Holm) over the models compared with one
reference on one measure. The best source is chosen by validation reward; without one that was run on a suite, it is the
source with the highest score there, which flatters the source and not the methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.analysis.leaderboard import HeadlineDifference, run_id
from harness.analysis.pairs import PairedRuns
from harness.analysis.reported import ReportedTable
from harness.pages.charts import ChartPoint, Drawing, scatter
from harness.pages.reported import cells, columns
from harness.pages.text import escape_markdown
from harness.records import ModelRef, Record, Score, ScoreCard
from harness.records.facts import higher_is_better
from harness.stats.paired import holm
from harness.stats.variance import CrossedMean, crossed_mean
from harness.suites.scoring import QuestionSums

from ..layout import Recipe
from .board import ALPHA, around, score_of
from .costs import CostRow, cost_grid, front_of
from .tables import Section, TextGrid, VariantBoard, Verdict, at, markdown_grid, p_text, score_text, signed

TARGET = "target"
NORMAL = 1.96
"""Half a 95 % interval in standard errors, for many questions."""
Cards = Mapping[str, Sequence[ScoreCard]]
"""Cards of one protocol by model, one per seed."""
Questions = Mapping[str, QuestionSums]
"""Terms of the headline by run id."""


class Gap(Record):
    """A model minus a reference on one measure."""

    reference: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    """95 %, over questions, and over seeds if there are several; None: nothing varies, or no error is known."""
    p_adjusted: float | None = None
    verdict: Verdict

    @property
    def text(self) -> str:
        if self.ci_low is None or self.ci_high is None:
            return signed(self.value)
        return f"{signed(self.value)} [{self.ci_low:.3f}, {self.ci_high:.3f}]"


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


def method_board(
    recipe: Recipe, board: VariantBoard, costs: Sequence[CostRow], suites: Sequence[tuple[Path, ScoreCard]]
) -> MethodBoard:
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


def _suite_measures(recipe: Recipe, suites: Sequence[tuple[Path, ScoreCard]], best: str | None) -> list[BoardMeasure]:
    labels = _labels(recipe)
    groups: dict[tuple[str, str, str], dict[str, list[ScoreCard]]] = {}
    for _, card in suites:
        model = labels.get(card.model)
        if model is not None:
            group = groups.setdefault((card.suite, card.suite_version, card.protocol_sha), {})
            group.setdefault(model, []).append(card)
    compared = _Compared(PairedRuns({run_id(card): path.parent for path, card in suites}), [card for _, card in suites])
    names = [(suite, version) for suite, version, _ in groups]
    measures = []
    for (suite, version, sha), cards in sorted(groups.items()):
        twice = names.count((suite, version)) > 1
        label = f"{suite} {version}" + (f" ({sha[:8]})" if twice else "")
        file = f"{suite}-{version}" + (f"-{sha[:8]}" if twice else "")
        measures.append(_suite_measure(recipe, (label, file), cards, compared, best))
    return measures


def _labels(recipe: Recipe) -> dict[str, str]:
    """Return the model of every name on the suites' leaderboard; swept variants are left out."""
    spec = recipe.spec
    swept = {name for sweep in spec.sweeps for name in sweep.variants}
    models = [name for name in ("sft", *spec.variants, *spec.merges, *recipe.rivals) if name not in swept]
    labels = {recipe.label(model, seed): model for model in models for seed in spec.seeds}
    return labels | {ModelRef.parse(spec.target).label: TARGET}


class _Compared:
    """Scores and differences of models with one card per seed."""

    def __init__(self, runs: PairedRuns, cards: Sequence[ScoreCard]) -> None:
        self._pair = runs.difference
        several = len({run_id(card) for card in cards}) > 1
        self._questions: Questions = runs.question_sums(cards) if several else {}

    def score(self, cards: Sequence[ScoreCard]) -> Score:
        """Return the mean over seeds; its interval is over questions and seeds, or over questions for one seed."""
        scores = [card.scores[card.headline] for card in cards]
        if len(scores) == 1:
            return scores[0]
        values = [score.value for score in scores if score.value is not None]
        if not values:
            return Score(value=None, n=0, unscored=sum(score.unscored for score in scores))
        value = sum(values) / len(values)
        errors = [score.se for score in scores]
        mean = self._crossed(cards, None) or _pooled(values, errors, scores[0].n)
        interval, se = (None, None) if mean is None or not mean.varies else (around(mean, value), mean.se)
        return score_of(value, interval, se, n=sum(row.n for row in scores), lost=sum(row.unscored for row in scores))

    def difference(self, cards: Sequence[ScoreCard], reference: Sequence[ScoreCard]) -> HeadlineDifference | None:
        """Return the mean over seeds minus the reference, which is one card; None if a value or an error is missing."""
        if len(reference) != 1:
            return None
        single = [self._pair(card, reference[0]) for card in cards]
        known = [pair for pair in single if pair is not None]
        if len(single) == 1 or len(known) < len(single):
            return single[0] if len(single) == 1 else None
        value = sum(pair.difference for pair in known) / len(known)
        errors = [(pair.ci_high - pair.ci_low) / 2 / NORMAL for pair in known]
        differences = [pair.difference for pair in known]
        mean = self._crossed(cards, reference[0]) or _pooled(differences, errors, cards[0].scores[cards[0].headline].n)
        if mean is None or not mean.varies:
            return None
        low, high = around(mean, value)
        return HeadlineDifference(difference=value, ci_low=low, ci_high=high, p=mean.p_two_sided(), paired=True)

    def _crossed(self, cards: Sequence[ScoreCard], reference: ScoreCard | None) -> CrossedMean | None:
        """Return the mean over questions and seeds; None unless all cards have terms of their headline."""
        tables = [_moves(self._questions.get(run_id(card)), card) for card in cards]
        base = {} if reference is None else _moves(self._questions.get(run_id(reference)), reference)
        if base is None or None in tables:
            return None
        known = [table for table in tables if table is not None]
        ids = [key for key in known[0] if all(key in table for table in known) and (reference is None or key in base)]
        rows = np.array([[table[key] - base.get(key, 0.0) for table in known] for key in ids], dtype=np.float64)
        return crossed_mean(rows.reshape(len(ids), len(known)))


def _pooled(values: Sequence[float], errors: Sequence[float | None], questions: int) -> CrossedMean | None:
    """Return the mean of one value per seed from their errors alone; None if an error is unknown.

    All seeds answer the same questions, so their errors over questions are not averaged away: the variance is the mean
    of the squared errors plus that of the seeds' mean, which is never too small. Degrees of freedom: Satterthwaite's.
    """
    known = [error for error in errors if error]
    if len(known) < len(values) or len(values) < 2 or questions < 2:
        return None
    by_question = sum(error**2 for error in known) / len(known)
    by_seed = float(np.var(values, ddof=1)) / len(values)
    variance = by_question + by_seed
    df = variance**2 / (by_question**2 / (questions - 1) + by_seed**2 / (len(values) - 1))
    mean, se = sum(values) / len(values), math.sqrt(variance)
    return CrossedMean(mean, se, df, questions, math.sqrt(by_question), len(values))


def _moves(sums: QuestionSums | None, card: ScoreCard) -> dict[str, float] | None:
    """Return terms per question whose mean is the headline: a ratio of sums is linearised at its value."""
    if sums is None or sums.metric != card.headline or sums.value is None:
        return None
    ratio = sums.value / sums.scale
    moves = sums.scale * (sums.above - ratio * sums.below) / float(sums.below.mean()) + sums.value
    return dict(zip(sums.ids, map(float, moves), strict=True))


def _suite_measure(
    recipe: Recipe, names: tuple[str, str], cards: Cards, compared: _Compared, best: str | None
) -> BoardMeasure:
    label, file = names
    first = next(iter(cards.values()))[0]
    higher = higher_is_better(first, first.headline)
    scores = {model: compared.score(rows) for model, rows in cards.items()}
    values = {source.name: scores[source.name].value for source in recipe.spec.sources if source.name in cards}
    sources = {name: _sign(higher) * value for name, value in values.items() if value is not None}
    note = ""
    if sources and best not in sources:
        best = max(sources, key=lambda name: sources[name])
        note = f"{label}: the best source is the one with the best score there, {best}"
    complete = {model: all(card.complete for card in rows) for model, rows in cards.items()}

    def gaps(reference: str | None) -> dict[str, Gap]:
        if reference is None or reference not in cards:
            return {}
        pairs = {name: compared.difference(rows, cards[reference]) for name, rows in cards.items() if name != reference}
        known = {name: pair for name, pair in pairs.items() if pair is not None}
        adjusted = dict(zip(known, holm([pair.p for pair in known.values()]), strict=True))
        return {
            name: _gap(reference, pair, adjusted[name], higher, complete[name] and complete[reference])
            for name, pair in known.items()
        }

    return BoardMeasure(
        name=f"{label}, {first.headline}" if first.headline != first.suite else label,
        file=file,
        higher_is_better=higher,
        best_source=best if sources else None,
        scores=scores,
        to_target=gaps(TARGET),
        to_best_source=gaps(best if sources else None),
        note=note,
    )


def _sign(higher_is_better: bool | None) -> int:
    return -1 if higher_is_better is False else 1


def _gap(reference: str, pair: HeadlineDifference, p: float, higher: bool | None, complete: bool) -> Gap:
    verdict: Verdict = "not shown"
    if not complete:
        verdict = "incomplete"
    elif p < ALPHA and higher is not None:
        verdict = "better" if (pair.difference > 0) == higher else "worse"
    low, high = pair.ci_low, pair.ci_high
    return Gap(reference=reference, value=pair.difference, ci_low=low, ci_high=high, p_adjusted=p, verdict=verdict)


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
    rows = tuple((model, *(cell for gaps in references for cell in _gap_cells(gaps.get(model)))) for model in models)
    return [TextGrid(f"Differences on {measure.name}", tuple(head), rows)]


def _gap_cells(gap: Gap | None) -> tuple[str, str, str]:
    if gap is None:
        return "-", "-", "-"
    return gap.text, "-" if gap.p_adjusted is None else p_text(gap.p_adjusted), gap.verdict


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
