"""Scores handed to experiment trackers: wandb, mlflow, trackio. Each is imported when asked for and configured by its
own environment (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR, keys); one of their runs is one model."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType

from .errors import ConfigError, IncompleteError
from .records import ScoreCard, digest

PROJECT = "fusion-harness"
"""Where the tracker's own environment names no other project."""
Numbers = Mapping[str, float]
Facts = Mapping[str, str]


def tracker_names(given: str | None) -> tuple[str, ...]:
    """`wandb,mlflow` -> names; raises ConfigError for an unknown one, or one that is not installed."""
    names = tuple(dict.fromkeys(part.strip() for part in (given or "").split(",") if part.strip()))
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--log-to {name!r} is no tracker; known: {', '.join(TRACKERS)}")
        _module(name)
    return names


def log_scores(names: Sequence[str], cards: Iterable[ScoreCard], *, step: int | None = None) -> int:
    """Logs each model's scores to each tracker; returns the number of runs written.

    Raises IncompleteError where a tracker fails: the scores are in the results folder all the same.
    """
    by_model: dict[str, list[ScoreCard]] = {}
    for card in cards:
        by_model.setdefault(card.model, []).append(card)
    written = 0
    for name in names:
        module = _module(name)
        for model, own in by_model.items():
            try:
                TRACKERS[name](module, model, numbers(own), facts(own), step)
            except Exception as error:  # foreign code with errors of its own, at the edge
                raise IncompleteError(f"{name} took no scores of {model!r}: {type(error).__name__}: {error}") from error
            written += 1
    return written


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


def _wandb(module: ModuleType, model: str, scores: Numbers, stated: Facts, step: int | None) -> None:
    """The same scores again are the same run: its id is a digest of what makes them."""
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    name = digest([model, dict(stated)])[:16]
    run = module.init(project=project, id=name, name=model, config=dict(stated), resume="allow", reinit="create_new")
    try:
        run.log(dict(scores), step=step)
    finally:
        run.finish()


def _mlflow(module: ModuleType, model: str, scores: Numbers, stated: Facts, step: int | None) -> None:
    module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    with module.start_run(run_name=model):
        module.log_params(dict(stated))
        allowed = {re.sub(r"[^\w./ -]", "_", key): value for key, value in scores.items()}
        module.log_metrics(allowed, step=step)


def _trackio(module: ModuleType, model: str, scores: Numbers, stated: Facts, step: int | None) -> None:
    module.init(project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=model, config=dict(stated), resume="allow")
    try:
        module.log(dict(scores), step=step)
    finally:
        module.finish()


Tracker = Callable[[ModuleType, str, Numbers, Facts, int | None], None]
TRACKERS: dict[str, Tracker] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
