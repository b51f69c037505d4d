"""Runs small enough to work out by hand, written as folders with cards: what compare and gate read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from harness.records import Answer, Judging, Judgment, Order, Preference, Prompt, Score, ScoreCard
from harness.records.facts import facts_of
from harness.records.protocols import RunRows
from harness.stats.paired import ratio_estimate
from harness.store import RunStore, run_dir
from harness.suites.scoring import question_sums

ORDERS: tuple[Order, Order] = ("ab", "ba")
PROTOCOL: dict[str, JsonValue] = {"suite": "arena_hard", "suite_version": "toy-1", "judge": "toy", "data": "d1"}


def games(
    values: Sequence[tuple[float, float]], model: str, strength: int = 1, strength_of: Mapping[int, int] | None = None
) -> tuple[Judgment, ...]:
    """Two games a question (q0, q1, …): the candidate's preference in each order."""
    return tuple(
        Judgment(
            prompt_id=f"q{place}",
            model=model,
            baseline="base",
            judge="toy",
            template_sha="t",
            answer_sha=answer_of(f"q{place}", model).sha,
            order=order,
            verdict=Preference(value=value, strength=(strength_of or {}).get(place, strength)),
        )
        for place, pair in enumerate(values)
        for order, value in zip(ORDERS, pair, strict=True)
    )


def answer_of(prompt_id: str, model: str, *, long: bool = False) -> Answer:
    return Answer(
        prompt_id=prompt_id, model=model, turns=("x" * (20 if long else 10),), finish=("length" if long else "stop",)
    )


def toy_run(
    model: str,
    values: Sequence[tuple[float, float]],
    *,
    protocol: Mapping[str, JsonValue] = PROTOCOL,
    unscored: int = 0,
    unjudged: int = 0,
    truncated: int = 0,
    judging: Judging | None = None,
    strength_of: Mapping[int, int] | None = None,
) -> RunRows:
    """A run of `arena_hard` (toy-1), scored by its own rule."""
    answers = tuple(answer_of(f"q{place}", model) for place in range(len(values)))
    judgments = games(values, model, strength_of=strength_of)
    sums = question_sums(facts_of("arena_hard").rules[0], answers, judgments)
    estimate = ratio_estimate(sums.above, sums.below, scale=100.0)
    score = Score(value=sums.value, se=None if estimate is None else estimate.se, n=len(judgments), unscored=unscored)
    card = ScoreCard(
        suite="arena_hard",
        suite_version="toy-1",
        model=model,
        judge="toy",
        headline="arena_hard",
        complete=True,
        protocol=dict(protocol),
        sampling={},
        scores={"arena_hard": score},
        counts={
            "answers": len(answers),
            "truncated": truncated,
            "judgments": len(judgments),
            "unjudged": {"parse": unjudged} if unjudged else {},
        },
        provenance={"run_id": f"id-{model}"},
        judging=judging,
    )
    return RunRows(model, card, answers, judgments)


def prompts_of(count: int) -> list[Prompt]:
    """Categories even and odd."""
    return [Prompt(id=f"q{place}", turns=("?",), category="odd" if place % 2 else "even") for place in range(count)]


def write_run(results: Path, run: RunRows, run_id: str | None = None) -> Path:
    """The run as a folder under `results`."""
    card, name = run.card, run_id or f"id-{run.card.model}"
    folder = run_dir(results, model=card.model, suite=card.suite, version="toy-1", run_id=name)
    store = RunStore(folder).open({"model": run.card.model})
    for answer in run.answers:
        store.answers.append(answer)
    for judgment in run.judgments:
        store.judgments.append(judgment)
    store.write_card(run.card)
    store.close()
    return folder


WIN, LOSS, TIE = (1.0, 1.0), (0.0, 0.0), (0.5, 0.5)


def mixed(wins: int, losses: int, ties: int = 0) -> list[tuple[float, float]]:
    return [WIN] * wins + [TIE] * ties + [LOSS] * losses
