"""Read lm-eval's output: `results_*.json`, or `samples_*.jsonl` for tasks without a results file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...records import Score, SuiteScores
from ...records.errors import ConfigError
from ...records.protocols import Numbers
from ..files import read_files
from .suite import NORMAL_95, SUITE, load_results, number_of, task_results


def read_results(paths: Sequence[Path]) -> list[Numbers]:
    """Return one result per task, from results files, or from samples files for tasks without one.

    Raise ConfigError if the files are neither.
    """
    unfolded = _unfolded(paths)
    results = [path for path in unfolded if path.name.endswith(".json")]
    samples = [path for path in unfolded if path not in results]
    tasks = [task for path in results for task in task_results(load_results(path), str(path))]
    reported = {task.suite for task in tasks}
    tasks += [task for task in _of_samples(samples) if task.suite not in reported]
    if not tasks:
        raise ConfigError("no lm-eval results in these files; expected results_*.json or samples_*.jsonl")
    return tasks


def _unfolded(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(path.rglob("results_*.json")) + sorted(path.rglob("samples_*.jsonl"))
        else:
            files.append(path)
    return files


def _of_samples(paths: Sequence[Path]) -> list[Numbers]:
    """Return means over a samples file's rows with standard errors, as lm-eval computes them for mean metrics."""
    results = []
    for file in read_files(paths):
        values: dict[str, list[float]] = defaultdict(list)
        for row in file.rows:
            metrics = row.get("metrics")
            for metric in metrics if isinstance(metrics, list) else []:
                number = number_of(float(value) if isinstance(value := row.get(str(metric)), bool) else value)
                if number is not None:
                    values[f"{metric},{row.get('filter', 'none')}"].append(number)
        if not values:
            raise ConfigError(f"{file.name}: no row has `metrics`; expected lm-eval's samples_*.jsonl")
        results.append(_samples_result(_task_name(file.name), values))
    return results


def _samples_result(task: str, values: Mapping[str, Sequence[float]]) -> Numbers:
    scores = {metric: _mean(numbers) for metric, numbers in values.items()}
    note = "means over samples: right for metrics that lm-eval averages, as most are"
    return Numbers(
        suite=f"{SUITE}:{task}",
        suite_version="unknown",
        judge="none",
        headline=next(iter(scores)),
        scores=SuiteScores(scores=scores, notes=(note,)),
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
    """Return TASK of samples_TASK_2026-01-31T12-00-00.000000.jsonl."""
    stem = file.removesuffix(".jsonl").removeprefix("samples_")
    head, _, tail = stem.rpartition("_")
    return head if head and tail[:4].isdigit() and "T" in tail else stem
