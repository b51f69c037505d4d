"""Comparisons of one's own, some of them voted on by people: `own/*.jsonl` of the data folder, asked in MT-Bench's
pairwise words. What a correction is for: the judge decides all, people a part.

A row: {"question": TEXT or [TURN, TURN], "candidate": {"model", "answer": TEXT or [TURN, TURN]}, "baseline": likewise,
"votes": ["candidate" | "baseline" | "tie", …], "id": optional}. There is no retired judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from ..errors import DataError
from ..protocols import SuiteOptions
from ..records import Answer, JudgeTask, Prompt, digest
from ..suites.mt_bench_games import pair_tasks, pair_templates
from .data import DataFolder
from .items import CalibrationSet, Comparison, Item, Rated

SUITE = "own"
POINTS = {"candidate": 1.0, "tie": 0.5, "baseline": 0.0}
MOST_TURNS = 2  # what the pairwise prompts have places for


def load(folder: DataFolder, options: SuiteOptions) -> CalibrationSet:
    """Raises DataError for a row of another form, with its file and number."""
    templates = pair_templates(options)
    found = []
    for file in folder.some(f"{SUITE}/*.jsonl*"):
        for number, row in enumerate(file.rows, start=1):
            try:
                found.append(_comparison(row, f"{file.name}:{number}"))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file.name}, row {number} is no comparison ({error}); see docs/judges.md") from None

    def tasks(item: Item) -> Sequence[JudgeTask]:
        if isinstance(item, Rated) or item.answers is None:
            return []
        return pair_tasks(item.prompt, *item.answers, len(item.prompt.turns), templates)

    return CalibrationSet(
        suite=SUITE,
        retired="none",
        rule="same_or_tie",
        comparisons=tuple(found),
        tasks=tasks,
        files=dict(folder.files),
    )


def _comparison(row: Mapping[str, JsonValue], place: str) -> Comparison:
    question = _turns(row["question"])
    name = str(row.get("id") or place)
    prompt = Prompt(id=digest(list(question))[:16], turns=question, category=SUITE)  # equal questions are one cluster
    candidate, baseline = (_answer(row[side], prompt) for side in ("candidate", "baseline"))
    votes = row.get("votes", [])
    if not isinstance(votes, list) or not all(vote in POINTS for vote in votes):
        raise ValueError(f"votes are {votes!r}, expected any of {', '.join(POINTS)}")
    return Comparison(
        id=f"{SUITE}/{name}/{candidate.model}/{baseline.model}",
        suite=SUITE,
        prompt=prompt,
        candidate=candidate.model,
        baseline=baseline.model,
        people=tuple(POINTS[str(vote)] for vote in votes),
        answers=(candidate, baseline),
    )


def _answer(side: JsonValue, prompt: Prompt) -> Answer:
    if not isinstance(side, dict):
        raise TypeError("candidate and baseline are objects of model and answer")
    turns = _turns(side["answer"])
    if len(turns) != len(prompt.turns):
        raise ValueError(f"{len(turns)} answers to {len(prompt.turns)} turns")
    return Answer(prompt_id=prompt.id, model=str(side["model"]), turns=turns, finish=tuple("stop" for _ in turns))


def _turns(text: JsonValue) -> tuple[str, ...]:
    turns = tuple(str(turn) for turn in text) if isinstance(text, list) else (str(text),)
    if not 1 <= len(turns) <= MOST_TURNS or not all(turns):
        raise ValueError(f"{len(turns)} turns, expected 1 or {MOST_TURNS}, none empty")
    return turns
