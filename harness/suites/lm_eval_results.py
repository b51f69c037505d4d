"""lm-eval's `results_*.json` as numbers of ours: a task is a suite, a card a task.

Metrics keep lm-eval's names ("exact_match,strict-match") and units, and its standard errors; intervals are 1.96 of
them. The suite's version is the task's own, by which lm-eval says that two numbers can be compared.
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
"""What of a task's configuration decides whether two numbers can be compared, besides its version."""
Row = Mapping[str, JsonValue]


def load_results(path: Path) -> Row:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("results"), dict):
        raise ConfigError(f"{path} is no lm-eval results file: it has no `results`")
    return found


def _part(found: Row, *keys: str) -> JsonValue:
    """What lies under a path of keys; None where it ends early."""
    value: JsonValue = dict(found)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def task_results(found: Row, where: str, tasks: Sequence[str] | None = None) -> list[Numbers]:
    """The tasks of one results file; `tasks` None: all but those that belong to a group.

    Raises ConfigError for a task without a number.
    """
    results = found["results"]
    assert isinstance(results, dict)
    subtasks = _part(found, "group_subtasks")
    inner = (
        {name for names in subtasks.values() if isinstance(names, list) for name in names}
        if isinstance(subtasks, dict)
        else set()
    )
    names = tasks if tasks is not None else [name for name in results if name not in inner]
    return [_task(found, name, where) for name in names]


def _task(found: Row, name: str, where: str) -> Numbers:
    n, unscored = _samples(found, name)
    scores = _scores(_part(found, "results", name), n, unscored)
    if not scores:
        raise ConfigError(f"{where}: no metric for task {name!r}")
    children = _part(found, "group_subtasks", name)
    by_category = {
        str(child): _scores(_part(found, "results", str(child)), *_samples(found, str(child)))
        for child in (children if isinstance(children, list) else [])
    }
    headline = next((metric for metric in scores if _rising(found, name, metric)), None)
    notes = ["metrics are in lm-eval's own units"]
    if headline is None:
        headline = next(iter(scores))
        notes.append(f"of {headline} less is better, and tables show the highest first")
    version = _part(found, "versions", name)
    return Numbers(
        suite=f"{SUITE}:{name}",
        suite_version="unknown" if version is None else str(version),
        judge="none",
        headline=headline,
        scores=SuiteScores(scores=scores, by_category=by_category, notes=tuple(notes)),
        protocol=_protocol(found, name),
        counts={"answers": n, "prompts": n + unscored},
    )


def _scores(row: JsonValue, n: int, unscored: int) -> dict[str, Score]:
    """Metric -> score, in the file's order; `METRIC_stderr,FILTER` is the error of `METRIC,FILTER`."""
    found = {}
    for key, value in row.items() if isinstance(row, dict) else ():
        metric, _, name = key.partition(",")
        number = number_of(value)
        if metric.endswith("_stderr") or metric in ("alias", "sample_len", "sample_count", "name") or number is None:
            continue
        error = number_of(row.get(f"{metric}_stderr,{name}")) if isinstance(row, dict) else None
        half = None if error is None else NORMAL_95 * error
        found[key] = Score(
            value=number,
            ci_low=None if half is None else number - half,
            ci_high=None if half is None else number + half,
            se=error,
            n=n,
            unscored=unscored,
        )
    return found


def number_of(value: JsonValue) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if sound and isinstance(value, int | float) else None


def _samples(found: Row, name: str) -> tuple[int, int]:
    """(scored, left out by a limit); of a group the sum over its tasks."""
    children = _part(found, "group_subtasks", name)
    parts = [str(child) for child in children] if isinstance(children, list) and children else [name]
    n = left = 0
    for part in parts:
        effective, original = (number_of(_part(found, "n-samples", part, key)) for key in ("effective", "original"))
        n += int(effective or 0)
        left += int((original or 0) - (effective or 0)) if _limit(found) is None else 0
    return n, max(0, left)


def _limit(found: Row) -> JsonValue:
    return _part(found, "config", "limit")


def _rising(found: Row, task: str, metric: str) -> bool:
    """Whether more is better; what a file does not say is taken for so."""
    return _part(found, "higher_is_better", task, metric.partition(",")[0]) is not False


def _protocol(found: Row, name: str) -> dict[str, JsonValue]:
    """What makes two results of a task comparable, as far as the file says it."""
    config = _part(found, "configs", name)
    kept = {key: value for key, value in config.items() if key in CONFIG_KEYS} if isinstance(config, dict) else None
    shots = _part(found, "n-shot", name)
    model = str(_part(found, "config", "model") or "unknown")
    return {
        "suite": f"{SUITE}:{name}",
        "suite_version": str(_part(found, "versions", name) or "unknown"),
        "task_config": "unknown" if kept is None else digest(kept)[:12],
        "n_shot": "unknown" if shots is None else shots,
        "model_type": model,
        "chat_template": _chat_template(found, model),
        "fewshot_as_multiturn": found.get("fewshot_as_multiturn", "unknown"),
        "limit": _limit(found),
    }


def _chat_template(found: Row, model: str) -> str:
    """Who applied a chat template, as far as the file says it."""
    if model.endswith("chat-completions"):
        return "server"
    if "chat_template" not in found:
        return "unknown"
    return "lm_eval" if found["chat_template"] else "none"
