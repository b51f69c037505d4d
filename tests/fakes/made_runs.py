"""Run folders of the pocket suites as a real run would leave them, made in a moment: answers and verdicts by luck."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from harness.records import Answer, JudgeTask, Judgment, Preference, Prompt, Rating, ScoreCard
from harness.records.protocols import Suite, SuiteOptions, load_plugin
from harness.store import dump_json, run_dir, write_atomic
from harness.store.runs import read_rows
from harness.suites.head_to_head import HeadToHead, PlaysGames

Say = Callable[[Prompt, random.Random], tuple[str, ...]]


def pocket(name: str) -> Suite:
    suite: Suite = load_plugin("suites", name)(SuiteOptions(edition="pocket"))
    return suite


def make_run(
    results: Path,
    model: str,
    suite: Suite,
    *,
    skill: float,
    say: Say | None = None,
    usage: dict[str, JsonValue] | None = None,
    fusion: dict[str, JsonValue] | None = None,
) -> Path:
    """The folder of a run whose model is right with probability `skill`; every 12th answer is truncated, every 30th
    reply carries an injection flag."""
    rng = random.Random(f"{model} {suite.name}")
    answers: list[Answer] = []
    judgments: list[Judgment] = []
    for place, prompt in enumerate(suite.prompts()):
        right = rng.random() < skill
        turns = say(prompt, rng) if say else said(prompt, rng, right=right)
        last = "length" if place % 12 == 11 else "stop"
        finish = tuple("stop" if turn < len(turns) - 1 else last for turn in range(len(turns)))
        answer = Answer.model_validate(
            {
                "prompt_id": prompt.id,
                "model": model,
                "turns": turns,
                "finish": finish,
                "completion_tokens": (9,) * len(turns),
            }
        )
        answers.append(answer)
        judgments += [judged(task, rng, right=right, place=place) for task in suite.tasks(prompt, answer)]
    return write_run(results, model, suite, answers, judgments, usage=usage, fusion=fusion)


def make_games(results: Path, model: str, opponent: str, suite: Suite, *, skill: float) -> Path:
    """The folder of direct games of two models that `make_run` made: the first is right with probability `skill`."""
    answers, other_answers = (
        read_rows(next(results.glob(f"runs/{name}/{suite.name}@*/*")))[0] for name in (model, opponent)
    )
    assert isinstance(suite, PlaysGames)
    games = HeadToHead(suite, opponent, other_answers)
    by_id = {prompt.id: prompt for prompt in suite.prompts()}
    rng = random.Random(f"{model} {opponent}")
    judgments = []
    for place, answer in enumerate(answers):
        right = rng.random() < skill
        judgments += [
            judged(task, rng, right=right, place=place) for task in games.tasks(by_id[answer.prompt_id], answer)
        ]
    return write_run(results, model, games, answers, judgments)


def said(prompt: Prompt, rng: random.Random, *, right: bool) -> tuple[str, ...]:
    gold = prompt.reference or tuple("?" for _ in prompt.turns)
    lead = rng.choice(("", "The answer is ", "I read it twice, and it must be "))
    return tuple(f"{lead}**{text}**" if right else f"{lead}{text[::-1]} or perhaps {text[:1]}" for text in gold)


def judged(task: JudgeTask, rng: random.Random, *, right: bool, place: int) -> Judgment:
    noisy = right if rng.random() < 0.85 else not right
    value = rng.choice((1.0, 1.0, 0.5)) if noisy else rng.choice((0.0, 0.0, 0.5))
    verdict = Preference(value=value) if task.baseline is not None else Rating(value=9 if noisy else 3)
    first = (value < 0.5) == (task.order == "ab")  # ab: the baseline is shown as A
    shown = "[[A=B]]" if value == 0.5 else "[[A>B]]" if first else "[[B>A]]"
    return Judgment(
        prompt_id=task.prompt.id,
        index=task.answer.index,
        model=task.answer.model,
        baseline=task.baseline.model if task.baseline else None,
        judge="reference",
        template_sha=task.template.sha,
        answer_sha=task.answer.sha,
        order=task.order,
        turn=task.turn,
        verdict=verdict,
        reply=f"One answer holds the expected words, the other does not. My final verdict is {shown}.",
        flags=("injection",) if place % 30 == 29 else (),
    )


def write_run(
    results: Path,
    model: str,
    suite: Suite,
    answers: Sequence[Answer],
    judgments: Sequence[Judgment],
    *,
    usage: dict[str, JsonValue] | None = None,
    fusion: dict[str, JsonValue] | None = None,
) -> Path:
    run_id = f"{random.Random(model + suite.name).getrandbits(48):012x}"
    slug = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in model)[:60]
    folder = run_dir(results, model=slug, suite=suite.name, version=suite.version, run_id=run_id)
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in answers))
    (folder / "judgments.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in judgments))
    found = suite.score(suite.prompts(), answers, judgments)
    card = ScoreCard(
        suite=suite.name,
        suite_version=suite.version,
        model=model,
        judge="reference",
        headline=suite.headline,
        complete=True,
        protocol={"suite": suite.name, "suite_version": suite.version, **suite.protocol()},
        sampling={},
        scores=found.scores,
        by_category=found.by_category,
        counts={"answers": len(answers), "truncated": sum(answer.truncated for answer in answers)},
        notes=found.notes,
        provenance={"run_id": run_id, **({"fusion": fusion} if fusion else {})},
        usage=usage or {},
    )
    write_atomic(folder / "card.json", dump_json(card.model_dump(mode="json")))
    return folder
