"""Replay recorded judgments with a judge: `harness judge calibrate`.

    choose items -> judge them with the pipeline of any run -> verdicts -> measures -> calibration.json

The name `recorded` stands for the retired judge, whose verdicts are in the records: nothing is called then.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from pydantic import JsonValue

from ..judging.cache import ReplyCache, cache_path
from ..judging.calibrated import BATTLES, FOLDER, VOTES, Calibration
from ..judging.calls import CallOptions
from ..judging.cost import Budget, price, priced
from ..judging.jury import Jury, combine, judge_identities, judge_protocol
from ..records import Answer, JudgeSpec, JudgeTask, Judgment, JuryRule, Prompt, Sampling, SuiteScores, digest
from ..records.errors import ConfigError, DataError, ServerError
from ..records.facts import RecordedJudgments, all_facts, load_function
from ..records.protocols import Backend, Checking, Judge, SuiteOptions
from ..running.pipeline import ProgressCallback, SuiteRun, evaluate
from ..running.plan import SuitePlan, connect_judges, load_judge
from ..store import RunStore, dump_json, write_atomic, write_lines
from ..store.provenance import VERSION
from ..suites.recorded import CalibrationSet, DataFolder, Item, ItemVerdict, RecordedComparison, Rule, combined, side
from .judge_measures import repeat_flips, suite_calibration

log = logging.getLogger(__name__)


def recorded_judgments() -> dict[str, RecordedJudgments]:
    """Return name -> the recorded judgments that suites state in their facts, published ones first."""
    stated = [recorded for facts in all_facts() for recorded in facts.recorded]
    return {recorded.name: recorded for recorded in sorted(stated, key=lambda recorded: not recorded.published)}


def published_judgments() -> tuple[str, ...]:
    """Return the names of published ones; a user's own comparisons must be named."""
    return tuple(name for name, recorded in recorded_judgments().items() if recorded.published)


RECORDED = "recorded"
"""Name of the retired judge, which answers from its records."""
CHARACTERS_PER_TOKEN = 4
REPLY_TOKENS = 400
"""Length of a reply for estimates; a template may allow fewer."""


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
    needs_keys: bool = True
    """False: the judges will not be asked, so their API keys may be missing."""

    @cached_property
    def loaded(self) -> tuple[Judge, ...]:
        return tuple(load_judge(judge, needs_key=self.needs_keys) for judge in self.judges)

    @cached_property
    def protocol(self) -> dict[str, JsonValue]:
        """Return the judge part of the protocol, as on cards."""
        if not self.judges:
            return {"name": RECORDED, "kind": RECORDED, "model": None, "params": {}}
        return judge_protocol(judge_identities(self.loaded), self.jury)


def load_sets(suites: Iterable[str], folder: DataFolder, options: SuiteOptions) -> list[CalibrationSet]:
    """Raise ConfigError if a suite has no recorded judgments, DataError if files are missing."""
    published, sets = recorded_judgments(), []
    for suite in suites:
        if suite not in published:
            raise ConfigError(f"no recorded judgments of suite {suite!r}; known: {', '.join(published)}, all")
        load = load_function(published[suite].load)
        try:
            calibration_set: CalibrationSet = load(DataFolder(folder.path), options)
        except KeyError as error:
            raise DataError(f"{suite}: a row of the recorded judgments in {folder.path} has no key {error}") from None
        if not calibration_set.comparisons:
            raise DataError(
                f"{suite}: no recorded judgments in {folder.path}; the documentation's page on judges lists the "
                "expected files"
            )
        sets.append(calibration_set)
    return sets


def chosen_items(spec: CalibrationSpec, sets: Sequence[CalibrationSet]) -> list[Item]:
    """Return the sampled items: of all if the verdicts are recorded, else of those a judge can be called for.

    Raise ConfigError if a judge can handle none of a suite's items; of some kinds only, it is logged.
    """
    items: list[Item] = []
    for each in sets:
        items += [*each.comparisons, *each.ratings]
    return stratified(answerable(spec, sets) if spec.judges else items, spec.sample, spec.seed)


def answerable(spec: CalibrationSpec, sets: Sequence[CalibrationSet]) -> list[Item]:
    """Return the replayable items without those of kinds that a judge rejects, as one that only compares does ratings.

    Raise ConfigError if nothing of a suite is left. A judge that cannot be loaded, as without its key, is taken to
    handle everything: an estimate needs no key, and asking raises the error.
    """
    items, kinds = replayable(sets), defaultdict[Hashable, list[Item]](list)
    try:
        judges = spec.loaded
    except ConfigError:
        return items
    for item in items:
        kinds[item.suite, isinstance(item, RecordedComparison), item.turn or len(item.prompt.turns)].append(item)
    suite, rejected = ReplaySuite(sets, items), dict[Hashable, ConfigError]()
    for kind, members in kinds.items():
        # one item per kind is enough: the rest differ only in their texts
        for task in suite.tasks(suite.prompt(members[0]), suite.answer(members[0])):
            for judge in judges:
                try:
                    if isinstance(judge, Checking):
                        judge.check(task)
                except ConfigError as error:
                    rejected.setdefault(kind, error)
    for kind, reason in rejected.items():
        name = kinds[kind][0].suite
        if all(key in rejected for key, members in kinds.items() if members[0].suite == name):
            raise reason
        # the advice of a run, to give a suite another judge, helps nobody who calibrates this one
        log.warning(
            "%s: %d items are left out: %s", name, len(kinds[kind]), str(reason).partition(": choose another")[0]
        )
    left_out = {item.id for kind in rejected for item in kinds[kind]}
    return [item for item in items if item.id not in left_out]


def replayable(sets: Sequence[CalibrationSet]) -> list[Item]:
    """Return the items a judge can be called for: texts and a recorded verdict to compare with are available."""
    items: list[Item] = []
    for each in sets:
        items += [item for item in each.comparisons if item.answers and (item.people or not each.voted_only)]
        items += [item for item in each.ratings if item.answer is not None and item.recorded is not None]
    return items


def stratified(items: Sequence[Item], n: int | None, seed: int) -> list[Item]:
    """Return at most `n` items in their original order, or all of them if `n` is None or large enough.

    Each suite and kind (comparisons, ratings) gets an equal share, and what one cannot fill goes to the others. Within
    a share, categories are proportional to their size (largest remainder); within a category, model pairs take turns.
    """
    if n is None or n >= len(items):
        return list(items)
    groups: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.suite, isinstance(item, RecordedComparison)].append(item)
    shares = _equal_shares({key: len(group) for key, group in groups.items()}, n)
    chosen: set[str] = set()
    for key, group in groups.items():
        categories: dict[str, list[Item]] = defaultdict(list)
        for item in group:
            categories[item.prompt.category].append(item)
        category_shares = _proportional({name: len(members) for name, members in categories.items()}, shares[key])
        for name, members in categories.items():
            chosen.update(item.id for item in _in_turns(members, seed)[: category_shares[name]])
    return [item for item in items if item.id in chosen]


def _equal_shares(sizes: Mapping[Hashable, int], n: int) -> dict[Hashable, int]:
    """Return equal shares, capped by each group's size. What is left goes to larger groups."""
    shares: dict[Hashable, int] = {}
    # the smallest groups come first: what they cannot fill is divided among the others
    left = n
    for rank, key in enumerate(sorted(sizes, key=lambda key: (sizes[key], str(key)))):
        shares[key] = min(sizes[key], left // (len(sizes) - rank))
        left -= shares[key]
    return shares


def _proportional(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    exact = {name: n * size / sum(sizes.values()) for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (shares[name] - exact[name], name))[: n - sum(shares.values())]:
        shares[name] += 1
    return shares


def _in_turns(items: Sequence[Item], seed: int) -> list[Item]:
    """Shuffle by seed, then take one item of each model pair in turn."""
    pairs: dict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.id):
        pairs[item.pair].append(item)
    for pair, members in pairs.items():
        random.Random(f"{seed}:{'/'.join(pair)}:{members[0].prompt.category}").shuffle(members)
    order = sorted(pairs)
    random.Random(seed).shuffle(order)
    return [item for row in zip_longest(*(pairs[pair] for pair in order)) for item in row if item is not None]


def counted(items: Sequence[Item]) -> dict[str, int]:
    """Return suite and kind -> number of items, for the head of the report."""
    return dict(
        Counter(
            f"{item.suite} {'comparisons' if isinstance(item, RecordedComparison) else 'ratings'}" for item in items
        )
    )


def manifest(spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> dict[str, JsonValue]:
    """Return the fields that must be equal to resume a calibration."""
    return {
        "schema_version": 1,
        "judge": spec.protocol,
        # not part of the protocol, but another server of the same name may answer differently
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
    """The most calls that are still to make, and an estimate of their price."""

    calls: int
    dollars: float | None
    """None if a judge has no known price."""


def estimate(spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> CalibrationEstimate:
    """Return what a calibration from scratch takes at most: 0 calls if the judge is `recorded`."""
    suite = ReplaySuite(sets, items if spec.judges else ())
    answers = {answer.prompt_id: answer for answer in suite.answers()}
    calls, dollars = 0, 0.0
    for prompt in suite.prompts():
        for task in suite.tasks(prompt, answers[prompt.id]):
            calls += spec.repeats * len(spec.judges)
            characters = len(task.template.user) + len(task.template.system or "") + sum(map(len, task.fields.values()))
            reply = min(task.template.max_tokens, REPLY_TOKENS)
            costs = [price(judge, characters / CHARACTERS_PER_TOKEN, reply) or 0.0 for judge in spec.judges]
            dollars += spec.repeats * sum(costs)
    return CalibrationEstimate(calls, round(dollars, 2) if all(map(priced, spec.judges)) else None)


async def ask(
    spec: CalibrationSpec,
    sets: Sequence[CalibrationSet],
    items: Sequence[Item],
    store: RunStore,
    on_progress: ProgressCallback = lambda _: None,
) -> None:
    """Judge the items that the store lacks. Stored rows are not repeated, and cached replies cost nothing.

    Raise BudgetReachedError before `max_cost` is crossed, IncompleteError if the judge is unavailable. Rows are kept.
    """
    budget = Budget(spec.max_cost)
    # a resumed calibration continues with what the earlier calls cost
    budget.spent = sum(row.paid or 0.0 for row in store.judgments.every())
    calls = CallOptions(cache=ReplyCache(cache_path() if spec.cache else None), budget=budget)
    connect_judges(spec.loaded, calls, store.folder)
    suite = ReplaySuite(sets, items)
    for answer in suite.answers():  # stored before the pipeline starts, which then asks no model
        if not store.answers.succeeded(answer.key):
            store.answers.append(answer)
    plan = SuitePlan(suite, spec.loaded, tuple(suite.prompts()), suite.sampling, store.folder, repeats=spec.repeats)
    async with calls.cache:
        await evaluate([SuiteRun(plan, store)], no_backend, concurrency=1, on_progress=on_progress)


@asynccontextmanager
async def no_backend() -> AsyncIterator[Backend]:
    raise ServerError("a recorded answer is missing from the store; use --fresh")
    yield


class ReplaySuite:
    """Recorded items as a suite with one prompt per item.

    Item ids replace prompt ids, because several models share a prompt here.
    """

    name = "calibration"
    version = "1"
    headline = "agreement"

    def __init__(self, sets: Sequence[CalibrationSet], items: Sequence[Item]) -> None:
        self._sets = {calibration_set.suite: calibration_set for calibration_set in sets}
        self._items = {item.id: item for item in items}

    def protocol(self) -> dict[str, JsonValue]:
        return {}

    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt(item) for item in self._items.values()]

    def prompt(self, item: Item) -> Prompt:
        return item.prompt.model_copy(update={"id": item.id})

    def answers(self) -> list[Answer]:
        return [self.answer(item) for item in self._items.values()]

    def answer(self, item: Item) -> Answer:
        """Return the judged answer of an item, under the item's id."""
        answers = (item.answers or ()) if isinstance(item, RecordedComparison) else (item.answer,)
        answer = next(iter(answers), None)
        assert answer is not None, "only items with texts are replayed"
        return answer.model_copy(update={"prompt_id": item.id})

    def sampling(self, prompt: Prompt) -> Sampling:
        return Sampling(max_tokens=1)  # nothing is generated

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        item = self._items[prompt.id]
        return [
            task.model_copy(
                update={
                    "prompt": task.prompt.model_copy(update={"id": item.id}),
                    "answer": task.answer.model_copy(update={"prompt_id": item.id}),
                }
            )
            for task in self._sets[item.suite].tasks(item)
        ]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        return SuiteScores(scores={})


def report(
    spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item], judgments: Sequence[Judgment]
) -> Calibration:
    """Return the calibration by the verdicts so far. `judgments` is ignored if the judge is `recorded`."""
    verdicts = verdicts_of(spec, sets, items, judgments)
    model = spec.judges[0].model or spec.judges[0].name if len(spec.judges) == 1 else ""  # a jury has no family
    calibrations = {}
    for each in sets:
        suite_items = [item for item in items if item.suite == each.suite]
        calibration = suite_calibration(
            each, suite_items, verdicts, judge_model=model if spec.judges else each.retired, is_retired=not spec.judges
        )
        if spec.repeats > 1:
            calibration = calibration.model_copy(
                update={"scores": calibration.scores | repeat_flips(suite_items, judgments)}
            )
        calibrations[each.suite] = calibration
    return Calibration(
        judge=spec.protocol,
        suites=calibrations,
        sample={"n": spec.sample, "seed": spec.seed, "repeats": spec.repeats, "items": dict(counted(items))},
        usage=_usage(judgments),
        data=_data(sets),
        harness=VERSION,
    )


def verdicts_of(
    spec: CalibrationSpec, sets: Sequence[CalibrationSet], items: Sequence[Item], judgments: Sequence[Judgment]
) -> dict[str, ItemVerdict]:
    """Return item id -> the judge's or jury's verdict."""
    if not spec.judges:
        return recorded_verdicts(sets)
    jury = Jury.of(spec.judges, spec.jury)
    return verdicts_by(judgments if jury is None else combine(judgments, jury).judgments, sets, items)


def write_battles(folder: Path, items: Sequence[Item], verdicts: Mapping[str, ItemVerdict], judge: str) -> None:
    """Write the verdicts on compared answers, and people's votes on them, as `harness elo` reads them."""
    judged, voted = [], []
    for item in items:
        if isinstance(item, RecordedComparison):
            battle: dict[str, JsonValue] = {"question_id": item.prompt.id, "turn": item.turn}
            battle |= {"model_a": item.candidate, "model_b": item.baseline}
            value = verdicts[item.id].value
            if value is not None:
                judged.append({**battle, "preference": value, "judge": judge})
            voted += [{**battle, "preference": vote} for vote in item.people]
    for name, rows in ((BATTLES, judged), (VOTES, voted)):
        write_lines(folder / name, map(json.dumps, rows))


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
