"""MT-Bench's recorded judgments: expert votes, GPT-4's pairwise verdicts, GPT-4's ratings, and the answers they are on.

Votes and verdicts: lmsys/mt_bench_human_judgments (Zheng et al. 2023, CC-BY-4.0). Only experts' votes count as
people's, as in FastChat's compute_agreement; authors' are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ..errors import DataError
from ..formats.fastchat_rows import FAILED, question_of
from ..protocols import SuiteOptions
from ..records import Answer, JudgeTask, Prompt
from ..suites.editions import pinned
from ..suites.mt_bench import MtBench, load_official
from ..suites.mt_bench_games import pair_tasks, pair_templates
from .data import DataFolder, stored_answer
from .items import CalibrationSet, Comparison, Item, Rated

SUITE = "mt_bench"
RETIRED = "gpt-4"
POINTS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (inconsistent)": 0.5}
INCONSISTENT = "tie (inconsistent)"
Place = tuple[str, int, str, str]
"""Question, turn, and the two models in alphabetical order; the first is the candidate."""


def load(folder: DataFolder, options: SuiteOptions) -> CalibrationSet:
    """Raises DataError where votes or verdicts are missing; without the answers' texts only `recorded` can be asked."""
    data = load_official(options)
    prompts = {prompt.id: prompt for prompt in data.prompts}
    suite, templates = MtBench(data), pair_templates(options)
    answers = _answers(folder)

    def tasks(item: Item) -> Sequence[JudgeTask]:
        if isinstance(item, Rated):
            found = suite.tasks(item.prompt, item.answer) if item.answer is not None else ()
            return [task for task in found if task.turn == item.turn]
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
    """(model, question) -> its two turns, of every model whose answers are at hand."""
    found = {}
    for file in folder.some(f"{SUITE}/model_answer/official*"):
        model = file.name.removesuffix(".jsonl")
        for row in file.rows:
            match row:
                case {"question_id": question, "choices": [{"turns": [str(first), str(second)]}, *_]}:
                    answer = stored_answer(model, str(question), first, second)
                    if answer is not None:
                        found[model, str(question)] = answer
    return found


def _comparisons(
    folder: DataFolder, prompts: Mapping[str, Prompt], answers: Mapping[tuple[str, str], Answer]
) -> tuple[Comparison, ...]:
    votes: dict[Place, list[float]] = defaultdict(list)
    for row in folder.rows(f"{SUITE}/human/human.jsonl"):
        if str(row["judge"]).startswith("expert"):
            place, points, _ = _vote(row)
            votes[place].append(points)
    verdicts = {}
    for row in folder.rows(f"{SUITE}/human/gpt4_pair.jsonl"):
        place, points, winner = _vote(row)
        verdicts[place] = (points, winner != INCONSISTENT)
    return tuple(
        _comparison(place, votes.get(place, ()), verdicts.get(place), prompts, answers)
        for place in sorted(verdicts.keys() | votes.keys())
    )


def _vote(row: Mapping[str, object]) -> tuple[Place, float, str]:
    """Where a vote belongs, and its points for the alphabetically first model."""
    winner, first, second = str(row["winner"]), str(row["model_a"]), str(row["model_b"])
    if winner not in POINTS:
        raise DataError(f"a vote on question {row['question_id']} says {winner!r}; expected {', '.join(POINTS)}")
    turn, points = int(str(row["turn"])), POINTS[winner]
    if first < second:
        return (str(row["question_id"]), turn, first, second), points, winner
    return (str(row["question_id"]), turn, second, first), 1.0 - points, winner


def _comparison(
    place: Place,
    votes: Sequence[float],
    verdict: tuple[float, bool] | None,
    prompts: Mapping[str, Prompt],
    answers: Mapping[tuple[str, str], Answer],
) -> Comparison:
    question, turn, candidate, baseline = place
    texts = answers.get((candidate, question)), answers.get((baseline, question))
    return Comparison(
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
) -> tuple[Rated, ...]:
    if folder.find(f"{SUITE}/official_scores.jsonl") is None:
        return ()
    found = []
    for row in folder.rows(f"{SUITE}/official_scores.jsonl"):
        model, question, turn = str(row["model"]), question_of({"question_id": str(row["question_id"])}), row["turn"]
        score = float(str(row["score"]))
        found.append(
            Rated(
                id=f"{SUITE}/{question}/turn{turn}/{model}",
                suite=SUITE,
                prompt=prompts[question],
                model=model,
                turn=int(str(turn)),
                recorded=None if score == FAILED else score,
                answer=answers.get((model, question)),
            )
        )
    return tuple(found)


def _board(folder: DataFolder) -> dict[str, float]:
    """Model -> mean recorded rating: equal to the printed board (tests/cli/test_score_fastchat.py)."""
    if folder.find(f"{SUITE}/official_scores.jsonl") is None:
        return {}
    scores: dict[str, list[float]] = defaultdict(list)
    for row in folder.rows(f"{SUITE}/official_scores.jsonl"):
        score = float(str(row["score"]))
        if score != FAILED:
            scores[str(row["model"])].append(score)
    return {model: sum(some) / len(some) for model, some in scores.items()}
