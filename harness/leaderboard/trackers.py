"""Scores handed to experiment trackers: wandb, mlflow, trackio. Each is imported when asked for and configured by its
own environment (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR, keys); one of their runs is one model."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from ..errors import ConfigError, IncompleteError
from ..records import ScoreCard, digest

PROJECT = "fusion-harness"
"""Where the tracker's own environment names no other project."""


def tracker_names(given: str | None) -> tuple[str, ...]:
    """`wandb,mlflow` -> names; raises ConfigError for an unknown one, or one that is not installed."""
    names = tuple(dict.fromkeys(part.strip() for part in (given or "").split(",") if part.strip()))
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--log-to {name!r} is no tracker; known: {', '.join(TRACKERS)}")
        _module(name)
    return names


@dataclass(frozen=True)
class Logged:
    """What becomes one of a tracker's runs, or one step of it."""

    name: str
    scores: Mapping[str, float]
    facts: Mapping[str, str]
    step: int | None

    @property
    def key(self) -> str:
        """The same name and facts again are the same run, which goes on."""
        return digest([self.name, dict(self.facts)])[:16]


def log_scores(names: Sequence[str], cards: Iterable[ScoreCard]) -> int:
    """Logs each model's scores to each tracker; returns the number of runs written. Raises as `log_step`."""
    by_model: dict[str, list[ScoreCard]] = {}
    for card in cards:
        by_model.setdefault(card.model, []).append(card)
    found = [Logged(model, numbers(own), facts(own), None) for model, own in by_model.items()]
    return sum(_log(name, one) for name in names for one in found)


def log_step(names: Sequence[str], series: str, cards: Sequence[ScoreCard], step: int | None) -> None:
    """Logs one checkpoint's scores as a step of the run called `series`.

    Raises IncompleteError where a tracker fails: the scores are in the results folder all the same.
    """
    lasting = {key: value for key, value in facts(cards).items() if not key.endswith((".run", ".complete"))}
    for name in names:
        _log(name, Logged(series, numbers(cards), lasting, step))


def _log(name: str, logged: Logged) -> int:
    try:
        TRACKERS[name](_module(name), logged)
    except Exception as error:  # foreign code with errors of its own, at the edge
        raise IncompleteError(f"{name} took no scores of {logged.name!r}: {type(error).__name__}: {error}") from error
    return 1


def numbers(cards: Iterable[ScoreCard]) -> dict[str, float]:
    """`suite/metric`, with `_ci_low` and `_ci_high`, and what was unscored; a metric without a value is left out."""
    found: dict[str, float] = {}
    for card in cards:
        for metric, score in card.scores.items():
            name = f"{card.suite}/{metric}"
            parts = {name: score.value, f"{name}_ci_low": score.ci_low, f"{name}_ci_high": score.ci_high}
            found |= {key: value for key, value in parts.items() if value is not None}
        found[f"{card.suite}/unscored"] = float(card.scores[card.headline].unscored)
    return found


def facts(cards: Iterable[ScoreCard]) -> dict[str, str]:
    """What makes the numbers comparable: version, judge, protocol and run of each suite."""
    found: dict[str, str] = {}
    for card in cards:
        found[f"{card.suite}.version"] = card.suite_version
        found[f"{card.suite}.judge"] = card.judge
        found[f"{card.suite}.protocol"] = card.protocol_sha
        found[f"{card.suite}.run"] = str(card.provenance.get("run_id", ""))
        found[f"{card.suite}.complete"] = str(card.complete).lower()
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"--log-to {name} needs it installed: pip install {name}") from None


def _wandb(module: ModuleType, logged: Logged) -> None:
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    config = dict(logged.facts)
    run = module.init(
        project=project, id=logged.key, name=logged.name, config=config, resume="allow", reinit="create_new"
    )
    try:
        run.log(dict(logged.scores), step=logged.step)
    finally:
        run.finish()


def _mlflow(module: ModuleType, logged: Logged) -> None:
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    module.set_experiment(experiment)
    wanted = f"tags.harness = '{logged.key}'"
    there = module.search_runs(experiment_names=[experiment], filter_string=wanted, output_format="list")
    run_id = there[0].info.run_id if there else None
    with module.start_run(run_id=run_id, run_name=logged.name, tags={"harness": logged.key}):
        module.log_params(dict(logged.facts))
        allowed = {re.sub(r"[^\w./ -]", "_", key): value for key, value in logged.scores.items()}
        module.log_metrics(allowed, step=logged.step)


def _trackio(module: ModuleType, logged: Logged) -> None:
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    module.init(project=project, name=logged.name, config=dict(logged.facts), resume="allow")
    try:
        module.log(dict(logged.scores), step=logged.step)
    finally:
        module.finish()


Tracker = Callable[[ModuleType, Logged], None]
TRACKERS: dict[str, Tracker] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
