"""Load your own comparisons, some with votes of people, to be judged with MT-Bench's pairwise prompts.

They are in `own/*.jsonl` of the data folder. They make a correction possible: the judge decides all comparisons, people
some of them.

A row: {"question": TEXT or [TURN, TURN], "candidate": {"model", "answer": TEXT or [TURN, TURN]}, "baseline": (same),
"votes": ["candidate" | "baseline" | "tie", …], "id": optional}. There is no retired judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from ...records import Answer, JudgeTask, Prompt, digest
from ...records.errors import DataError
from ...records.protocols import SuiteOptions
from ..recorded import CalibrationSet, DataFolder, Item, RecordedComparison, RecordedRating
from .suite import pair_tasks, pair_templates

SUITE = "own"
POINTS = {"candidate": 1.0, "tie": 0.5, "baseline": 0.0}
MOST_TURNS = 2  # the pairwise prompts have room for two


def load(folder: DataFolder, options: SuiteOptions) -> CalibrationSet:
    """Return the comparisons of the folder. Raise DataError with file and row number if a row has another form."""
    templates = pair_templates(options)
    comparisons = []
    for file in folder.matching(f"{SUITE}/*.jsonl*"):
        for number, row in enumerate(file.rows, start=1):
            try:
                comparisons.append(_comparison(row, f"{file.name}:{number}"))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{file.name}, row {number} is not a comparison ({error}): it needs question, candidate "
                    "and baseline, the latter two with model and answer"
                ) from None

    def tasks(item: Item) -> Sequence[JudgeTask]:
        if isinstance(item, RecordedRating) or item.answers is None:
            return []
        return pair_tasks(item.prompt, *item.answers, len(item.prompt.turns), templates)

    return CalibrationSet(
        suite=SUITE,
        retired="none",
        rule="same_or_tie",
        comparisons=tuple(comparisons),
        tasks=tasks,
        files=dict(folder.files),
    )


def _comparison(row: Mapping[str, JsonValue], source: str) -> RecordedComparison:
    question = _turns(row["question"])
    if not all(question):  # an answer may be empty: the model failed to answer, which people and judges can see
        raise ValueError("an empty question")
    name = str(row.get("id") or source)
    prompt = Prompt(id=digest(list(question))[:16], turns=question, category=SUITE)  # equal questions form one cluster
    candidate, baseline = (_answer(row[side], prompt) for side in ("candidate", "baseline"))
    votes = row.get("votes", [])
    if not isinstance(votes, list) or not all(vote in POINTS for vote in votes):
        raise ValueError(f"votes are {votes!r}, expected any of {', '.join(POINTS)}")
    return RecordedComparison(
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
        raise TypeError("candidate and baseline must be objects with model and answer")
    turns = _turns(side["answer"])
    if len(turns) != len(prompt.turns):
        raise ValueError(f"{len(turns)} answers to {len(prompt.turns)} turns")
    return Answer(prompt_id=prompt.id, model=str(side["model"]), turns=turns, finish=tuple("stop" for _ in turns))


def _turns(text: JsonValue) -> tuple[str, ...]:
    turns = tuple(str(turn) for turn in text) if isinstance(text, list) else (str(text),)
    if not 1 <= len(turns) <= MOST_TURNS:
        raise ValueError(f"{len(turns)} turns, expected 1 or {MOST_TURNS}")
    return turns
