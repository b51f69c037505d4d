"""Log scores to experiment trackers: wandb, mlflow, trackio.

Each is imported on demand and configured by its own environment (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR, keys).
One tracker run is one model with one judge (and one --limit): logging again updates it. wandb and mlflow also get a
table of the scores, the figures of differences, and the score cards.
"""

from __future__ import annotations

import csv
import importlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from ..records import ScoreCard, digest
from ..records.errors import ConfigError, IncompleteError
from ..records.facts import higher_is_better

PROJECT = "fusion-harness"
"""Used if the tracker's own environment names no project."""


def tracker_names(option: str | None) -> tuple[str, ...]:
    """Return the names in `wandb,mlflow`. Raise ConfigError for one that is unknown or not installed."""
    names = tuple(dict.fromkeys(name.strip() for name in (option or "").split(",") if name.strip()))
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--log-to {name!r} is not a known tracker; known: {', '.join(TRACKERS)}")
        _module(name)
    return names


@dataclass(frozen=True)
class TrackedFiles:
    """What a tracker run shows besides numbers."""

    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """Texts of the table of scores."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """Name -> SVG."""
    cards: Mapping[str, str] = field(default_factory=dict)
    """File name -> JSON."""

    def table_csv(self) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()


@dataclass(frozen=True)
class TrackedRun:
    """The content of one tracker run, or of one step of it."""

    name: str
    scores: Mapping[str, float]
    facts: Mapping[str, str]
    better: Mapping[str, str]
    """Metric -> `higher` or `lower`, whichever is better; metrics without a direction are not in it."""
    step: int | None
    identity: Sequence[str]
    """What the run is, besides its name: the same run is updated as long as it stays the same."""
    files: TrackedFiles = TrackedFiles()

    @property
    def key(self) -> str:
        return digest([self.name, *self.identity])[:16]


def log_scores(
    names: Sequence[str],
    cards: Iterable[ScoreCard],
    files_of: Callable[[Sequence[ScoreCard]], TrackedFiles] = lambda cards: TrackedFiles(),
) -> int:
    """Log each model's scores to each tracker and return the number of runs written. Raise as `log_step` does."""
    groups: dict[tuple[str, ...], list[ScoreCard]] = {}
    for card in cards:
        identity: tuple[str, ...] = (card.model, card.judge, str(card.protocol.get("limit")))
        if any(logged_card.suite == card.suite for logged_card in groups.get(identity, ())):
            # two protocols of one suite would overwrite each other's numbers
            identity = (*identity, card.protocol_sha)
        groups.setdefault(identity, []).append(card)
    tracked_runs = [
        TrackedRun(
            model,
            numbers(group),
            facts(group),
            directions(group),
            None,
            identity,
            files_of(group) if names else TrackedFiles(),
        )
        for (model, *identity), group in groups.items()
    ]
    return sum(_log(name, tracked) for name in names for tracked in tracked_runs)


def log_step(names: Sequence[str], series: str, cards: Sequence[ScoreCard], step: int | None) -> None:
    """Log one checkpoint's scores as a step of the run called `series`.

    Raise IncompleteError if a tracker fails; the scores stay in the results folder.
    """
    # a run's id and completeness change with every checkpoint, and would start a new tracker run each time
    lasting = {key: value for key, value in facts(cards).items() if not key.endswith((".run", ".complete"))}
    identity = [f"{key}={value}" for key, value in sorted(lasting.items())]
    for name in names:
        _log(name, TrackedRun(series, numbers(cards), lasting, directions(cards), step, identity))


def _log(name: str, logged: TrackedRun) -> int:
    try:
        TRACKERS[name](_module(name), logged)
    except Exception as error:  # trackers raise errors of their own types
        raise IncompleteError(
            f"{name} rejected the scores of {logged.name!r}: {type(error).__name__}: {error}"
        ) from error
    return 1


def numbers(cards: Iterable[ScoreCard]) -> dict[str, float]:
    """Return `suite/metric` with `_ci_low` and `_ci_high` for every metric with a value, and the unscored count."""
    values: dict[str, float] = {}
    for card in cards:
        for metric, score in card.scores.items():
            name = f"{card.suite}/{metric}"
            score_values = {name: score.value, f"{name}_ci_low": score.ci_low, f"{name}_ci_high": score.ci_high}
            values |= {key: value for key, value in score_values.items() if value is not None}
        values[f"{card.suite}/unscored"] = float(card.scores[card.headline].unscored)
    return values


def directions(cards: Iterable[ScoreCard]) -> dict[str, str]:
    """Return `suite/metric` -> `higher` or `lower`, whichever is better, for every metric that has a direction."""
    words: dict[str, str] = {}
    for card in cards:
        for metric in card.scores:
            better = higher_is_better(card, metric)
            if better is not None:
                words[f"{card.suite}/{metric}"] = "higher" if better else "lower"
    return words


def facts(cards: Iterable[ScoreCard]) -> dict[str, str]:
    """Return what makes the numbers comparable: version, judge, protocol and run of each suite."""
    values: dict[str, str] = {}
    for card in cards:
        values[f"{card.suite}.version"] = card.suite_version
        values[f"{card.suite}.judge"] = card.judge
        values[f"{card.suite}.protocol"] = card.protocol_sha
        values[f"{card.suite}.run"] = str(card.provenance.get("run_id", ""))
        values[f"{card.suite}.complete"] = str(card.complete).lower()
    return values


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"--log-to {name} needs the package: pip install {name}") from None


def _config(logged: TrackedRun) -> dict[str, str]:
    return {**logged.facts, **{f"{metric}.better": word for metric, word in logged.better.items()}}


def _wandb(module: ModuleType, logged: TrackedRun) -> None:
    project, files = os.environ.get("WANDB_PROJECT", PROJECT), logged.files
    run = module.init(project=project, id=logged.key, name=logged.name, resume="allow", reinit="create_new")
    try:
        # an earlier session of the run may have logged an incomplete card
        run.config.update(_config(logged), allow_val_change=True)
        if logged.step is not None:
            for metric, better in logged.better.items():  # the best checkpoint is then the summary's, not the last
                run.define_metric(metric, summary="max" if better == "higher" else "min")
        media: dict[str, object] = {name: module.Html(svg, inject=False) for name, svg in files.figures.items()}
        if files.rows:
            media["scores"] = module.Table(columns=list(files.head), data=[list(row) for row in files.rows])
        run.log({**logged.scores, **media}, step=logged.step)
        if files.cards:
            artifact = module.Artifact(f"cards-{logged.key}", type="score-card")
            for name, text in files.cards.items():
                with artifact.new_file(name, mode="w") as file:
                    file.write(text)
            run.log_artifact(artifact)
    finally:
        run.finish()


def _mlflow(module: ModuleType, logged: TrackedRun) -> None:
    experiment, files = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), logged.files
    module.set_experiment(experiment)
    query = f"tags.harness = '{logged.key}'"
    matches = module.search_runs(experiment_names=[experiment], filter_string=query, output_format="list")
    run_id = matches[0].info.run_id if matches else None
    logged_params = matches[0].data.params if matches else {}
    config = {_mlflow_name(key): value for key, value in _config(logged).items()}
    # mlflow never changes a parameter; a tag it does
    with module.start_run(run_id=run_id, run_name=logged.name, tags={"harness": logged.key, **config}):
        module.log_params({name: value for name, value in config.items() if name not in logged_params})
        module.log_metrics({_mlflow_name(key): value for key, value in logged.scores.items()}, step=logged.step)
        if files.rows:
            module.log_text(files.table_csv(), "scores.csv")
        for name, svg in files.figures.items():
            module.log_text(svg, f"{name}.svg")
        for name, text in files.cards.items():
            module.log_text(text, name)


def _mlflow_name(name: str) -> str:
    """Return the name with the characters that mlflow accepts."""
    return re.sub(r"[^\w./ -]", "_", name)


def _trackio(module: ModuleType, logged: TrackedRun) -> None:
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    module.init(project=project, name=logged.name, config=_config(logged), resume="allow")
    try:
        module.log(dict(logged.scores), step=logged.step)
    finally:
        module.finish()


Tracker = Callable[[ModuleType, TrackedRun], None]
TRACKERS: dict[str, Tracker] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
