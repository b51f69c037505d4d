"""Show what papers and boards report as tables beside the measured ones, never ranked. Pure.

A complete card of the same model and protocol shows its difference from the reported figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..records import Record, ScoreCard
from .reported import ReportedFigure, ReportedModel, ReportedProtocol, ReportedSource


class ReportedDifference(Record):
    """Measured minus reported, for one metric of one card.

    The reported figure counts as exact, so the 95 % interval is the measured one's alone."""

    metric: str
    model: str
    """The card's."""
    run_id: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    unstated: tuple[str, ...] = ()
    """Protocol fields that the source does not state, so that equality is uncertain."""


class ReportedRow(Record):
    model: str
    size: str | None = None
    figures: dict[str, ReportedFigure]
    """By metric; a metric may be missing."""
    differences: tuple[ReportedDifference, ...] = ()


class ReportedTable(Record):
    """What one source reports for one suite, in the source's own order. Nothing here was measured by this program."""

    source: str
    reference: str
    url: str
    note: str | None = None
    suite: str
    suite_version: str
    judge: str | None
    metrics: tuple[str, ...]
    rows: tuple[ReportedRow, ...]

    @property
    def title(self) -> str:
        judge = self.judge or "not stated"
        return f"Reported, not measured here: {self.suite} ({self.suite_version}), judge {judge}; {self.source}"


def reported_beside(cards: Iterable[ScoreCard], sources: Iterable[ReportedSource]) -> list[ReportedTable]:
    """Return the tables of suites and editions on the board, ordered by suite, then by source."""
    measured = list(cards)
    known = {(card.suite, card.suite_version) for card in measured}
    tables = [
        _reported_table(source, protocol, measured)
        for source in sources
        for protocol in source.protocols
        if (protocol.suite, protocol.suite_version) in known
    ]
    return sorted(tables, key=lambda table: (table.suite, table.suite_version))


def _reported_table(source: ReportedSource, protocol: ReportedProtocol, cards: list[ScoreCard]) -> ReportedTable:
    models = [model for model in source.models if protocol.suite in model.scores]
    alike = [card for card in cards if _same_protocol(card, protocol)]
    metrics = dict.fromkeys(metric for model in models for metric in model.scores[protocol.suite])
    return ReportedTable(
        source=source.source,
        reference=source.reference,
        url=source.url,
        note=source.note,
        suite=protocol.suite,
        suite_version=protocol.suite_version,
        judge=protocol.judge,
        metrics=tuple(metrics),
        rows=tuple(_reported_row(model, protocol, alike) for model in models),
    )


def _reported_row(model: ReportedModel, protocol: ReportedProtocol, alike: list[ScoreCard]) -> ReportedRow:
    figures = model.scores[protocol.suite]
    differences = [
        difference
        for card in alike
        if model.is_named(card.model)
        for metric, figure in figures.items()
        if (difference := _difference(card, metric, figure, protocol)) is not None
    ]
    return ReportedRow(model=model.model, size=model.size, figures=figures, differences=tuple(differences))


def _difference(
    card: ScoreCard, metric: str, figure: ReportedFigure, protocol: ReportedProtocol
) -> ReportedDifference | None:
    score = card.scores.get(metric)
    if score is None or score.value is None:
        return None
    return ReportedDifference(
        metric=metric,
        model=card.model,
        run_id=str(card.provenance.get("run_id", "")),
        value=score.value - figure.value,
        ci_low=None if score.ci_low is None else score.ci_low - figure.value,
        ci_high=None if score.ci_high is None else score.ci_high - figure.value,
        unstated=tuple(name for name in ("references",) if name in card.protocol and protocol.references is None),
    )


def _same_protocol(card: ScoreCard, protocol: ReportedProtocol) -> bool:
    """Return whether a complete card was measured as the source states: suite, version, judge and other stated
    fields."""
    if not card.complete or protocol.judge is None or "limit" in card.protocol or "sampling_deviation" in card.protocol:
        return False
    if (card.suite, card.suite_version) != (protocol.suite, protocol.suite_version):
        return False
    stated = {"baseline": protocol.baseline, "references": protocol.references}
    equal = all(card.protocol.get(name, value) == value for name, value in stated.items() if value is not None)
    return equal and _judge_model(card) in (protocol.judge, *protocol.judge_aliases)


def _judge_model(card: ScoreCard) -> str:
    judge = card.protocol.get("judge")
    model = judge.get("model") if isinstance(judge, Mapping) else judge
    return model if isinstance(model, str) else card.judge
