"""Read lm-eval's output: `results_*.json`, with the questions of `samples_*.jsonl` beside it, or samples files alone.

Of several results of one task, the newest by its `date` counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from ...records import QuestionScores, Score, SuiteScores, digest
from ...records.errors import ConfigError
from ...records.protocols import Numbers
from ...store.files import visible_files
from ..files import SourceFile, read_files
from .facts import direction, headline
from .results import (
    SUITE,
    Row,
    counted,
    direction_notes,
    equal_values,
    leaves_of,
    load_results,
    named_result,
    number_of,
    score_of,
    stated_directions,
    task_results,
    value_at,
    with_notes,
)

STAMP = re.compile(r"_(\d{4}-\d{2}-\d{2}T[\d.-]+)$")
"""The date at the end of lm-eval's file names, local time: `_2026-01-31T12-00-00.000000`."""


def read_results(paths: Sequence[Path]) -> list[Numbers]:
    """Return one result per model and task, from results files, or from samples files for tasks without one.

    Raise ConfigError if the files are neither, or if nothing in them has a score.
    """
    files = _unfolded(paths)
    samples = [path for path in files if not path.name.endswith(".json")]
    tasks: list[_DatedTask] = []
    problems: list[str] = []
    for path in (path for path in files if path not in samples):
        document = load_results(path)
        try:
            results = task_results(document, str(path))
        except ConfigError as error:  # a file without a score must not hide the others
            problems.append(str(error))
            continue
        tasks += [_DatedTask(task, _date(document, path), path, document) for task in results]
    numbers = [_with_questions(task, samples) for task in _newest(tasks)]
    reported = {task.numbers.suite for task in tasks}
    numbers += _of_samples(samples, exclude=reported)
    if not numbers:
        raise ConfigError(problems[0] if problems else _nothing(paths))
    return [with_notes(task, (f"left out: {problem}" for problem in problems)) for task in numbers]


def run_results(path: Path, task: str | None) -> Numbers:
    """Return the result of a run that asked one task, group or tag, with its questions. None: the file's first.

    Raise ConfigError if nothing in the file has a score.
    """
    document = load_results(path)
    numbers = named_result(document, task, str(path))
    return _with_questions(_DatedTask(numbers, 0.0, path, document), sorted(path.parent.glob("samples_*.jsonl")))


def _nothing(paths: Sequence[Path]) -> str:
    named = ", ".join(map(str, paths))
    return f"no lm-eval results in {named}; expected results_*.json or samples_*.jsonl"


def _unfolded(paths: Iterable[Path]) -> list[Path]:
    """Return the files, and of each folder lm-eval's files at any depth, without hidden ones."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = visible_files(path)
        files += [file for file in inside if file.suffix == ".json" and _is_results(file)]
        files += [file for file in inside if file.suffix == ".jsonl" and file.name.startswith("samples_")]
    return files


def _is_results(path: Path) -> bool:
    # with a file as --output_path, lm-eval puts the date after that file's name
    return path.name == "results.json" or path.name.startswith("results_") or STAMP.search(path.stem) is not None


# ------------------------------------------------------------------------------------------------------- several files


@dataclass(frozen=True)
class _DatedTask:
    numbers: Numbers
    date: float
    path: Path
    document: Row


def _date(document: Row, path: Path) -> float:
    """Return when the results were made, seconds since 1970: as the file states, else by its name, else its time."""
    stated = number_of(document.get("date"))
    if stated is not None:
        return stated
    stamp = STAMP.search(path.stem)
    try:
        moment = datetime.strptime(stamp[1][:19], "%Y-%m-%dT%H-%M-%S") if stamp else None
    except ValueError:
        moment = None
    return moment.replace(tzinfo=UTC).timestamp() if moment is not None else path.stat().st_mtime


def _newest(tasks: Sequence[_DatedTask]) -> list[_DatedTask]:
    """Return the newest result of each model, task and protocol, in order of first appearance."""
    groups: dict[tuple[str | None, str, str], list[_DatedTask]] = defaultdict(list)
    for task in tasks:
        groups[task.numbers.model, task.numbers.suite, digest(task.numbers.protocol)].append(task)
    newest = []
    for group in groups.values():
        latest = max(group, key=lambda task: task.date)
        older = len(group) - 1
        notes = (
            [f"the newest of {len(group)} results of this task, by their dates: {latest.path.name}"] if older else []
        )
        newest.append(replace(latest, numbers=with_notes(latest.numbers, notes)))
    return newest


# -------------------------------------------------------------------------------------------------------------- samples


def _with_questions(task: _DatedTask, samples: Sequence[Path]) -> Numbers:
    """Return the task with its questions' own scores, if samples files of that run are among the files."""
    name = task.numbers.suite.removeprefix(f"{SUITE}:")
    tops = [name] if value_at(task.document, "results", name) is not None else list(task.numbers.scores.by_category)
    leaves = tuple(dict.fromkeys(leaf for top in tops for leaf in leaves_of(task.document, top)))
    files = {leaf: path for leaf in leaves if (path := _samples_of(leaf, task.path, samples)) is not None}
    rows = [
        row
        for leaf, path in files.items()
        for row in question_scores(leaf, read_samples(path), None if leaves == (name,) else leaf)
    ]
    return task.numbers if not rows else counted(replace(task.numbers, questions=tuple(rows)))


def _samples_of(task: str, results: Path, samples: Sequence[Path]) -> Path | None:
    """Return the samples file that lm-eval wrote with a results file: of one date, or else the task's only one."""
    of_task = [path for path in samples if _task_name(path.name) == task]
    stamp = STAMP.search(results.stem)
    alike = [path for path in of_task if stamp and stamp[0] in path.name and path.parent == results.parent]
    candidates = alike or of_task
    return candidates[0] if len(candidates) == 1 else None


def read_samples(path: Path) -> SourceFile:
    (file,) = read_files([path])
    return file


def question_scores(task: str, file: SourceFile, category: str | None = None) -> list[QuestionScores]:
    """Return a record per question of a samples file, with the metrics of all its filters that are numbers.

    A question is known by the digest of its document, which does not depend on the order; by its number if the file has
    no digests. Of equal documents the first is compared with the first.
    """
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in file.rows:
        key = str(row.get("doc_hash") or "")[:16], str(row.get("doc_id", ""))
        values[key] |= _row_values(row)
    seen: Counter[str] = Counter()
    rows = []
    for (doc_hash, doc_id), scores in values.items():
        name = doc_hash or doc_id
        seen[name] += 1
        repeated = f"#{seen[name]}" if seen[name] > 1 else ""
        if scores:
            rows.append(QuestionScores(question=f"{task}:{name}{repeated}", category=category, scores=scores))
    return rows


def _row_values(row: Mapping[str, JsonValue]) -> dict[str, float]:
    metrics = row.get("metrics")
    values = {}
    for metric in map(str, metrics if isinstance(metrics, list) else ()):
        value = row.get(metric)
        number = number_of(float(value) if isinstance(value, bool) else value)
        if number is not None and metric != "bypass":
            values[f"{metric},{row.get('filter', 'none')}"] = number
    return values


def _of_samples(paths: Sequence[Path], exclude: Iterable[str]) -> list[Numbers]:
    """Return means over a samples file's rows with standard errors, as lm-eval computes them for mean metrics."""
    reported, results = set(exclude), []
    for path in paths:
        task = _task_name(path.name)
        if f"{SUITE}:{task}" in reported:
            continue
        questions = question_scores(task, read_samples(path))
        if not questions:
            raise ConfigError(f"{path.name}: no row has `metrics`; expected lm-eval's samples_*.jsonl")
        results.append(_samples_result(task, questions))
    return results


def _samples_result(task: str, questions: Sequence[QuestionScores]) -> Numbers:
    values: dict[str, list[float]] = defaultdict(list)
    for question in questions:
        for name, value in question.scores.items():
            values[name].append(value)
    scores = {name: _mean(numbers) for name, numbers in values.items()}
    directions = {name: direction(name.partition(",")[0], None) for name in scores}
    metric = headline(scores, directions)
    notes = ["means over samples: right for metrics that lm-eval averages, as most are"]
    notes += direction_notes(metric, directions)
    if scores[metric].se is None and scores[metric].n > 1:
        notes.append(equal_values(metric))
    return Numbers(
        suite=f"{SUITE}:{task}",
        suite_version="unknown",
        judge="none",
        headline=metric,
        scores=SuiteScores(scores=scores, notes=tuple(notes)),
        protocol={
            "suite": f"{SUITE}:{task}",
            "suite_version": "unknown",
            "task_config": "unknown",
            "n_shot": "unknown",
        },
        counts={"answers": max(score.n for score in scores.values())},
        higher_is_better=stated_directions(directions),
        questions=tuple(questions),
    )


def _mean(numbers: Sequence[float]) -> Score:
    n = len(numbers)
    mean = sum(numbers) / n
    if n < 2:
        return Score(value=mean, n=n)
    # lm_eval api/metrics.py mean_stderr
    return score_of(mean, math.sqrt(sum((number - mean) ** 2 for number in numbers) / (n - 1) / n), n)


def _task_name(file: str) -> str:
    """Return TASK of samples_TASK_2026-01-31T12-00-00.000000.jsonl."""
    name = re.sub(r"\.jsonl(\.xz|\.gz)?$", "", file)
    return STAMP.sub("", name).removeprefix("samples_")
