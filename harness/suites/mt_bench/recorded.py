"""Load MT-Bench's recorded judgments: expert votes, GPT-4's verdicts and ratings, and the judged answers.

Votes and verdicts: lmsys/mt_bench_human_judgments (Zheng et al. 2023, CC-BY-4.0). Only experts' votes count, as in
FastChat's compute_agreement; the authors' own votes are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ...records import Answer, JudgeTask, Prompt
from ...records.errors import DataError
from ...records.protocols import SuiteOptions
from ..files import pinned
from ..recorded import CalibrationSet, DataFolder, Item, RecordedComparison, RecordedRating, stored_answer
from .rows import FAILED, question_of
from .suite import MtBench, load_official, pair_tasks, pair_templates

SUITE = "mt_bench"
RETIRED = "gpt-4"
POINTS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (inconsistent)": 0.5}
INCONSISTENT = "tie (inconsistent)"
ComparisonKey = tuple[str, int, str, str]
"""Question, turn, and the two models in alphabetical order; the first is the candidate."""


def load(folder: DataFolder, options: SuiteOptions) -> CalibrationSet:
    """Raise DataError if votes or verdicts are missing. Without the answers' texts only the judge `recorded` works."""
    data = load_official(options)
    prompts = {prompt.id: prompt for prompt in data.prompts}
    suite, templates = MtBench(data), pair_templates(options)
    answers = _answers(folder)

    def tasks(item: Item) -> Sequence[JudgeTask]:
        if isinstance(item, RecordedRating):
            tasks_of_answer = suite.tasks(item.prompt, item.answer) if item.answer is not None else ()
            return [task for task in tasks_of_answer if task.turn == item.turn]
        if item.answers is None or item.turn is None:
            return []
        candidate, baseline = item.answers
        return pair_tasks(item.prompt, candidate, baseline, item.turn, templates)

    return CalibrationSet(
        suite=SUITE,
        retired=RETIRED,
        rule="same_or_tie",
        comparisons=_comparisons(folder, prompts, answers),
        tasks=tasks,
        ratings=_ratings(folder, prompts, answers),
        voted_only=True,
        board=_board(folder),
        board_name="mean of the recorded GPT-4 ratings, as the leaderboard of 2023 has them",
        files={**folder.files, **pinned(["mt_bench/questions", "mt_bench/judge_prompts"])},
    )


def _answers(folder: DataFolder) -> dict[tuple[str, str], Answer]:
    answers = {}
    for file in folder.matching(f"{SUITE}/model_answer/official*"):
        model = file.name.removesuffix(".jsonl")
        for row in file.rows:
            match row:
                case {"question_id": question, "choices": [{"turns": [str(first), str(second)]}, *_]}:
                    answer = stored_answer(model, str(question), first, second)
                    if answer is not None:
                        answers[model, str(question)] = answer
    return answers


def _comparisons(
    folder: DataFolder, prompts: Mapping[str, Prompt], answers: Mapping[tuple[str, str], Answer]
) -> tuple[RecordedComparison, ...]:
    votes: dict[ComparisonKey, list[float]] = defaultdict(list)
    for row in folder.rows(f"{SUITE}/human/human.jsonl"):
        if str(row["judge"]).startswith("expert"):
            key, points, _ = _vote(row)
            votes[key].append(points)
    verdicts = {}
    for row in folder.rows(f"{SUITE}/human/gpt4_pair.jsonl"):
        key, points, winner = _vote(row)
        verdicts[key] = (points, winner != INCONSISTENT)
    return tuple(
        _comparison(key, votes.get(key, ()), verdicts.get(key), prompts, answers)
        for key in sorted(verdicts.keys() | votes.keys())
    )


def _vote(row: Mapping[str, object]) -> tuple[ComparisonKey, float, str]:
    """Return a vote's comparison, its points for the alphabetically first model, and its winner field."""
    winner, first, second = str(row["winner"]), str(row["model_a"]), str(row["model_b"])
    if winner not in POINTS:
        raise DataError(f"a vote on question {row['question_id']} says {winner!r}; expected {', '.join(POINTS)}")
    turn, points = int(str(row["turn"])), POINTS[winner]
    # people's votes and GPT-4's verdicts may name a pair in either direction
    if first < second:
        return (str(row["question_id"]), turn, first, second), points, winner
    return (str(row["question_id"]), turn, second, first), 1.0 - points, winner


def _comparison(
    key: ComparisonKey,
    votes: Sequence[float],
    verdict: tuple[float, bool] | None,
    prompts: Mapping[str, Prompt],
    answers: Mapping[tuple[str, str], Answer],
) -> RecordedComparison:
    question, turn, candidate, baseline = key
    texts = answers.get((candidate, question)), answers.get((baseline, question))
    return RecordedComparison(
        id=f"{SUITE}/{question}/turn{turn}/{candidate}/{baseline}",
        suite=SUITE,
        prompt=prompts[question],
        candidate=candidate,
        baseline=baseline,
        turn=turn,
        people=tuple(votes),
        recorded=verdict[0] if verdict else None,
        recorded_consistent=verdict[1] if verdict else None,
        answers=(texts[0], texts[1]) if texts[0] and texts[1] else None,
    )


def _ratings(
    folder: DataFolder, prompts: Mapping[str, Prompt], answers: Mapping[tuple[str, str], Answer]
) -> tuple[RecordedRating, ...]:
    if folder.find(f"{SUITE}/official_scores.jsonl") is None:
        return ()
    ratings = []
    for row in folder.rows(f"{SUITE}/official_scores.jsonl"):
        model, question, turn = str(row["model"]), question_of({"question_id": str(row["question_id"])}), row["turn"]
        score = float(str(row["score"]))
        ratings.append(
            RecordedRating(
                id=f"{SUITE}/{question}/turn{turn}/{model}",
                suite=SUITE,
                prompt=prompts[question],
                model=model,
                turn=int(str(turn)),
                recorded=None if score == FAILED else score,
                answer=answers.get((model, question)),
            )
        )
    return tuple(ratings)


def _board(folder: DataFolder) -> dict[str, float]:
    """Return model -> mean recorded rating, which equals the printed board (tests/cli/test_score_fastchat.py)."""
    if folder.find(f"{SUITE}/official_scores.jsonl") is None:
        return {}
    scores: dict[str, list[float]] = defaultdict(list)
    for row in folder.rows(f"{SUITE}/official_scores.jsonl"):
        score = float(str(row["score"]))
        if score != FAILED:
            scores[str(row["model"])].append(score)
    return {model: sum(ratings) / len(ratings) for model, ratings in scores.items()}
