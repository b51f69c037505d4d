"""Judge recorded answers again in later runs, to see whether the judge moved since (anchors).

An anchor check changes no score, so it is not part of a protocol: a card states the anchors' digest beside the results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from ..records import AnchorCheck, Answer, JudgeTask, Judgment, Prompt, Rating, Record, Score, ScoreCard, digest
from ..records.errors import ConfigError, one_line
from ..records.protocols import Suite
from .jury import CardProtocol, Identity, outcome_of

if TYPE_CHECKING:
    from ..stats.variance import PairedShift


MIN_JUDGED = 0.9
"""If a smaller share of the anchors was judged again, the check is inconclusive: the missing ones may have moved."""
MIN_ANCHORS = 5
"""Least number of anchors for a meaningful t-test."""


class Anchor(Record):
    """One answer with each judge's recorded verdicts on it."""

    answer: Answer
    judgments: tuple[Judgment, ...]
    """Verdicts only, without the judges' replies."""


class AnchorSet(Record):
    """The contents of an anchor file."""

    schema_version: Literal[1] = 1
    suite: str
    suite_version: str
    judges: dict[str, Identity]
    """Judge -> name, kind, model and params, from the protocol of the run that the anchors come from."""
    model: str
    """The model that gave the answers."""
    run_id: str
    anchors: tuple[Anchor, ...]

    @property
    def sha(self) -> str:
        """Return the first 12 hex characters of the digest."""
        return digest(self.model_dump(mode="json"))[:12]


def read_anchors(path: Path) -> AnchorSet:
    """Read an anchor file. Raise ConfigError if it is not one."""
    try:
        return AnchorSet.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the anchors {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not an anchor file: {one_line(error)}; `harness judge anchors RUN --out FILE` makes one"
        ) from error


Choose = Callable[[Sequence[Prompt]], Sequence[Prompt]]


def anchor_set(
    card: ScoreCard, suite: Suite, answers: Iterable[Answer], judgments: Iterable[Judgment], choose: Choose
) -> AnchorSet:
    """Make anchors from a run's first draws on which every judge gave all its verdicts.

    `choose` picks the prompts among these.

    Raise ConfigError if there is none, or if the card does not state its judges' settings.
    """
    judges = CardProtocol.read(card.protocol).judges
    if not judges:
        raise ConfigError("this run's judge settings are unknown, so its verdicts cannot be anchors")
    rows: dict[tuple[str, str], list[Judgment]] = defaultdict(list)
    for row in judgments:
        if row.verdict is not None and row.index == 0:
            # replies may quote the benchmark's questions, and an anchor file is shared
            bare = row.model_copy(update={"reply": None, "logprobs": (), "cost": None, "seconds": 0.0})
            rows[row.prompt_id, row.answer_sha or ""].append(bare)
    first = {answer.prompt_id: answer for answer in answers if answer.index == 0 and answer.error is None}
    whole = [
        prompt
        for prompt in suite.prompts()
        if prompt.id in first
        and _is_whole(suite, prompt, first[prompt.id], rows[prompt.id, first[prompt.id].sha], judges)
    ]
    if not whole:
        raise ConfigError(f"the run of {card.model} on {card.suite} has no answer with verdicts of every judge")
    return AnchorSet(
        suite=card.suite,
        suite_version=card.suite_version,
        judges=judges,
        model=card.model,
        run_id=str(card.provenance.get("run_id", "")),
        anchors=tuple(
            Anchor(answer=first[prompt.id], judgments=tuple(rows[prompt.id, first[prompt.id].sha]))
            for prompt in choose(whole)
        ),
    )


def _is_whole(suite: Suite, prompt: Prompt, answer: Answer, rows: Sequence[Judgment], judges: Iterable[str]) -> bool:
    slots = {(row.judge, row.turn, row.order) for row in rows}
    return all((judge, task.turn, task.order) in slots for task in suite.tasks(prompt, answer) for judge in judges)


def anchor_tasks(
    suite: Suite, anchors: AnchorSet, judges: Iterable[str], *, strict: bool = False
) -> tuple[JudgeTask, ...]:
    """Return the tasks for those judges of whom the anchors have verdicts.

    Raise ConfigError for a prompt that is not in the suite.
    """
    prompts = {prompt.id: prompt for prompt in suite.prompts()}
    recorded_judges = [judge for judge in judges if judge in anchors.judges]
    tasks = []
    for anchor in anchors.anchors:
        if anchor.answer.prompt_id not in prompts:
            raise ConfigError(f"the anchors contain prompt {anchor.answer.prompt_id!r}, which is not in {suite.name}")
        for task in suite.tasks(prompts[anchor.answer.prompt_id], anchor.answer):
            tasks += [
                task.model_copy(update={"judge": judge, "anchor": True, "strict": strict}) for judge in recorded_judges
            ]
    return tuple(tasks)


@dataclass(frozen=True)
class _Rejudged:
    """A judge's recorded verdicts on one task, and its verdict now."""

    recorded: Sequence[Judgment]
    now: Judgment

    @property
    def has_same_words(self) -> bool:
        """Return whether the judge prompt is the same, so that a difference is the judge's own."""
        return self.recorded[0].template_sha == self.now.template_sha

    @property
    def difference(self) -> float:
        """Return now minus the mean of the recorded verdicts."""
        return _value(self.now) - sum(_value(row) for row in self.recorded) / len(self.recorded)

    @property
    def widest(self) -> float:
        """Return the range of the verdict."""
        verdict = self.now.verdict
        return verdict.high - verdict.low if isinstance(verdict, Rating) else 1.0

    @property
    def has_other_outcome(self) -> bool:
        """Return whether it is another win, draw, loss or rating than at first."""
        return _outcome(self.now) != _outcome(self.recorded[0])


def check_anchors(anchors: AnchorSet, judge: Identity, rows: Iterable[Judgment]) -> AnchorCheck:
    """Compare a judge's verdicts now with those recorded.

    `judge`: its part of the protocol; `rows`: its judgments now.
    """
    import numpy as np  # deferred with scipy, so that a command's help does not wait for them

    from ..stats.variance import ALPHA, shift

    recorded = _recorded_verdicts(anchors, str(judge["name"]))
    rejudged = _rejudged(recorded, [row for row in rows if row.judge == str(judge["name"])])
    comparable = [pair for pair in rejudged if pair.has_same_words]
    rated = any(isinstance(row.verdict, Rating) for verdicts in recorded.values() for row in verdicts)
    scale = 1.0 if rated else 100.0  # preferences are shares of a point, reported in percent points
    questions = [pair.now.prompt_id for pair in comparable]
    widest = max((scale * pair.widest for pair in comparable), default=0.0)
    moved = shift(np.array([scale * pair.difference for pair in comparable]), questions, widest=widest)
    judged, total = len(set(questions)), len({slot[0] for slot in recorded})
    reason = _reason(anchors, judge, judged, total, changed_words=len(comparable) < len(rejudged))
    p = None if moved is None else moved.p
    return AnchorCheck(
        anchors=anchors.sha,
        n=judged,
        unscored=total - judged,
        unit="points" if rated else "percent",
        shift=_score(moved, judged, total),
        p=p,
        changed=_percent([pair.has_other_outcome for pair in comparable]),
        detectable=None if moved is None else moved.detectable,
        drifted=None if reason is not None or p is None else p < ALPHA,
        reason=reason,
    )


def _recorded_verdicts(anchors: AnchorSet, judge: str) -> dict[tuple[str, ...], list[Judgment]]:
    """Return the judge's recorded verdicts, several if it was asked repeatedly, by what was judged."""
    recorded: dict[tuple[str, ...], list[Judgment]] = defaultdict(list)
    for anchor in anchors.anchors:
        for row in anchor.judgments:
            if row.judge == judge:
                recorded[_slot(row)].append(row)
    return recorded


def _rejudged(recorded: Mapping[tuple[str, ...], Sequence[Judgment]], rows: Iterable[Judgment]) -> list[_Rejudged]:
    verdicts = {_slot(row): row for row in rows if row.verdict is not None}
    return [_Rejudged(earlier, verdicts[slot]) for slot, earlier in recorded.items() if slot in verdicts]


def _percent(flags: Sequence[bool]) -> float | None:
    """Return the percentage of flags that are true, or None without flags."""
    return 100 * (sum(flags) / len(flags)) if flags else None


def _slot(row: Judgment) -> tuple[str, ...]:
    """Return what was judged: the same for a recorded verdict and the verdict now."""
    return row.prompt_id, str(row.turn), str(row.order), row.answer_sha or ""


def _value(row: Judgment) -> float:
    assert row.verdict is not None, "rows without a verdict were left out"
    return row.verdict.value


def _outcome(row: Judgment) -> float:
    assert row.verdict is not None, "rows without a verdict were left out"
    return outcome_of(row.verdict)


def _score(moved: PairedShift | None, judged: int, total: int) -> Score:
    if moved is None:
        return Score(value=None, n=0, unscored=total)
    return Score(value=moved.value, n=judged, unscored=total - judged).with_interval(moved.interval)


def _reason(anchors: AnchorSet, judge: Identity, judged: int, total: int, *, changed_words: bool) -> str | None:
    """Return why the check says nothing about the judge, or None if it does."""
    recorded = anchors.judges.get(str(judge["name"]))
    if recorded is None:
        return f"the anchors contain verdicts of {', '.join(anchors.judges)} only"
    if recorded != judge:
        changed = sorted(key for key in recorded | judge if recorded.get(key) != judge.get(key))
        return f"the anchors were judged with another {', '.join(changed)}"
    if changed_words:
        return "the anchors were judged in other words (another judge prompt)"
    if judged < MIN_JUDGED * total:
        return f"{judged} of {total} anchors were judged again"
    if judged < MIN_ANCHORS:
        return f"{judged} anchors are too few"
    return None
