"""State who judged: a judge's part of the protocol, a jury's verdicts as one, and reading stored protocols. Pure.

>>> jury = Jury(("gpt-4.1", "qwen"), "majority")
>>> jury.label
'gpt-4.1+qwen'
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

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
from ..records.asking import digest
from ..records.protocols import Checking, Identified, Judge, Suite

Identity = dict[str, JsonValue]
"""A judge's part of the protocol: name, kind, model, params, and what the judge itself adds (digests, settings)."""


@dataclass(frozen=True)
class Jury:
    """The judges, and the rule that combines their verdicts."""

    members: tuple[str, ...]
    rule: JuryRule

    @classmethod
    def of(cls, judges: Sequence[JudgeSpec], rule: JuryRule) -> Self | None:
        """Return the jury of these judges, or None if there are fewer than two."""
        return cls(tuple(judge.name for judge in judges), rule) if len(judges) > 1 else None

    @property
    def label(self) -> str:
        return "+".join(self.members)


def turns(prompts: Sequence[Prompt], members: Sequence[str]) -> dict[str, str]:
    """Return prompt id -> the member of a cyclic jury that judges it.

    Members take turns over each category's prompts, which are ordered by a digest of their ids: nothing about the
    answers matters, so each model's answer to a prompt has the same judge, and members differ by one prompt at most.
    """
    ordered = sorted(prompts, key=lambda prompt: (prompt.category, digest(prompt.id)))
    return {prompt.id: members[position % len(members)] for position, prompt in enumerate(ordered)}


def judge_identities(judges: Sequence[Judge]) -> dict[str, Identity]:
    """Return judge name -> its part of the protocol. Raise ConfigError if a judge's own files are missing."""
    return {judge.spec.name: _identity(judge) for judge in judges}


def _identity(judge: Judge) -> Identity:
    spec = judge.spec
    identity: Identity = {"name": spec.name, "kind": spec.kind, "model": spec.model, "params": spec.params}
    return identity | (judge.identity() if isinstance(judge, Identified) else {})


def judge_protocol(identities: Mapping[str, Identity], rule: JuryRule) -> dict[str, JsonValue]:
    """Return the protocol's `judge`: one judge's identity, or a jury's members and the rule that combines them."""
    members: list[JsonValue] = [*identities.values()]
    if len(identities) == 1:
        return next(iter(identities.values()))
    return {"name": "+".join(identities), "kind": "jury", "rule": rule, "members": members}


def judge_label(judges: Sequence[JudgeSpec]) -> str:
    """Return the name of the judge on a card: its own, or `A+B+C` for a jury."""
    return "+".join(judge.name for judge in judges)


@dataclass(frozen=True)
class CardProtocol:
    """What a stored protocol states, typed. A plan has the same as fields, so only cards on disk are read this way."""

    judges: dict[str, Identity]
    """Judge -> its part of the protocol, of one judge or of a jury's members; empty if its settings are unknown."""
    jury: Jury | None
    """None: a single judge."""
    auditor: str | None
    """The judge of some questions, on whose scale the scores are; None: there was no audit."""
    references: str | None
    """Which reference answers were used, of a suite with several sets; None for the others."""
    limit: tuple[int, int] | None
    """Number of prompts drawn, and the seed of the draw; None: all prompts."""

    @classmethod
    def read(cls, protocol: Mapping[str, JsonValue]) -> Self:
        """Return what a card's or a manifest's protocol states. Unknown keys and forms are ignored."""
        references = protocol.get("references")
        limit: tuple[int, int] | None = None
        match protocol.get("limit"):
            case {"n": int(n), "seed": int(seed)}:
                limit = n, seed
        jury: Jury | None = None
        members: list[JsonValue] = [protocol.get("judge")]
        match protocol.get("judge"):
            case {"kind": "jury", "rule": "mean" | "majority" | "median" | "cyclic" as rule, "members": [*members]}:
                jury = Jury(tuple(str(identity["name"]) for identity in members if isinstance(identity, dict)), rule)
        auditor: str | None = None
        match protocol.get("audit"):
            case {"judge": {"name": str(auditor)}}:
                pass
        identities = [identity for identity in members if isinstance(identity, dict)]
        if not all(isinstance(identity.get("params"), dict) for identity in identities):
            identities = []  # an imported run, whose files do not state how the judge was asked
        return cls(
            judges={str(identity["name"]): identity for identity in identities},
            jury=jury,
            auditor=auditor,
            references=references if isinstance(references, str) else None,
            limit=limit,
        )


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
    identity = _identity(judge)
    if spec.kind not in ("llm", "alpaca_eval") or spec.model not in official:
        label = identity["model"] if spec.kind in ("llm", "alpaca_eval") else f"{spec.name} ({spec.kind})"
        differences.append(f"judged by {label} instead of the official {' or '.join(official)}")
    # a judge without log-probabilities is refused by the suites that read them, and for the others nothing is different
    params = {name: value for name, value in spec.params.items() if value is not None or "logprobs" not in name}
    if params:
        changed = (f"{name} left out" if value is None else f"{name} = {value!r}" for name, value in params.items())
        differences.append(f"judge {spec.name}: {', '.join(changed)}, instead of the official request parameters")
    stated_templates = templates.values() if isinstance(templates, dict) else ()
    if "template" in identity and identity["template"] not in stated_templates:
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


# A question is one answer to be judged: its turn, its order, its repeat. Verdicts from more than half of the members
# are needed, else the question is unscored: a failure is not a verdict, and half of a jury of two is not enough. From
# the verdicts there are:
# - mean: all of them reach the scorer, which averages within a slot as it does for repeats. Arena-Hard's weights count.
# - majority: for preferences, the outcome (win, draw, loss) that more than half give, as 1, 0.5 or 0; strong if more
#   than half of those who give it call it strong; a draw without a majority. For ratings, the one that more than half
#   give; the median without a majority.
# - median: for preferences, sorted by side and strength, the middle one; for an even number the mean of the middle two,
#   strong if both are strong and on one side. For ratings, the median.
# A cyclic jury has nothing to combine: each question was put to one member (`turns`), whose verdict counts.
Question = tuple[str, int, int | None, Order | None, int]
"""Prompt id, draw, turn, order, repeat."""


@dataclass(frozen=True)
class Combined:
    """A jury's combined verdicts."""

    jury: Jury
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
    scored_rows: list[Judgment] = []
    sizes: Counter[str] = Counter()
    for rows in by_question(judgments).values():
        verdicts = [row.verdict for row in rows if row.verdict is not None]
        if jury.rule == "cyclic":
            sizes["full" if verdicts else "short"] += 1
            scored_rows += rows
            continue
        if 2 * len(verdicts) <= len(jury.members):
            sizes["short"] += 1
            scored_rows.append(_failed(rows[0], len(verdicts), jury))
            continue
        sizes["full" if len(verdicts) == len(jury.members) else "part"] += 1
        if jury.rule == "mean":
            scored_rows += [row for row in rows if row.verdict is not None]
            continue
        sizes["undecided"] += jury.rule == "majority" and majority(verdicts) is None
        scored_rows.append(_as_jury(rows[0], jury, verdict=agreed(verdicts, jury.rule)))
    counts = JuryCounts(
        questions=sizes["full"] + sizes["part"] + sizes["short"],
        full=sizes["full"],
        part=sizes["part"],
        short=sizes["short"],
        undecided=sizes["undecided"],
    )
    return Combined(jury, tuple(scored_rows), counts)


def scored(judgments: Sequence[Judgment], protocol: Mapping[str, JsonValue]) -> tuple[Judgment, ...]:
    """Return a stored run's judgments as its scorer was given them. `protocol` is its card's.

    Those of an audit are left out: `audit_rows` has them.
    """
    stated = CardProtocol.read(protocol)
    judgments = [row for row in judgments if row.judge != stated.auditor]
    return tuple(judgments) if stated.jury is None else combine(judgments, stated.jury).judgments


def audit_rows(judgments: Sequence[Judgment], protocol: Mapping[str, JsonValue]) -> tuple[Judgment, ...] | None:
    """Return the judgments of a stored run's audit, or None if it had none."""
    auditor = CardProtocol.read(protocol).auditor
    return None if auditor is None else tuple(row for row in judgments if row.judge == auditor)


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
    """Return the verdict that more than half give, or None if there is none."""
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
        return first.model_copy(update={"value": float(median(verdict.value for verdict in verdicts)), "items": {}})
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
