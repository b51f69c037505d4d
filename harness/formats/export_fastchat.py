"""Export a run of MT-Bench as FastChat's files.

These are `model_answer/NAME.jsonl` and `model_judgment/JUDGE_single.jsonl`, in pairwise mode `JUDGE_pair.jsonl`, with
rows in the form of gen_api_answer.py and gen_judgment.py. A missing verdict has score -1, which show_result.py leaves
out. A missing answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Answer, JudgeTask, Judgment, Order, Preference, Prompt, Rating
from ..suites.mt_bench_games import pair_template_name
from .export_rows import BROKEN, FinishedRun, Line, json_lines, question_id, reply_text, slug, user_prompt_of

WINNERS = {1.0: "model_1", 0.0: "model_2", 0.5: "tie"}
"""Winner of a game by the candidate's points: in gen_judgment.py --mode pairwise-baseline the candidate is model_1."""
GAMES: tuple[Order, Order] = ("ba", "ab")
"""Game 1 shows model_1 first, game 2 the baseline."""
NO_WINNER = "error"  # common.py play_a_match_pair
UNRATED = -1  # common.py run_judge_single


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text."""
    return {
        f"model_answer/{slug(run.card.model)}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{slug(run.card.judge)}_single.jsonl": json_lines(_judgments(run)),
    }


def _answers(run: FinishedRun) -> Iterator[Line]:
    for prompt in run.prompts():
        answers = run.answers_to(prompt)
        yield {
            "question_id": question_id(prompt),
            "answer_id": f"{answers[0].sha}-{prompt.id}",
            "model_id": run.card.model,
            "choices": [{"index": answer.index, "turns": list(_turns(prompt, answer))} for answer in answers],
            "tstamp": None,
        }


def _turns(prompt: Prompt, answer: Answer) -> tuple[str, ...]:
    return answer.turns if answer.error is None else (BROKEN,) * len(prompt.turns)


def _judgments(run: FinishedRun) -> Iterator[Line]:
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            for task, judgments in run.judged(prompt, answer):
                yield from (_judgment(run, prompt, task, row) for row in judgments)


def _judgment(run: FinishedRun, prompt: Prompt, task: JudgeTask, row: Judgment) -> Line:
    return {
        "question_id": question_id(prompt),
        "model": run.card.model,
        "judge": [run.card.judge, task.template.name],
        "user_prompt": user_prompt_of(task),
        "judgment": reply_text(row),
        "score": row.verdict.value if isinstance(row.verdict, Rating) else UNRATED,
        "turn": task.turn,
        "tstamp": None,
    }


# ------------------------------------------------------------------------------------------------------------- pairs


def export_pairs(run: FinishedRun) -> dict[str, str]:
    """Return the same for pairs, without the judge's prompts, because the run's folder lacks the baseline's answers."""
    return {
        f"model_answer/{slug(run.card.model)}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{slug(run.card.judge)}_pair.jsonl": json_lines(_pairs(run)),
    }


def _pairs(run: FinishedRun) -> Iterator[Line]:
    """Yield one row per turn, draw and repeat."""
    prompts = {prompt.id: prompt for prompt in run.suite.prompts()}
    games: dict[tuple[str, int, int, int], dict[Order | None, Judgment]] = {}
    for row in run.judgments:
        games.setdefault((row.prompt_id, row.turn or 1, row.index, row.repeat), {})[row.order] = row
    positions = {name: position for position, name in enumerate(prompts)}
    for (name, turn, _, _), orders in sorted(games.items(), key=lambda item: (positions[item[0][0]], *item[0][1:])):
        first, second = (orders.get(order) for order in GAMES)
        game = first or second
        yield {
            "question_id": question_id(prompts[name]),
            "model_1": run.card.model,
            "model_2": (game.baseline if game else None) or str(run.card.protocol.get("baseline", "baseline")),
            "g1_winner": _winner(first),
            "g2_winner": _winner(second),
            "judge": [run.card.judge, pair_template_name(prompts[name], turn)],
            "g1_user_prompt": None,
            "g1_judgment": reply_text(first) if first else BROKEN,
            "g2_user_prompt": None,
            "g2_judgment": reply_text(second) if second else BROKEN,
            "turn": turn,
            "tstamp": None,
        }


def _winner(game: Judgment | None) -> str:
    points = game.verdict.value if game is not None and isinstance(game.verdict, Preference) else None
    return NO_WINNER if points is None else WINNERS[points]
