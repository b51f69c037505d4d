"""Run one calibration: choose items and judge, call the judge, keep its rows, write the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue

from ..errors import ConfigError, DataError
from ..judging.budget import Budget
from ..judging.cache import ReplyCache, cache_path
from ..judging.calibrated import FOLDER, Calibration, SuiteCalibration
from ..judging.calls import Calling, CallOptions
from ..judging.identity import judge_protocol
from ..judging.jury import combine, jury_of
from ..judging.pricing import price, priced
from ..pipeline import ProgressCallback
from ..plan import load_judge
from ..protocols import Checking, Judge, LoadedJudge, SuiteOptions
from ..provenance import VERSION
from ..records import JudgeSpec, Judgment, JuryRule, digest
from ..store import RunStore, dump_json, write_atomic
from . import alpaca_eval, arena_hard, mt_bench, own
from .data import DataFolder
from .items import CalibrationSet, Item, ItemVerdict, RecordedComparison
from .measures import repeat_flips
from .replay import ReplaySuite, recorded_verdicts, replay, verdicts_by
from .report import suite_calibration
from .sample import counted, replayable, stratified

Loader = Callable[[DataFolder, SuiteOptions], CalibrationSet]
LOADERS: dict[str, Loader] = {
    mt_bench.SUITE: mt_bench.load,
    alpaca_eval.SUITE: alpaca_eval.load,
    arena_hard.SUITE: arena_hard.load,
    own.SUITE: own.load,
}
ALL = (mt_bench.SUITE, alpaca_eval.SUITE, arena_hard.SUITE)
"""Suites with published judgments; a user's own comparisons must be named."""
RECORDED = "recorded"
"""Name of the retired judge, which answers from its records."""


@dataclass(frozen=True)
class CalibrationSpec:
    """The options of one calibration."""

    judges: tuple[JudgeSpec, ...]
    """One judge or the members of a jury; empty: the recorded verdicts themselves."""
    suites: tuple[str, ...]
    sample: int | None
    """Number of items in all; None: every item."""
    seed: int = 0
    jury: JuryRule = "mean"
    cache: bool = True
    """Whether replies are read from and written to the reply cache."""
    max_cost: float | None = None
    """US dollars; judging stops before crossing it."""
    repeats: int = 1
    """How often each judge repeats each task."""

    @cached_property
    def loaded(self) -> tuple[Judge, ...]:
        return tuple(load_judge(judge) for judge in self.judges)

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Return the judge part of the protocol, as on cards."""
        if not self.judges:
            return {"name": RECORDED, "kind": RECORDED, "model": None, "params": {}}
        return judge_protocol(self.loaded, self.jury)


def load_sets(suites: Iterable[str], folder: DataFolder, options: SuiteOptions) -> list[CalibrationSet]:
    """Raise ConfigError if a suite has no recorded judgments, DataError if files are missing."""
    sets = []
    for suite in suites:
        if suite not in LOADERS:
            raise ConfigError(f"no recorded judgments of suite {suite!r}; known: {', '.join(LOADERS)}, all")
        try:
            calibration_set = LOADERS[suite](DataFolder(folder.path), options)
        except KeyError as error:
            raise DataError(f"{suite}: a row of the recorded judgments in {folder.path} has no key {error}") from None
        if not calibration_set.comparisons:
            raise DataError(f"{suite}: no recorded judgments in {folder.path}; docs/judges.md lists the expected files")
        sets.append(calibration_set)
    return sets


def chosen_items(spec: CalibrationSpec, sets: Sequence[CalibrationSet]) -> list[Item]:
    """Return the sampled items: of all if the verdicts are recorded, else of those a judge can be called for."""
    if spec.judges:
        return stratified(replayable(sets), spec.sample, spec.seed)
    everything: list[Item] = []
    for calibration_set in sets:
        everything += [*calibration_set.comparisons, *calibration_set.ratings]
    return stratified(everything, spec.sample, spec.seed)


def manifest(spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> dict[str, JsonValue]:
    """Return the fields that must be equal to resume a calibration."""
    return {
        "schema_version": 1,
        "judge": spec.protocol,
        "judge_urls": [judge.url for judge in spec.judges],
        "items": digest([item.id for item in items]),
        "data": dict(_data(sets)),
        **({"repeats": spec.repeats} if spec.repeats > 1 else {}),
    }


def folder_of(results: Path, spec: CalibrationSpec, manifest_fields: Mapping[str, JsonValue]) -> Path:
    name = str(spec.protocol["name"])
    slug = "".join(letter if letter.isalnum() or letter in "._-+" else "_" for letter in name).strip(".") or "judge"
    return results / FOLDER / slug / digest(manifest_fields)[:12]


@dataclass(frozen=True)
class CalibrationEstimate:
    """The calls still to make, at most. Tokens are estimates: 4 characters each, and 400 per reply."""

    calls: int
    dollars: float | None
    """None if a judge has no known price."""


def estimate(spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> CalibrationEstimate:
    """CalibrationEstimate a calibration from scratch; 0 calls if the judge is `recorded`."""
    suite = ReplaySuite(sets, items if spec.judges else ())
    answers = {answer.prompt_id: answer for answer in suite.answers()}
    calls, dollars = 0, 0.0
    for prompt in suite.prompts():
        for task in suite.tasks(prompt, answers[prompt.id]):
            calls += spec.repeats * len(spec.judges)
            shown = len(task.template.user) + len(task.template.system or "") + sum(map(len, task.fields.values()))
            reply = min(task.template.max_tokens, 400)
            dollars += spec.repeats * sum(price(judge, shown / 4, reply) or 0.0 for judge in spec.judges)
    return CalibrationEstimate(calls, round(dollars, 2) if all(map(priced, spec.judges)) else None)


def check(spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> None:
    """Raise ConfigError if a judge cannot handle one of the tasks; nothing is written."""
    suite = ReplaySuite(sets, items)
    seen: set[tuple[str, bool]] = set()
    for prompt, item, answer in zip(suite.prompts(), items, suite.answers(), strict=True):
        kind = item.suite, isinstance(item, RecordedComparison)
        if kind not in seen:
            seen.add(kind)
            for task in suite.tasks(prompt, answer):
                for judge in spec.loaded:
                    if isinstance(judge, Checking):
                        judge.check(task)


async def ask(
    spec: CalibrationSpec,
    sets: Sequence[CalibrationSet],
    items: Sequence[Item],
    store: RunStore,
    on_progress: ProgressCallback = lambda _: None,
) -> None:
    """Judge the items that the store lacks; stored rows are not repeated and cached replies cost nothing.

    Raise BudgetReachedError before `max_cost` is crossed, IncompleteError if the judge stays unavailable. Finished rows
    are kept.
    """
    budget = Budget(spec.max_cost)
    budget.spent = sum(row.paid or 0.0 for row in store.judgments.every())
    calls = CallOptions(cache=ReplyCache(cache_path() if spec.cache else None), budget=budget)
    for judge in spec.loaded:
        if isinstance(judge, LoadedJudge):
            judge.logs_to(store.folder)
        if isinstance(judge, Calling):
            judge.use(calls)
    async with calls.cache:
        await replay(ReplaySuite(sets, items), spec.loaded, store, on_progress, repeats=spec.repeats)


def report(
    spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item], judgments: Sequence[Judgment]
) -> Calibration:
    """Return the calibration by the verdicts so far; `judgments` is ignored if the judge is `recorded`."""
    jury = jury_of({"judge": spec.protocol})
    rows = judgments if jury is None else combine(judgments, jury).judgments
    verdicts = verdicts_by(rows, sets, items) if spec.judges else recorded_verdicts(sets)
    parts = {calibration_set.suite: _part(spec, calibration_set, items, verdicts) for calibration_set in sets}
    if spec.repeats > 1:
        parts = {suite: _with_flips(part, suite, items, judgments) for suite, part in parts.items()}
    return Calibration(
        judge=spec.protocol,
        suites=parts,
        sample={"n": spec.sample, "seed": spec.seed, "repeats": spec.repeats, "items": dict(counted(items))},
        usage=_usage(judgments),
        data=_data(sets),
        harness=VERSION,
    )


def _part(
    spec: CalibrationSpec, calibration_set: CalibrationSet, items: Sequence[Item], verdicts: Mapping[str, ItemVerdict]
) -> SuiteCalibration:
    suite_items = [item for item in items if item.suite == calibration_set.suite]
    model = spec.judges[0].model or spec.judges[0].name if len(spec.judges) == 1 else ""
    return suite_calibration(
        calibration_set,
        suite_items,
        verdicts,
        judge_model=model if spec.judges else calibration_set.retired,
        is_retired=not spec.judges,
    )


def _with_flips(
    part: SuiteCalibration, suite: str, items: Sequence[Item], judgments: Sequence[Judgment]
) -> SuiteCalibration:
    suite_items = [item for item in items if item.suite == suite]
    return part.model_copy(update={"scores": part.scores | repeat_flips(suite_items, judgments)})


def _usage(judgments: Sequence[Judgment]) -> dict[str, JsonValue]:
    costs = [row.cost for row in judgments if row.cost is not None]
    return {
        "judgments": len(judgments),
        "failed": sum(row.error is not None for row in judgments),
        "prompt_tokens": sum(row.prompt_tokens for row in judgments),
        "completion_tokens": sum(row.completion_tokens for row in judgments),
        "cost": round(sum(costs), 6) if costs else None,
        "paid": round(sum(row.paid or 0.0 for row in judgments), 6) if costs else None,
    }


def _data(sets: Sequence[CalibrationSet]) -> dict[str, str]:
    return dict(sorted((name, sha) for calibration_set in sets for name, sha in calibration_set.files.items()))


def write(calibration: Calibration, *paths: Path) -> None:
    for path in paths:
        write_atomic(path, dump_json(calibration.model_dump(mode="json")))
