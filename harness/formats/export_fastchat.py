"""A run of MT-Bench as FastChat's files: `model_answer/NAME.jsonl` and `model_judgment/JUDGE_single.jsonl`.

Rows as gen_api_answer.py and gen_judgment.py write them. A verdict that is not there has score -1, which
show_result.py leaves out; an answer that is not there is `$ERROR$`, and has no judgment.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Answer, JudgeTask, Judgment, Prompt, Rating
from .export_rows import BROKEN, FinishedRun, Line, asked, json_lines, question_id, said, slug

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
