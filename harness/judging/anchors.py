"""Anchors: recorded answers with a judge's verdicts, judged again in later runs to see whether the judge moved.

An anchor check changes no score, so it is not part of a protocol: a card states the anchors' digest beside the results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
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
    """Make anchors from a run: first draws on which every judge gave all its verdicts, for the prompts `choose` picks.

    Raise ConfigError if there is none, or if the card does not state its judges' settings.
    """
    judges = CardProtocol.read(card.protocol).judges
    if not judges:
        raise ConfigError("this run's judge settings are unknown, so its verdicts cannot be anchors")
    rows: dict[tuple[str, str], list[Judgment]] = defaultdict(list)
    for row in judgments:
        if row.verdict is not None and row.index == 0:
            kept = {"reply": None, "logprobs": (), "cost": None, "seconds": 0.0}
            rows[row.prompt_id, row.answer_sha or ""].append(row.model_copy(update=kept))
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
    known = [judge for judge in judges if judge in anchors.judges]
    tasks = []
    for anchor in anchors.anchors:
        if anchor.answer.prompt_id not in prompts:
            raise ConfigError(f"the anchors contain prompt {anchor.answer.prompt_id!r}, which is not in {suite.name}")
        for task in suite.tasks(prompts[anchor.answer.prompt_id], anchor.answer):
            tasks += [task.model_copy(update={"judge": judge, "anchor": True, "strict": strict}) for judge in known]
    return tuple(tasks)


def check(anchors: AnchorSet, judge: Identity, rows: Iterable[Judgment]) -> AnchorCheck:
    """Compare a judge's verdicts now with those recorded.

    `judge`: its part of the protocol; `rows`: its judgments now.
    """
    import numpy as np  # deferred with scipy, so that a command's help does not wait for them

    from ..stats.variance import ALPHA, shift

    name = str(judge["name"])
    recorded: dict[tuple[str, ...], list[Judgment]] = defaultdict(list)
    for anchor in anchors.anchors:
        for row in anchor.judgments:
            if row.judge == name:
                recorded[_slot(row)].append(row)
    now = {_slot(row): row for row in rows if row.judge == name and row.verdict is not None}
    pairs = [(old, now[slot]) for slot, old in recorded.items() if slot in now]
    alike = [(old, new) for old, new in pairs if old[0].template_sha == new.template_sha]
    questions = [new.prompt_id for _, new in alike]
    rating = any(isinstance(row.verdict, Rating) for old in recorded.values() for row in old)
    scale = 1.0 if rating else 100.0
    differences = np.array([scale * (_value(new) - float(np.mean([_value(row) for row in old]))) for old, new in alike])
    moved = shift(differences, questions)
    judged, total = len(set(questions)), len({slot[0] for slot in recorded})
    reason = _reason(anchors, judge, judged, total, changed_words=len(alike) < len(pairs))
    p = None if moved is None else moved.p
    return AnchorCheck(
        anchors=anchors.sha,
        n=judged,
        unscored=total - judged,
        unit="points" if rating else "percent",
        shift=_score(moved, judged, total),
        p=p,
        changed=100 * float(np.mean([_outcome(new) != _outcome(old[0]) for old, new in alike])) if alike else None,
        detectable=None if moved is None else moved.detectable,
        drifted=None if reason is not None or p is None else p < ALPHA,
        reason=reason,
    )


def _slot(row: Judgment) -> tuple[str, ...]:
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
    then = anchors.judges.get(str(judge["name"]))
    if then is None:
        return f"the anchors contain verdicts of {', '.join(anchors.judges)} only"
    if then != judge:
        changed = sorted(key for key in then | judge if then.get(key) != judge.get(key))
        return f"the anchors were judged with another {', '.join(changed)}"
    if changed_words:
        return "the anchors were judged in other words (another judge prompt)"
    if judged < MIN_JUDGED * total:
        return f"{judged} of {total} anchors were judged again"
    if judged < MIN_ANCHORS:
        return f"{judged} anchors are too few"
    return None
