"""A judge's part of the protocol, and how it differs from the benchmark's official judge. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from ..protocols import Checking, Identified, Judge, Suite
from ..records import Answer, JudgeSpec, JuryRule, Prompt


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
