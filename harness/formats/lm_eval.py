"""lm-eval's `results_*.json` and `samples_*.jsonl` as numbers of ours: a task is a suite, a card a task.

Metrics keep lm-eval's names ("exact_match,strict-match") and units, and its standard errors; intervals are 1.96 of
them. The suite's version is the task's own, by which lm-eval says that two numbers can be compared.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from ..errors import ConfigError
from ..records import Score, SuiteScores, digest
from .files import read_files
from .numbers import Numbers

NORMAL_95 = 1.959963984540054
SUITE = "lm_eval"
CONFIG_KEYS = ("dataset_path", "dataset_name", "doc_to_text", "doc_to_target", "num_fewshot", "generation_kwargs")
"""What of a task's configuration decides whether two numbers can be compared, besides its version."""
Row = Mapping[str, JsonValue]


def read_results(paths: Sequence[Path]) -> list[Numbers]:
    """A result a task: of results files, and of samples files for tasks that no results file has.

    Raises ConfigError for files that are neither.
    """
    unfolded = _unfolded(paths)
    results = [path for path in unfolded if path.name.endswith(".json")]
    samples = [path for path in unfolded if path not in results]
    found = [task for path in results for task in task_results(_load(path), str(path))]
    there = {task.suite for task in found}
    found += [task for task in _of_samples(samples) if task.suite not in there]
    if not found:
        raise ConfigError("no lm-eval results in these files; expected results_*.json or samples_*.jsonl")
    return found


def _unfolded(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.rglob("results_*.json")) + sorted(path.rglob("samples_*.jsonl"))
        else:
            found.append(path)
    return found


def _load(path: Path) -> Row:
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
        found=SuiteScores(scores=scores, by_category=by_category, notes=tuple(notes)),
        protocol=_protocol(found, name),
        counts={"answers": n, "prompts": n + unscored},
    )


def _scores(row: JsonValue, n: int, unscored: int) -> dict[str, Score]:
    """Metric -> score, in the file's order; `METRIC_stderr,FILTER` is the error of `METRIC,FILTER`."""
    found = {}
    for key, value in row.items() if isinstance(row, dict) else ():
        metric, _, name = key.partition(",")
        number = _number(value)
        if metric.endswith("_stderr") or metric in ("alias", "sample_len", "sample_count", "name") or number is None:
            continue
        error = _number(row.get(f"{metric}_stderr,{name}")) if isinstance(row, dict) else None
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


def _number(value: JsonValue) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if sound and isinstance(value, int | float) else None


def _samples(found: Row, name: str) -> tuple[int, int]:
    """(scored, left out by a limit); of a group the sum over its tasks."""
    children = _part(found, "group_subtasks", name)
    parts = [str(child) for child in children] if isinstance(children, list) and children else [name]
    n = left = 0
    for part in parts:
        effective, original = (_number(_part(found, "n-samples", part, key)) for key in ("effective", "original"))
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
    template = found.get("chat_template")
    return {
        "suite": f"{SUITE}:{name}",
        "suite_version": str(_part(found, "versions", name) or "unknown"),
        "task_config": "unknown" if kept is None else digest(kept)[:12],
        "n_shot": "unknown" if shots is None else shots,
        "model_type": _part(found, "config", "model") or "unknown",
        "chat_template": "unknown" if template is None and "chat_template" not in found else bool(template),
        "fewshot_as_multiturn": found.get("fewshot_as_multiturn", "unknown"),
        "limit": _limit(found),
    }


# ----------------------------------------------------------------------------------------------------------- samples


def _of_samples(paths: Sequence[Path]) -> list[Numbers]:
    """Means over a samples file's rows with their standard errors, as lm-eval computes them for mean metrics."""
    found = []
    for file in read_files(paths):
        values: dict[str, list[float]] = defaultdict(list)
        for row in file.rows:
            metrics = row.get("metrics")
            for metric in metrics if isinstance(metrics, list) else []:
                number = _number(float(value) if isinstance(value := row.get(str(metric)), bool) else value)
                if number is not None:
                    values[f"{metric},{row.get('filter', 'none')}"].append(number)
        if not values:
            raise ConfigError(f"{file.name}: no row has `metrics`; expected lm-eval's samples_*.jsonl")
        found.append(_samples_result(_task_name(file.name), values))
    return found


def _samples_result(task: str, values: Mapping[str, Sequence[float]]) -> Numbers:
    scores = {metric: _mean(numbers) for metric, numbers in values.items()}
    note = "means over samples: right for metrics that lm-eval averages, as most are"
    return Numbers(
        suite=f"{SUITE}:{task}",
        suite_version="unknown",
        judge="none",
        headline=next(iter(scores)),
        found=SuiteScores(scores=scores, notes=(note,)),
        protocol={
            "suite": f"{SUITE}:{task}",
            "suite_version": "unknown",
            "task_config": "unknown",
            "n_shot": "unknown",
        },
        counts={"answers": max(score.n for score in scores.values())},
    )


def _mean(numbers: Sequence[float]) -> Score:
    n = len(numbers)
    mean = sum(numbers) / n
    if n < 2:
        return Score(value=mean, n=n)
    error = math.sqrt(
        sum((number - mean) ** 2 for number in numbers) / (n - 1) / n
    )  # lm_eval api/metrics.py mean_stderr
    return Score(value=mean, ci_low=mean - NORMAL_95 * error, ci_high=mean + NORMAL_95 * error, se=error, n=n)


def _task_name(file: str) -> str:
    """samples_TASK_2026-01-31T12-00-00.000000.jsonl -> TASK."""
    stem = file.removesuffix(".jsonl").removeprefix("samples_")
    head, _, tail = stem.rpartition("_")
    return head if head and tail[:4].isdigit() and "T" in tail else stem
