"""Turn one of lm-eval's results files into our numbers, with a record per task.

>>> document = {"results": {"arc_easy": {"acc,none": 0.75, "acc_stderr,none": 0.01}}, "versions": {"arc_easy": 1}}
>>> [numbers] = task_results(document, "results.json")
>>> numbers.suite, numbers.headline, numbers.scores.scores[numbers.headline].value
('lm_eval:arc_easy', 'acc,none', 0.75)

Metrics keep lm-eval's names ("exact_match,strict-match"), units and standard errors; intervals are 1.96 errors wide on
each side. The suite's version is the task's own, by which lm-eval marks comparable numbers. Files of lm-eval 0.3 and
0.4.0 state less: neither the number of questions nor any direction.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from ...records import Score, SuiteScores, digest
from ...records.errors import ConfigError
from ...records.protocols import Numbers
from .facts import NOT_SCORES, direction, headline, preset_headline

NORMAL_95 = 1.959963984540054
SUITE = "lm_eval"
CONFIG_KEYS = ("dataset_path", "dataset_name", "doc_to_text", "doc_to_target", "num_fewshot", "generation_kwargs")
"""Keys of a task's configuration that, besides its version, decide whether two numbers are comparable."""
OWN_UNITS = "metrics are in lm-eval's own units"
UNKNOWN_N = "lm-eval before 0.4.3 does not state how many questions it scored: import its samples files too"
Row = Mapping[str, JsonValue]


def load_results(path: Path) -> Row:
    """Return the content of a results file. Raise ConfigError if it is not one."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("results"), dict):
        raise ConfigError(f"{path} is not an lm-eval results file: it has no `results`")
    return document


def value_at(document: Row, *keys: str) -> JsonValue:
    value: JsonValue = dict(document)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def model_name(document: Row) -> str | None:
    """Return the model's name in a results file, or None if it has none (before lm-eval 0.4.3)."""
    name = document.get("model_name")
    return name if isinstance(name, str) and name else None


def counted(numbers: Numbers) -> Numbers:
    """Return the record with numbers of questions from its rows, where the results file has none."""
    counts = Counter(metric for row in numbers.questions for metric in row.scores)
    scores = {
        name: score if score.n else score.model_copy(update={"n": counts[name]})
        for name, score in numbers.scores.scores.items()
    }
    n = scores[numbers.headline].n
    if scores == numbers.scores.scores or not n:
        return numbers
    notes = tuple(note for note in numbers.scores.notes if note != UNKNOWN_N)
    changed = numbers.scores.model_copy(update={"scores": scores, "notes": notes})
    return replace(numbers, scores=changed, counts={"answers": n, "prompts": n})


def number_of(value: JsonValue) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if sound and isinstance(value, int | float) else None


# ---------------------------------------------------------------------------------------------------------------- tasks


def task_results(document: Row, source: str) -> list[Numbers]:
    """Return a record per task and group of one results file, without the members of groups that have a metric.

    A group without a metric of its own is replaced by its members. Raise ConfigError if nothing has a score.
    """
    results = document["results"]
    assert isinstance(results, dict)
    inner = {child for name in results for child in children_of(document, name)}
    numbers, unscored = [], []
    seen: set[str] = set()
    for name in (name for name in results if name not in inner):
        scored_names = list(_scored(document, name, seen))
        if not scored_names:
            unscored.append(name)
        notes = () if scored_names == [name] else (f"part of {name}, which has no score of its own in this file",)
        numbers += [task_numbers(document, scored_name, notes) for scored_name in scored_names]
    if not numbers:
        raise ConfigError(f"{source} has no score: {_why_unscored(document, unscored)}")
    if not unscored:
        return numbers
    note = f"left out, without a score: {_why_unscored(document, unscored)}"
    return [with_notes(task, (note,)) for task in numbers]


def with_notes(numbers: Numbers, notes: Iterable[str]) -> Numbers:
    """Return the record with more notes."""
    return replace(numbers, scores=numbers.scores.model_copy(update={"notes": (*numbers.scores.notes, *notes)}))


def children_of(document: Row, name: str) -> tuple[str, ...]:
    """Return the direct members of a group; none for a task."""
    children = value_at(document, "group_subtasks", name)
    return tuple(str(child) for child in children if child != name) if isinstance(children, list) else ()


def leaves_of(document: Row, name: str, seen: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the tasks of a group at any depth, each once; the task itself if it is not a group."""
    children = [child for child in children_of(document, name) if child not in seen]
    if not children:
        return (name,)
    leaves = (leaf for child in children for leaf in leaves_of(document, child, seen | {name, child}))
    return tuple(dict.fromkeys(leaves))


def _scored(document: Row, name: str, seen: set[str]) -> Iterator[str]:
    """Yield the name if it has a score, else its members that have one."""
    if name in seen:
        return
    seen.add(name)
    if _metrics(document, name):
        yield name
        return
    for child in children_of(document, name):
        yield from _scored(document, child, seen)


def _why_unscored(document: Row, names: Sequence[str]) -> str:
    bypassed = {name: value_at(document, "results", name, "bypass,none") for name in names}
    predicted = [name for name, value in bypassed.items() if value is not None]
    if predicted:
        return f"{', '.join(predicted)} ran with --predict_only, so lm-eval stored answers but scored none of them"
    return f"{', '.join(names) or 'it lists no task'}: no metric is a number"


def task_numbers(document: Row, name: str, notes: Sequence[str] = ()) -> Numbers:
    """Return the record of a task or group that has a score."""
    scores = _metrics(document, name)
    members = _members(document, name)
    directions = {key: _direction(document, name, key) for key in _all_names(scores, members)}
    metric = preset_headline(name, scores) or headline(scores, directions, *_order(document, name))
    notes = [OWN_UNITS, *notes, *direction_notes(metric, directions)]
    notes += [] if scores[metric].n else [UNKNOWN_N]
    if number_of(value_at(document, "results", name, error_name(metric))) == 0:
        notes.append(equal_values(metric))
    version = value_at(document, "versions", name)
    return Numbers(
        suite=f"{SUITE}:{name}",
        suite_version="unknown" if version is None else str(version),
        judge="none",
        headline=metric,
        scores=SuiteScores(scores=scores, by_category=members, notes=tuple(notes)),
        protocol=_protocol(document, name),
        counts={"answers": scores[metric].n, "prompts": scores[metric].n + scores[metric].unscored},
        model=model_name(document),
        higher_is_better=stated_directions(directions),
    )


def named_result(document: Row, name: str | None, source: str) -> Numbers:
    """Return the record of one task, group or tag, for a run that asked nothing else. None: the file's first.

    Raise ConfigError if it has no score and no member with one.
    """
    results = document["results"]
    assert isinstance(results, dict)
    if name is None:
        inner = {child for group in results for child in children_of(document, group)}
        name = next((task for task in results if task not in inner), "")
    if _metrics(document, name):
        return task_numbers(document, name)
    # of a tag the file knows the tasks, but neither a score nor the name
    names = children_of(document, name) or tuple(results)
    members = {child: scores for child in names if child != name and (scores := _metrics(document, child))}
    if not members:
        raise ConfigError(f"{source} has no score: {_why_unscored(document, [name, *names])}")
    return _group_without_score(document, name, members)


def _group_without_score(document: Row, name: str, members: Mapping[str, Mapping[str, Score]]) -> Numbers:
    """Return a record without a value, whose categories are the members."""
    first = task_numbers(document, next(iter(members)))
    directions = {key: _direction(document, name, key) for key in _all_names({}, members)}
    note = f"{name} has no score of its own: for one per task, run {'+'.join(members)} as suites"
    answers = sum(next(iter(scores.values())).n for scores in members.values())
    return Numbers(
        suite=f"{SUITE}:{name}",
        suite_version="unknown",
        judge="none",
        headline=first.headline,
        scores=SuiteScores(
            scores={first.headline: Score(value=None, n=0)},
            by_category={child: dict(scores) for child, scores in members.items()},
            notes=(OWN_UNITS, note),
        ),
        protocol={**_protocol(document, next(iter(members))), "suite": f"{SUITE}:{name}", "suite_version": "unknown"},
        counts={"answers": answers},
        model=model_name(document),
        higher_is_better=stated_directions(directions),
    )


def _members(document: Row, name: str) -> dict[str, dict[str, Score]]:
    """Return the scores of a group's members at any depth, each before its own members."""
    inside: dict[str, dict[str, Score]] = {}
    waiting = list(children_of(document, name))
    while waiting:
        child = waiting.pop(0)
        if child not in inside and child != name:
            inside[child] = _metrics(document, child)
            waiting = [*children_of(document, child), *waiting]
    return {child: scores for child, scores in inside.items() if scores}


def _all_names(scores: Iterable[str], members: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*scores, *(metric for metrics in members.values() for metric in metrics)]))


def _metrics(document: Row, name: str) -> dict[str, Score]:
    """Return metric -> score of a task in the file's order; `METRIC_stderr,FILTER` is the error of `METRIC,FILTER`."""
    row = value_at(document, "results", name)
    n, unscored = _samples(document, name)
    scores = {}
    for key, value in row.items() if isinstance(row, dict) else ():
        metric, number = key.partition(",")[0], number_of(value)
        if metric.endswith("_stderr") or metric in NOT_SCORES or number is None or not isinstance(row, dict):
            continue
        error = number_of(row.get(error_name(key)))
        scores[key] = score_of(number, error, n, unscored)
    return scores


def error_name(name: str) -> str:
    """Return `METRIC_stderr,FILTER` of `METRIC,FILTER`; lm-eval 0.3 has no filters."""
    metric, comma, filter_name = name.partition(",")
    return f"{metric}_stderr{comma}{filter_name}"


def equal_values(metric: str) -> str:
    return f"{metric} is the same on every question, so its spread is unknown and it has no interval"


def score_of(value: float, error: float | None, n: int, unscored: int = 0) -> Score:
    """Return the score with an interval of 1.96 standard errors; without one if the error is unknown or 0.

    An error of 0 comes from equal values: it says that the spread is unknown, not that the value is certain.
    """
    if not error:
        return Score(value=value, n=n, unscored=unscored)
    half = NORMAL_95 * error
    return Score(value=value, ci_low=value - half, ci_high=value + half, se=error, n=n, unscored=unscored)


def _samples(document: Row, name: str) -> tuple[int, int]:
    """Return (scored, left out although there was no limit); for a group the sums over its tasks."""
    n = left = 0
    for leaf in leaves_of(document, name):
        effective, original = (
            number_of(value_at(document, "n-samples", leaf, key)) for key in ("effective", "original")
        )
        n += int(effective or 0)
        left += int((original or 0) - (effective or 0)) if _limit(document) is None else 0
    return n, max(0, left)


def _limit(document: Row) -> JsonValue:
    return value_at(document, "config", "limit")


# ------------------------------------------------------------------------------------------------------- comparability


def _direction(document: Row, task: str, name: str) -> bool | None:
    metric = name.partition(",")[0]
    return direction(metric, value_at(document, "higher_is_better", task, metric))


def stated_directions(directions: Mapping[str, bool | None]) -> dict[str, bool | None]:
    """Return what a card states: the metrics of which more is not known to be better."""
    return {name: way for name, way in directions.items() if way is not True}


def direction_notes(metric: str, directions: Mapping[str, bool | None]) -> list[str]:
    """Return a sentence if less of the headline is better, or if that is unknown."""
    if directions[metric] is False:
        return [f"of {metric} less is better"]
    if directions[metric] is None:
        return [f"of {metric} it is unknown whether more or less is better, so it is not ranked"]
    return []


def _order(document: Row, name: str) -> tuple[list[str], list[str]]:
    """Return the names of metrics and filters in the order of the task's configuration, or nothing without one."""
    config = value_at(document, "configs", name)
    lists = [config.get(key) if isinstance(config, dict) else None for key in ("metric_list", "filter_list")]
    metrics, filters = (
        [
            str(entry[key])
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and key in entry
        ]
        for entries, key in zip(lists, ("metric", "name"), strict=True)
    )
    return metrics, filters


def _protocol(document: Row, name: str) -> dict[str, JsonValue]:
    """Return what makes two results of a task comparable, as far as the file states it."""
    config = value_at(document, "configs", name)
    settings = {key: value for key, value in config.items() if key in CONFIG_KEYS} if isinstance(config, dict) else None
    shots = value_at(document, "n-shot", name)
    if shots is None:
        shots = value_at(document, "config", "num_fewshot")  # lm-eval 0.3 states it for all tasks together
    model = str(value_at(document, "config", "model") or "unknown")
    return {
        "suite": f"{SUITE}:{name}",
        "suite_version": str(value_at(document, "versions", name) or "unknown"),
        "task_config": "unknown" if settings is None else digest(settings)[:12],
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
