"""Run a judge on recorded items with the pipeline of any run: same rows, resuming, limits and failure handling."""

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
from .items import CalibrationSet, Item, ItemVerdict, RecordedComparison, Rule, combined, side


class ReplaySuite:
    """Recorded items as a suite with one prompt per item; its answers are stored before the pipeline starts."""

    name = "calibration"
    version = "1"
    headline = "agreement"

    def __init__(self, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> None:
        self._sets = {calibration_set.suite: calibration_set for calibration_set in sets}
        self._items = {item.id: item for item in items}

    def protocol(self) -> dict[str, JsonValue]:
        return {}

    def prompts(self) -> Sequence[Prompt]:
        return [item.prompt.model_copy(update={"id": item.id}) for item in self._items.values()]

    def answers(self) -> list[Answer]:
        """Return the judged answer of every item, under the item's id."""
        return [_renamed(_judged(item), item.id) for item in self._items.values()]

    def sampling(self, prompt: Prompt) -> Sampling:
        return Sampling(max_tokens=1)  # nothing is generated

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return the suite's judge tasks; item ids replace prompt ids, because several models share a prompt here."""
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
    answer = item.answers[0] if isinstance(item, RecordedComparison) and item.answers else None
    answer = answer if isinstance(item, RecordedComparison) else item.answer
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
    """Judge all items that the store lacks. Raise IncompleteError if the judge stays unavailable; finished rows are
    kept."""
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


# ----------------------------------------------------------------------------------------------------- verdicts


def verdicts_by(
    judgments: Iterable[Judgment], sets: Sequence[CalibrationSet], items: Sequence[Item]
) -> dict[str, ItemVerdict]:
    """Return item id -> verdict, without a value if a game failed or is missing. Repeats count as their mean."""
    rules: Mapping[str, Rule] = {calibration_set.suite: calibration_set.rule for calibration_set in sets}
    rows: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        rows[judgment.prompt_id].append(judgment)
    return {item.id: _verdict(item, rows.get(item.id, ()), rules[item.suite]) for item in items}


def _verdict(item: Item, rows: Sequence[Judgment], rule: Rule) -> ItemVerdict:
    failures = tuple(row.error.reason for row in rows if row.error is not None) or (() if rows else ("missing",))
    if not isinstance(item, RecordedComparison):
        return ItemVerdict(_mean(rows, None), failures=failures)
    second, first = _mean(rows, "ab"), _mean(rows, "ba")  # ab: the baseline is shown first, so the candidate second
    if second is None or first is None:
        return ItemVerdict(None, failures=failures)
    same = side(second) == side(first)
    return ItemVerdict(combined(second, first, rule), games=(second, first), consistent=same, failures=failures)


def _mean(rows: Sequence[Judgment], order: str | None) -> float | None:
    values = [row.verdict.value for row in rows if row.verdict is not None and row.order == order]
    return sum(values) / len(values) if values else None


def recorded_verdicts(sets: Sequence[CalibrationSet]) -> dict[str, ItemVerdict]:
    """Return the retired judge's verdicts in the same form: the judge named `recorded`."""
    verdicts = {}
    for calibration_set in sets:
        for item in calibration_set.comparisons:
            failures = () if item.recorded is not None else ("missing",)
            verdicts[item.id] = ItemVerdict(item.recorded, item.recorded_games, item.recorded_consistent, failures)
        for rated in calibration_set.ratings:
            verdicts[rated.id] = ItemVerdict(rated.recorded, failures=() if rated.recorded is not None else ("parse",))
    return verdicts
