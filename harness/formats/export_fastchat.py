"""A run of MT-Bench as FastChat's files: `model_answer/NAME.jsonl` and `model_judgment/JUDGE_single.jsonl`, of its
pairwise mode `JUDGE_pair.jsonl`.

Rows as gen_api_answer.py and gen_judgment.py write them. A verdict that is not there has score -1, which
show_result.py leaves out; an answer that is not there is `$ERROR$`, and has no judgment.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Answer, JudgeTask, Judgment, Order, Preference, Prompt, Rating
from ..suites.mt_bench_games import pair_template_name
from .export_rows import BROKEN, FinishedRun, Line, asked, json_lines, question_id, said, slug

WINNERS = {1.0: "model_1", 0.0: "model_2", 0.5: "tie"}
"""Of a game, by the candidate's points: gen_judgment.py --mode pairwise-baseline has the candidate as model_1."""
GAMES: tuple[Order, Order] = ("ba", "ab")
"""Game 1 shows model_1 first, game 2 the baseline."""
NO_WINNER = "error"  # common.py play_a_match_pair
UNRATED = -1  # common.py run_judge_single


def export(run: FinishedRun) -> dict[str, str]:
    """Path below the output folder -> text."""
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
        "user_prompt": asked(task),
        "judgment": said(row),
        "score": row.verdict.value if isinstance(row.verdict, Rating) else UNRATED,
        "turn": task.turn,
        "tstamp": None,
    }


# ------------------------------------------------------------------------------------------------------------- pairs


def export_pairs(run: FinishedRun) -> dict[str, str]:
    """As `export`; the judge's prompts are left out, as the baseline's answers are not in a run's folder."""
    return {
        f"model_answer/{slug(run.card.model)}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{slug(run.card.judge)}_pair.jsonl": json_lines(_pairs(run)),
    }


def _pairs(run: FinishedRun) -> Iterator[Line]:
    """A row a turn, draw and repeat."""
    prompts = {prompt.id: prompt for prompt in run.suite.prompts()}
    games: dict[tuple[str, int, int, int], dict[Order | None, Judgment]] = {}
    for row in run.judgments:
        games.setdefault((row.prompt_id, row.turn or 1, row.index, row.repeat), {})[row.order] = row
    places = {name: place for place, name in enumerate(prompts)}
    for (name, turn, _, _), orders in sorted(games.items(), key=lambda item: (places[item[0][0]], *item[0][1:])):
        first, second = (orders.get(order) for order in GAMES)
        one = first or second
        yield {
            "question_id": question_id(prompts[name]),
            "model_1": run.card.model,
            "model_2": (one.baseline if one else None) or str(run.card.protocol.get("baseline", "baseline")),
            "g1_winner": _winner(first),
            "g2_winner": _winner(second),
            "judge": [run.card.judge, pair_template_name(prompts[name], turn)],
            "g1_user_prompt": None,
            "g1_judgment": said(first) if first else BROKEN,
            "g2_user_prompt": None,
            "g2_judgment": said(second) if second else BROKEN,
            "turn": turn,
            "tstamp": None,
        }


def _winner(game: Judgment | None) -> str:
    points = game.verdict.value if game is not None and isinstance(game.verdict, Preference) else None
    return NO_WINNER if points is None else WINNERS[points]
