"""Show figures that papers and boards reported beside the measured ones, never ranked with them.

>>> figures = {"mt_bench": {"average": ReportedFigure(value=8.1)}}
>>> ReportedModel(model="meta-llama/Llama-3-8B", aliases=("llama-3-8b",), scores=figures).is_named("Llama_3_8B@main")
True

The files are `results/reported/*.yaml` of a checkout; the wheel contains them as `harness/reported_data`. A complete
card of the same model and protocol shows its difference from the reported figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from ..records import Record, ScoreCard
from ..records.documents import read_yaml
from ..records.settings import checked


class ReportedFigure(Record):
    """One published number, in the unit of the metric of that name on a card."""

    value: float
    se: float | None = None
    """The source's own standard error."""
    ci_low: float | None = None
    ci_high: float | None = None
    """The source's own interval; its level is in the file's note."""


class ReportedProtocol(Record):
    """How a source measured one suite: the parts of a card's protocol that it states."""

    suite: str
    suite_version: str
    judge: str | None
    """The judge's model name; None: the source does not state it, so no measured card is compared with it."""
    judge_aliases: tuple[str, ...] = ()
    """Names of that judge in files of the original tools, such as AlpacaEval's annotator name."""
    baseline: str | None = None
    references: str | None = None
    """The set of reference answers, of a suite with several; None: not stated."""


class ReportedModel(Record):
    model: str
    aliases: tuple[str, ...] = ()
    """Other names of the same weights: repository, board."""
    size: str | None = None
    scores: dict[str, dict[str, ReportedFigure]] = Field(min_length=1)
    """Suite -> metric -> figure."""

    def is_named(self, name: str) -> bool:
        """Return whether a card's model name means this model, comparing letters and digits without case.

        A revision after `@` does not count.
        """
        name = name.partition("@")[0]
        letters = [re.sub(r"[^a-z0-9]+", "", alias.lower()) for alias in (name, self.model, *self.aliases)]
        return letters[0] in letters[1:]


class ReportedSource(Record):
    """One file: a published table."""

    source: str
    reference: str
    """Exact location: paper and table, or repository, revision and file."""
    url: str
    note: str | None = None
    protocols: tuple[ReportedProtocol, ...] = Field(min_length=1)
    models: tuple[ReportedModel, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _protocol_for_each_suite(self) -> Self:
        stated = [protocol.suite for protocol in self.protocols]
        if len(set(stated)) != len(stated):
            raise ValueError("a suite has two protocols")
        for model in self.models:
            if unknown := set(model.scores) - set(stated):
                raise ValueError(f"{model.model!r} has scores without a protocol: {', '.join(sorted(unknown))}")
        return self


class ReportedDifference(Record):
    """Measured minus reported, for one metric of one card.

    The reported figure counts as exact, so the 95 % interval is the measured one's alone.
    """

    metric: str
    model: str
    """The model's name on the card."""
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


def reported_folder() -> Path:
    """Return the folder of the installed package, else of the checkout that this package is imported from."""
    package = Path(__file__).parents[1]
    packaged = package / "reported_data"
    return packaged if packaged.is_dir() else package.parent / "results" / "reported"


def load_reported(folder: Path | None = None) -> list[ReportedSource]:
    """Return all sources by file name, or none if the folder does not exist.

    Raise ConfigError for an invalid file, including unknown keys.
    """
    paths = sorted((folder or reported_folder()).glob("*.yaml"))
    return [checked(ReportedSource, read_yaml(path), str(path)) for path in paths]


def reported_beside(cards: Iterable[ScoreCard], sources: Iterable[ReportedSource]) -> list[ReportedTable]:
    """Return the tables of suites and editions on the board, ordered by suite, then by source."""
    measured = list(cards)
    editions = {(card.suite, card.suite_version) for card in measured}
    tables = [
        _reported_table(source, protocol, measured)
        for source in sources
        for protocol in source.protocols
        if (protocol.suite, protocol.suite_version) in editions
    ]
    return sorted(tables, key=lambda table: (table.suite, table.suite_version))


def _reported_table(source: ReportedSource, protocol: ReportedProtocol, cards: list[ScoreCard]) -> ReportedTable:
    models = [model for model in source.models if protocol.suite in model.scores]
    comparable_cards = [card for card in cards if _same_protocol(card, protocol)]
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
        rows=tuple(_reported_row(model, protocol, comparable_cards) for model in models),
    )


def _reported_row(model: ReportedModel, protocol: ReportedProtocol, comparable_cards: list[ScoreCard]) -> ReportedRow:
    figures = model.scores[protocol.suite]
    differences = [
        difference
        for card in comparable_cards
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
        # the set of reference answers changes scores, and few sources state theirs
        unstated=("references",) if "references" in card.protocol and protocol.references is None else (),
    )


def _same_protocol(card: ScoreCard, protocol: ReportedProtocol) -> bool:
    """Return whether a complete card was measured as the source states, in every field that it states."""
    # a sample of the questions, or other sampling settings, is not what the source measured
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
