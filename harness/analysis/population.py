"""Tell whether a difference holds on other questions of the kind, or on these very ones. Pure.

A comparison's intervals answer for *all* questions of the kind: questions are a sample, and what they contribute to the
spread is most of it. `on_these` answers for *these* questions: only the answers (`--samples`) and verdicts
(`--repeats`) are a sample, so a regression on a fixed set shows with much less noise, and holds for that set alone.

>>> POPULATION_LINES["these"].partition(":")[0]
'population these'
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..records import Prompt
from ..records.errors import ConfigError
from ..records.facts import QuestionRule
from ..records.protocols import RunRows
from ..stats.intervals import FloatArray
from ..stats.paired import detectable
from ..stats.variance import Parts, within_difference
from ..suites.scoring import common, question_sums, rules_of
from .comparison import Comparison, Population
from .differences import ALPHA, Difference

POPULATION_LINES: Mapping[Population, str] = {
    "all": "population all: would the difference hold on other questions of this kind? (questions resampled)",
    "these": "population these: is the difference more than the noise of answers and verdicts on these very questions?",
}


def on_these(
    comparison: Comparison, first: RunRows, second: RunRows, prompts: Sequence[Prompt] | None = None
) -> Comparison:
    """Return the comparison with errors, intervals and p-values for its very questions.

    Metrics that are not sums over questions are left out, with a note. Raise ConfigError if a run has one answer and
    one judgment per question.
    """
    for run in (first, second):
        _refuse_single(run)
    categories = {prompt.id: prompt.category for prompt in prompts or ()}
    rules = {rule.metric: rule for rule in rules_of(first.card.suite, first.card.headline, first.judgments)}
    rows, left_out = [], []
    for row in comparison.differences:
        rule = rules.get(row.metric)
        within = None if rule is None else _within(row, rule, (first, second), categories)
        if within is None:
            left_out.append(row.metric + (f" ({row.category})" if row.category else ""))
        else:
            rows.append(within)
    notes = [*comparison.notes, *_repeats_only(first, second)]
    for run in (first, second):
        alone, questions = _once_judged(run)
        if alone:
            notes.append(
                f"{alone} of {questions} questions of {run.name} have the same answer in every draw, and equal answers "
                "share one verdict: the noise on these questions is taken to be that of the others"
            )
    if left_out:
        notes.append(
            f"no answer for these very questions, since it is not a sum over questions with several draws or repeats: "
            f"{', '.join(left_out)}"
        )
    return comparison.model_copy(
        update={
            "population": "these",
            "differences": tuple(rows),
            "adjusted": (),  # an adjustment is for questions of the kind
            "notes": tuple(dict.fromkeys(notes)),
        }
    )


def _draws(run: RunRows) -> list[int]:
    """Return the indices of the answers that were judged."""
    return sorted({row.index for row in run.judgments if row.verdict is not None})


def _repeats(run: RunRows) -> list[int]:
    return sorted({row.repeat for row in run.judgments if row.verdict is not None})


def _same_answers(run: RunRows) -> dict[str, set[int]]:
    """Return, per question, the draws whose answer and verdict an earlier draw has too.

    The reply cache gives equal answers one verdict, so such a draw shows no noise of the judge.
    """
    answers: defaultdict[tuple[str, int], set[tuple[object, ...]]] = defaultdict(set)
    for row in run.judgments:
        if row.verdict is not None:
            verdict = row.verdict.model_dump_json()
            judged = (row.turn, row.order, row.repeat, row.judge, row.answer_sha or row.index, row.reply, verdict)
            answers[row.prompt_id, row.index].add(judged)
    earlier: defaultdict[str, list[set[tuple[object, ...]]]] = defaultdict(list)
    same: defaultdict[str, set[int]] = defaultdict(set)
    for (prompt_id, index), turns in sorted(answers.items(), key=lambda item: item[0]):
        if turns in earlier[prompt_id]:
            same[prompt_id].add(index)
        earlier[prompt_id].append(turns)
    return dict(same)


def _once_judged(run: RunRows) -> tuple[int, int]:
    """Return the questions whose draws all have the same answer, and all questions."""
    draws: defaultdict[str, set[int]] = defaultdict(set)
    for row in run.judgments:
        if row.verdict is not None:
            draws[row.prompt_id].add(row.index)
    same = _same_answers(run)
    alone = [name for name, indices in draws.items() if len(indices) > 1 and len(indices - same.get(name, set())) == 1]
    return len(alone), len(draws)


def _refuse_single(run: RunRows) -> None:
    several = len(_draws(run)) > 1
    alone, questions = _once_judged(run)
    if several and alone == questions:
        raise ConfigError(
            f"{run.card.suite}: {run.name} gave the same answer in every draw, and equal answers share one verdict, so "
            "the noise on these very questions is unknown: run both models with --repeats 3 and without --samples, or "
            "ask with --population all"
        )
    if not several and len(_repeats(run)) < 2:
        raise ConfigError(
            f"{run.card.suite}: {run.name} has one answer and one judgment per question, so the noise on these very "
            "questions is unknown: run both models with --samples 3 (answers and verdicts) or --repeats 3 (verdicts "
            "only), or ask with --population all"
        )


def _repeats_only(first: RunRows, second: RunRows) -> list[str]:
    names = " and ".join(run.name for run in (first, second) if len(_draws(run)) < 2)
    if not names:
        return []
    return [
        f"generation noise is not included: one answer per question of {names}, judged repeatedly; --samples adds it"
    ]


def _within(
    row: Difference, rule: QuestionRule, runs: tuple[RunRows, RunRows], categories: Mapping[str, str]
) -> Difference | None:
    chosen = {name: category for name, category in categories.items() if row.category in (None, category)} or None
    whole = common([question_sums(rule, run.answers, run.judgments, categories=chosen) for run in runs])[0]
    first, second = (_terms_by_draw(rule, run, whole.ids) for run in runs)
    estimate = within_difference(second, first, scale=rule.scale)
    if estimate is None:
        return None
    low, high = estimate.interval() if estimate.varies else (None, None)
    return row.model_copy(
        update={
            "ci_low": None if low is None else low + row.value - estimate.value,
            "ci_high": None if high is None else high + row.value - estimate.value,
            "se": estimate.se,
            "df": int(estimate.df),
            "p": estimate.p_two_sided(),
            "detectable": detectable(estimate.se, alpha=ALPHA / 2),
            "needed": None,  # more questions would be other questions
            "n": estimate.n,
            "method": "within",
        }
    )


def _terms_by_draw(rule: QuestionRule, run: RunRows, ids: Sequence[str]) -> Parts:
    """Return the run's terms by draw if it has several, else by repeat. The spread of draws includes the judge's.

    Of draws with the same answer one counts.
    """
    draws = _draws(run)
    added = len(draws) > 1
    same = _same_answers(run) if added else {}
    groups = (
        [
            [row for row in run.judgments if row.index == draw and draw not in same.get(row.prompt_id, ())]
            for draw in draws
        ]
        if added
        else [[row for row in run.judgments if row.repeat == repeat] for repeat in _repeats(run)]
    )
    tables = [question_sums(rule, run.answers, rows) for rows in groups]
    above = [dict(zip(table.ids, table.above, strict=True)) for table in tables]
    below = [dict(zip(table.ids, table.below, strict=True)) for table in tables]
    return Parts(_table(above, ids), _table(below, ids), added)


def _table(columns: Sequence[Mapping[str, float]], ids: Sequence[str]) -> FloatArray:
    return np.array([[column.get(prompt_id, np.nan) for column in columns] for prompt_id in ids], dtype=np.float64)
