"""Load Arena-Hard v0.1's recorded judgments: gpt-4-1106-preview's official verdicts, if answers are available."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...records import Answer, JudgeTask
from ...records.protocols import SuiteOptions
from ..files import pinned
from ..recorded import CalibrationSet, DataFolder, Item, RecordedComparison, RecordedRating, combined, stored_answer
from .rows import ArenaQuestion, read_questions
from .suite import V01_FILES, ArenaHard, load_v01

SUITE = "arena_hard"
RETIRED = "gpt-4-1106-preview"


def load(folder: DataFolder, options: SuiteOptions) -> CalibrationSet:
    """Read `official_verdicts*`, the texts from `model_answer*` and the baseline's texts from the pinned file."""
    data = load_v01(options)
    suite = ArenaHard(data)
    prompts = {prompt.id: prompt for prompt in data.prompts}
    answers = _answers(folder)
    comparisons = []
    for question in read_questions(folder.matching(f"{SUITE}/official_verdicts*"), strict=False):
        prompt, baseline = prompts.get(question.id), data.baseline.get(question.id)
        if prompt is None or baseline is None:
            continue
        texts = answers.get((question.model, question.id))
        games = _games(question)
        comparisons.append(
            RecordedComparison(
                id=f"{SUITE}/{question.id}/{question.model}",
                suite=SUITE,
                prompt=prompt,
                candidate=question.model,
                baseline=baseline.model,
                recorded=combined(*games, "mean") if games else None,
                recorded_games=games,
                recorded_consistent=games[0] == games[1] if games else None,
                answers=(texts, baseline) if texts else None,
            )
        )

    def tasks(item: Item) -> Sequence[JudgeTask]:
        return (
            []
            if isinstance(item, RecordedRating) or item.answers is None
            else suite.tasks(item.prompt, item.answers[0])
        )

    return CalibrationSet(
        suite=SUITE,
        retired=RETIRED,
        rule="mean",
        comparisons=tuple(comparisons),
        tasks=tasks,
        board=_board(folder),
        board_name="Arena-Hard v0.1 leaderboard, the latest of published.json",
        files={**folder.files, **pinned(V01_FILES)},
    )


def _answers(folder: DataFolder) -> dict[tuple[str, str], Answer]:
    answers = {}
    for file in folder.matching(f"{SUITE}/model_answer*"):
        for row in file.rows:
            match row:
                case {
                    "question_id": str(question),
                    "model_id": str(model),
                    "choices": [{"turns": [{"content": str(text)}, *_]}, *_],
                }:
                    answer = stored_answer(model, question, text)
                    if answer is not None:
                        answers[model, question] = answer
    return answers


def _games(question: ArenaQuestion) -> tuple[float, float] | None:
    """Return the candidate's points when shown second, then when shown first."""
    points = [game.points for game in question.games]
    if len(points) != 2 or points[0] is None or points[1] is None:
        return None
    return points[0], points[1]


def _board(folder: DataFolder) -> dict[str, float]:
    """Return model -> published score, percent."""
    path = folder.find(f"{SUITE}/published.json")
    if path is None:
        return {}
    boards = json.loads(path.read_text("utf-8"))["v0.1"]
    return {row["model"]: float(row["score"]) for row in boards[max(boards)]["rows"]}
