"""Asks a judge about recorded items, by the pipeline of any run: same rows, same resuming, same limits and failures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from pydantic import JsonValue

from ..errors import ServerError
from ..pipeline import ProgressCallback, SuiteRun, evaluate
from ..protocols import Backend, Judge
from ..records import Answer, JudgeTask, Judgment, Prompt, Sampling, SuiteScores
from ..store import RunStore
from .items import CalibrationSet, Comparison, Item, Rule, Said, combined, side


class ReplaySuite:
    """Recorded items as a suite: a prompt an item, whose answer is in the store before anything starts."""

    name = "calibration"
    version = "1"
    headline = "agreement"

    def __init__(self, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> None:
        self._sets = {one.suite: one for one in sets}
        self._items = {item.id: item for item in items}

    def protocol(self) -> dict[str, JsonValue]:
        return {}

    def prompts(self) -> Sequence[Prompt]:
        return [item.prompt.model_copy(update={"id": item.id}) for item in self._items.values()]

    def answers(self) -> list[Answer]:
        """The judged answer of every item, under the item's id."""
        return [_renamed(_judged(item), item.id) for item in self._items.values()]

    def sampling(self, prompt: Prompt) -> Sampling:
        return Sampling(max_tokens=1)  # nothing is generated

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """The suite's own questions; item ids stand for prompt ids, since models share prompts here."""
        item = self._items[prompt.id]
        return [
            task.model_copy(
                update={
                    "prompt": task.prompt.model_copy(update={"id": item.id}),
                    "answer": _renamed(task.answer, item.id),
                }
            )
            for task in self._sets[item.suite].tasks(item)
        ]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        return SuiteScores(scores={})


def _judged(item: Item) -> Answer:
    answer = item.answers[0] if isinstance(item, Comparison) and item.answers else None
    answer = answer if isinstance(item, Comparison) else item.answer
    assert answer is not None, "only items with texts are replayed"
    return answer


def _renamed(answer: Answer, item_id: str) -> Answer:
    return answer.model_copy(update={"prompt_id": item_id})


@asynccontextmanager
async def _no_backend() -> AsyncIterator[Backend]:
    raise ServerError("a recorded answer is missing from the store; use --fresh")
    yield


async def replay(
    suite: ReplaySuite,
    judges: tuple[Judge, ...],
    store: RunStore,
    on_progress: ProgressCallback = lambda _: None,
    *,
    repeats: int = 1,
) -> None:
    """Brings the store's judgments up to date. Raises IncompleteError when the judge stays down; rows are kept."""
    for answer in suite.answers():
        if not store.answers.succeeded(answer.key):
            store.answers.append(answer)
    run = SuiteRun(
        suite=suite,
        judges=judges,
        store=store,
        prompts=tuple(suite.prompts()),
        sampling=suite.sampling,
        repeats=repeats,
    )
    await evaluate([run], _no_backend, concurrency=1, on_progress=on_progress)


# ------------------------------------------------------------------------------------------------- what was said


def said_by(judgments: Iterable[Judgment], sets: Sequence[CalibrationSet], items: Sequence[Item]) -> dict[str, Said]:
    """Item id -> what the judge said; unscored where a game failed or is missing. Repeats count as their mean."""
    rules: Mapping[str, Rule] = {one.suite: one.rule for one in sets}
    rows: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        rows[judgment.prompt_id].append(judgment)
    return {item.id: _said(item, rows.get(item.id, ()), rules[item.suite]) for item in items}


def _said(item: Item, rows: Sequence[Judgment], rule: Rule) -> Said:
    failures = tuple(row.error.reason for row in rows if row.error is not None) or (() if rows else ("missing",))
    if not isinstance(item, Comparison):
        return Said(_mean(rows, None), failures=failures)
    second, first = _mean(rows, "ab"), _mean(rows, "ba")  # ab: the baseline is shown first, so the candidate second
    if second is None or first is None:
        return Said(None, failures=failures)
    same = side(second) == side(first)
    return Said(combined(second, first, rule), games=(second, first), consistent=same, failures=failures)


def _mean(rows: Sequence[Judgment], order: str | None) -> float | None:
    values = [row.verdict.value for row in rows if row.verdict is not None and row.order == order]
    return sum(values) / len(values) if values else None


def recorded_by(sets: Sequence[CalibrationSet]) -> dict[str, Said]:
    """What the retired judge said, in the same form: the judge named `recorded`."""
    found = {}
    for one in sets:
        for item in one.comparisons:
            failures = () if item.recorded is not None else ("missing",)
            found[item.id] = Said(item.recorded, item.recorded_games, item.recorded_consistent, failures)
        for rated in one.ratings:
            found[rated.id] = Said(rated.recorded, failures=() if rated.recorded is not None else ("parse",))
    return found
