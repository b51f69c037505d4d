"""Read lm-eval's `results_*.json` as our numbers: each task is a suite with its own card.

Metrics keep lm-eval's names ("exact_match,strict-match"), units and standard errors; intervals are 1.96 errors wide on
each side. The suite's version is the task's own, by which lm-eval marks comparable numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from ..errors import ConfigError
from ..protocols import Numbers
from ..records import Score, SuiteScores, digest

NORMAL_95 = 1.959963984540054
SUITE = "lm_eval"
CONFIG_KEYS = ("dataset_path", "dataset_name", "doc_to_text", "doc_to_target", "num_fewshot", "generation_kwargs")
"""Keys of a task's configuration that, besides its version, decide whether two numbers are comparable."""
Row = Mapping[str, JsonValue]


def load_results(path: Path) -> Row:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("results"), dict):
        raise ConfigError(f"{path} is not an lm-eval results file: it has no `results`")
    return document


def _part(document: Row, *keys: str) -> JsonValue:
    """Return the value under a path of keys; None if the path ends early."""
    value: JsonValue = dict(document)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def task_results(document: Row, where: str, tasks: Sequence[str] | None = None) -> list[Numbers]:
    """Return the tasks of one results file; `tasks` None: all except members of a group.

    Raise ConfigError for a task without a number.
    """
    results = document["results"]
    assert isinstance(results, dict)
    subtasks = _part(document, "group_subtasks")
    inner = (
        {name for names in subtasks.values() if isinstance(names, list) for name in names}
        if isinstance(subtasks, dict)
        else set()
    )
    names = tasks if tasks is not None else [name for name in results if name not in inner]
    return [_task(document, name, where) for name in names]


def _task(document: Row, name: str, where: str) -> Numbers:
    n, unscored = _samples(document, name)
    scores = _scores(_part(document, "results", name), n, unscored)
    if not scores:
        raise ConfigError(f"{where}: no metric for task {name!r}")
    children = _part(document, "group_subtasks", name)
    by_category = {
        str(child): _scores(_part(document, "results", str(child)), *_samples(document, str(child)))
        for child in (children if isinstance(children, list) else [])
    }
    headline = next((metric for metric in scores if _rising(document, name, metric)), None)
    notes = ["metrics are in lm-eval's own units"]
    if headline is None:
        headline = next(iter(scores))
        notes.append(f"of {headline} less is better, and tables show the highest first")
    version = _part(document, "versions", name)
    return Numbers(
        suite=f"{SUITE}:{name}",
        suite_version="unknown" if version is None else str(version),
        judge="none",
        headline=headline,
        scores=SuiteScores(scores=scores, by_category=by_category, notes=tuple(notes)),
        protocol=_protocol(document, name),
        counts={"answers": n, "prompts": n + unscored},
    )


def _scores(row: JsonValue, n: int, unscored: int) -> dict[str, Score]:
    """Return metric -> score in file order; `METRIC_stderr,FILTER` is the error of `METRIC,FILTER`."""
    scores = {}
    for key, value in row.items() if isinstance(row, dict) else ():
        metric, _, name = key.partition(",")
        number = number_of(value)
        if metric.endswith("_stderr") or metric in ("alias", "sample_len", "sample_count", "name") or number is None:
            continue
        error = number_of(row.get(f"{metric}_stderr,{name}")) if isinstance(row, dict) else None
        half = None if error is None else NORMAL_95 * error
        scores[key] = Score(
            value=number,
            ci_low=None if half is None else number - half,
            ci_high=None if half is None else number + half,
            se=error,
            n=n,
            unscored=unscored,
        )
    return scores


def number_of(value: JsonValue) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if sound and isinstance(value, int | float) else None


def _samples(document: Row, name: str) -> tuple[int, int]:
    """Return (scored, left out by a limit); for a group the sums over its tasks."""
    children = _part(document, "group_subtasks", name)
    parts = [str(child) for child in children] if isinstance(children, list) and children else [name]
    n = left = 0
    for part in parts:
        effective, original = (number_of(_part(document, "n-samples", part, key)) for key in ("effective", "original"))
        n += int(effective or 0)
        left += int((original or 0) - (effective or 0)) if _limit(document) is None else 0
    return n, max(0, left)


def _limit(document: Row) -> JsonValue:
    return _part(document, "config", "limit")


def _rising(document: Row, task: str, metric: str) -> bool:
    """Return whether higher is better; the default if the file does not state it."""
    return _part(document, "higher_is_better", task, metric.partition(",")[0]) is not False


def _protocol(document: Row, name: str) -> dict[str, JsonValue]:
    """Return what makes two results of a task comparable, as far as the file states it."""
    config = _part(document, "configs", name)
    kept = {key: value for key, value in config.items() if key in CONFIG_KEYS} if isinstance(config, dict) else None
    shots = _part(document, "n-shot", name)
    model = str(_part(document, "config", "model") or "unknown")
    return {
        "suite": f"{SUITE}:{name}",
        "suite_version": str(_part(document, "versions", name) or "unknown"),
        "task_config": "unknown" if kept is None else digest(kept)[:12],
        "n_shot": "unknown" if shots is None else shots,
        "model_type": model,
        "chat_template": _chat_template(document, model),
        "fewshot_as_multiturn": document.get("fewshot_as_multiturn", "unknown"),
        "limit": _limit(document),
    }


def _chat_template(document: Row, model: str) -> str:
    """Return who applied a chat template, as far as the file states it."""
    if model.endswith("chat-completions"):
        return "server"
    if "chat_template" not in document:
        return "unknown"
    return "lm_eval" if document["chat_template"] else "none"
