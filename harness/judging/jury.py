"""A judge's part of the protocol, and how it differs from the benchmark's official judge. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import JsonValue

from ..records import (
    Answer,
    Failure,
    JudgeSpec,
    Judgment,
    JuryCounts,
    JuryRule,
    Order,
    Preference,
    Prompt,
    Rating,
    Verdict,
)
from ..records.protocols import Checking, Identified, Judge, Suite


def judge_protocol(judges: Sequence[Judge], rule: JuryRule) -> dict[str, JsonValue]:
    """Return a judge's part of the protocol; for a jury, its members' parts and the rule that combines their
    verdicts."""
    members: list[JsonValue] = [_member(judge) for judge in judges]
    if len(members) == 1 and isinstance(members[0], dict):
        return members[0]
    return {"name": judge_label([judge.spec for judge in judges]), "kind": "jury", "rule": rule, "members": members}


def _member(judge: Judge) -> dict[str, JsonValue]:
    spec = judge.spec
    identity: dict[str, JsonValue] = {"name": spec.name, "kind": spec.kind, "model": spec.model, "params": spec.params}
    return identity | (judge.identity() if isinstance(judge, Identified) else {})


def judge_label(judges: Sequence[JudgeSpec]) -> str:
    """Return the name of the judge on a card: its own, or `A+B+C` for a jury."""
    return "+".join(judge.name for judge in judges)


def judge_differences(suite: Suite, judges: Sequence[Judge]) -> tuple[str, ...]:
    """Return how the judging differs from the benchmark's own, one sentence per difference.

    Empty for a suite without an official judge (`official_judges`) and outside the official edition.
    """
    official = getattr(suite, "official_judges", ())
    if not official or not suite.version.startswith("official"):
        return ()
    differences = []
    for judge in judges:
        differences += _differences(judge, official, suite.protocol().get("templates"))
    if len(judges) > 1:
        differences.append(f"a jury of {len(judges)} instead of one judge")
    return tuple(dict.fromkeys(differences))


def _differences(judge: Judge, official: Sequence[str], templates: JsonValue) -> list[str]:
    spec = judge.spec
    differences = []
    member = _member(judge)
    if spec.kind not in ("llm", "alpaca_eval") or spec.model not in official:
        shown = member["model"] if spec.kind in ("llm", "alpaca_eval") else f"{spec.name} ({spec.kind})"
        differences.append(f"judge {shown} instead of the official {' or '.join(official)}")
    if spec.params:
        changed = (
            f"{name} left out" if value is None else f"{name} = {value!r}" for name, value in spec.params.items()
        )
        differences.append(f"judge {spec.name}: {', '.join(changed)}, instead of the official request parameters")
    known = templates.values() if isinstance(templates, dict) else ()
    if "template" in member and member["template"] not in known:
        differences.append(
            f"judge {spec.name}: words, parser and parameters of evaluator {spec.evaluator}, not the official"
        )
    return differences


def check_judges(suite: Suite, judges: Sequence[Judge]) -> None:
    """Raise ConfigError if a judge cannot handle the suite's tasks, before anything is answered."""
    for prompt in suite.prompts()[:1]:
        for task in suite.tasks(prompt, stand_in(prompt)):
            for judge in judges:
                if isinstance(judge, Checking):
                    judge.check(task)


def stand_in(prompt: Prompt) -> Answer:
    """Return a placeholder answer of 1,500 characters per turn, for estimates and checks."""
    return Answer(
        prompt_id=prompt.id,
        model="estimate",
        turns=tuple(f"{number} " + "x" * 1500 for number, _ in enumerate(prompt.turns)),
        finish=tuple("stop" for _ in prompt.turns),
    )


# ----------------------------------------------------------------------------------------------------
# Combine several judges' verdicts on one question into the one that is scored. Pure. A question is one answer to be
# judged: its turn, its order, its repeat. Verdicts from more than half of the members are needed, else the question
# is unscored: a failure is not a verdict, and half of a jury of two is not enough. From the verdicts there are: -
# mean: all of them reach the scorer, which averages within a slot as it does for repeats. Arena-Hard's weights count.
# - majority: for preferences, the outcome (win, draw, loss) that more than half give, as 1, 0.5 or 0; strong if more
# than half of those who give it call it strong; a draw without a majority. For ratings, the one that more than half
# give; the median without a majority. - median: for preferences, sorted by side and strength, the middle one; for an
# even number the mean of the middle two, strong if both are strong and on one side. For ratings, the median.


Question = tuple[str, int, int | None, Order | None, int]


@dataclass(frozen=True)
class Jury:
    """The judges, and the rule that combines their verdicts."""

    members: tuple[str, ...]
    rule: JuryRule

    @property
    def label(self) -> str:
        return "+".join(self.members)


def jury_of(protocol: Mapping[str, JsonValue]) -> Jury | None:
    """Return the jury in a card's or a manifest's protocol; None for a single judge."""
    match protocol.get("judge"):
        case {"kind": "jury", "rule": "mean" | "majority" | "median" as rule, "members": [*members]}:
            return Jury(tuple(str(member["name"]) for member in members if isinstance(member, dict)), rule)
    return None


@dataclass(frozen=True)
class Combined:
    """A jury's combined verdicts."""

    judgments: tuple[Judgment, ...]
    """Input of the scorer: with the rule mean the members' own judgments, else one judgment or failure per question."""
    counts: JuryCounts


def question_of(row: Judgment) -> Question:
    return (row.prompt_id, row.index, row.turn, row.order, row.repeat)


def by_question(judgments: Sequence[Judgment]) -> dict[Question, list[Judgment]]:
    """Return the rows of each question, in the order of their first appearance."""
    groups: dict[Question, list[Judgment]] = defaultdict(list)
    for row in judgments:
        groups[question_of(row)].append(row)
    return groups


def combine(judgments: Sequence[Judgment], jury: Jury) -> Combined:
    """Combine the members' judgments (one per member and question, of the current answers) into the jury's."""
    kept: list[Judgment] = []
    sizes: Counter[str] = Counter()
    for rows in by_question(judgments).values():
        verdicts = [row.verdict for row in rows if row.verdict is not None]
        if 2 * len(verdicts) <= len(jury.members):
            sizes["short"] += 1
            kept.append(_failed(rows[0], len(verdicts), jury))
            continue
        sizes["full" if len(verdicts) == len(jury.members) else "part"] += 1
        if jury.rule == "mean":
            kept += [row for row in rows if row.verdict is not None]
            continue
        sizes["undecided"] += jury.rule == "majority" and majority(verdicts) is None
        kept.append(_as_jury(rows[0], jury, verdict=agreed(verdicts, jury.rule)))
    counts = JuryCounts(
        questions=sizes["full"] + sizes["part"] + sizes["short"],
        full=sizes["full"],
        part=sizes["part"],
        short=sizes["short"],
        undecided=sizes["undecided"],
    )
    return Combined(tuple(kept), counts)


def scored(judgments: Sequence[Judgment], protocol: Mapping[str, JsonValue]) -> tuple[Judgment, ...]:
    """Return a stored run's judgments as its scorer was given them."""
    jury = jury_of(protocol)
    return tuple(judgments) if jury is None else combine(judgments, jury).judgments


def agreed(verdicts: Sequence[Verdict], rule: JuryRule) -> Verdict:
    """Return one verdict of several by the rule majority or median."""
    if rule == "majority":
        verdict = majority(verdicts)
        if verdict is not None:
            return verdict
        if isinstance(verdicts[0], Preference):
            return Preference(value=0.5)
    return _median(verdicts)


def majority(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the verdict that more than half give; None if there is none."""
    outcome, times = Counter(outcome_of(verdict) for verdict in verdicts).most_common(1)[0]
    if 2 * times <= len(verdicts):
        return None
    same = [verdict for verdict in verdicts if outcome_of(verdict) == outcome]
    if isinstance(same[0], Rating):
        return same[0]
    strong = sum(verdict.strength == 2 for verdict in same if isinstance(verdict, Preference))
    return Preference(value=outcome, strength=2 if 2 * strong > len(same) else 1)


def outcome_of(verdict: Verdict) -> float:
    """Return what is compared between judges, orders and repeats: 1 win, 0.5 draw, 0 loss, or a rating's value."""
    if isinstance(verdict, Rating):
        return verdict.value
    return 0.5 if verdict.value == 0.5 else float(verdict.value > 0.5)


def _median(verdicts: Sequence[Verdict]) -> Verdict:
    first = verdicts[0]
    if isinstance(first, Rating):
        return first.model_copy(update={"value": float(median(verdict.value for verdict in verdicts))})
    preferences = [verdict for verdict in verdicts if isinstance(verdict, Preference)]
    ordered = sorted(preferences, key=lambda verdict: (2 * verdict.value - 1) * verdict.strength)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    strong = low.strength == high.strength == 2 and outcome_of(low) == outcome_of(high)
    return Preference(value=(low.value + high.value) / 2, strength=2 if strong else 1)


def _failed(row: Judgment, verdicts: int, jury: Jury) -> Judgment:
    message = f"{verdicts} of {len(jury.members)} judges gave a verdict; more than half must"
    return _as_jury(row, jury, error=Failure(reason="missing", message=message))


def _as_jury(row: Judgment, jury: Jury, *, verdict: Verdict | None = None, error: Failure | None = None) -> Judgment:
    return Judgment(
        prompt_id=row.prompt_id,
        index=row.index,
        model=row.model,
        baseline=row.baseline,
        judge=jury.label,
        template_sha=row.template_sha,
        answer_sha=row.answer_sha,
        order=row.order,
        turn=row.turn,
        repeat=row.repeat,
        verdict=verdict,
        error=error,
    )
