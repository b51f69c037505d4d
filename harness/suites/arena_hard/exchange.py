"""Export a run of Arena-Hard as `model_answer/NAME.jsonl` and `model_judgment/JUDGE/NAME.jsonl`.

v0.1 rows have the form of gen_answer.py and gen_judgment.py, v2.0 rows that of the later suite. A game without a
verdict keeps its position with score null, which the tools leave out. A missing answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from ...records import Answer, JudgeTask, Judgment, Order, Preference, Prompt
from ..exporting import BROKEN, FinishedRun, Line, json_lines, reply_text, slug, user_prompt_of

LABELS = {(1.0, 2): "A>>B", (1.0, 1): "A>B", (0.5, 1): "A=B", (0.0, 1): "B>A", (0.0, 2): "B>>A"}
"""(preference for the answer shown first, strength) -> label."""


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text, for v0.1."""
    name, judge = slug(run.card.model), slug(run.card.judge)
    return {
        f"model_answer/{name}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{judge}/{name}.jsonl": json_lines(_judgments(run)),
    }


def export_v2(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text, for v2.0: the same paths with v2.0's keys."""
    name, judge = slug(run.card.model), slug(run.card.judge)
    return {
        f"model_answer/{name}.jsonl": json_lines(_answers_v2(run)),
        f"model_judgment/{judge}/{name}.jsonl": json_lines(_judgments_v2(run)),
    }


def _first(run: FinishedRun) -> Iterator[tuple[Prompt, Answer]]:
    """Yield each prompt's first draw, because the tools support only one."""
    for prompt in run.prompts():
        yield prompt, run.answers_to(prompt)[0]


def _text(answer: Answer) -> str:
    return answer.turns[0] if answer.error is None else BROKEN


def _answers(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        turn: Line = {"content": _text(answer)}
        if answer.completion_tokens:
            turn["token_len"] = sum(answer.completion_tokens)  # by the served model's tokenizer, not cl100k_base
        yield {
            "question_id": prompt.id,
            "answer_id": f"{answer.sha}-{prompt.id}",
            "model_id": run.card.model,
            "choices": [{"index": 0, "turns": [turn]}],
            "tstamp": None,
        }


def _answers_v2(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        yield {
            "uid": prompt.id,
            "ans_id": f"{answer.sha}-{prompt.id}",
            "model": run.card.model,
            "messages": [
                {"role": "user", "content": prompt.turns[0]},
                {"role": "assistant", "content": {"answer": _text(answer)}},
            ],
            "tstamp": None,
            "metadata": {"token_len": sum(answer.completion_tokens)},
        }


def _judgments(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        games = run.judged(prompt, answer)
        if any(judgments for _, judgments in games):
            yield {
                "question_id": prompt.id,
                "model": run.card.model,
                "judge": run.card.judge,
                "games": [_game(task, judgments) for task, judgments in games],
            }


def _game(task: JudgeTask, judgments: list[Judgment]) -> Line:
    last = judgments[-1] if judgments else None
    return {
        "user_prompt": user_prompt_of(task),
        "judgment": reply_text(last) if last is not None else BROKEN,
        "score": _label(last, task.order),
    }


def _judgments_v2(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        games = run.judged(prompt, answer)
        if any(judgments for _, judgments in games):
            baseline = games[0][0].baseline
            yield {
                "uid": prompt.id,
                "category": prompt.category,
                "judge": run.card.judge,
                "model": run.card.model,
                "baseline": baseline.model if baseline is not None else None,
                "games": [_game_v2(task, judgments) for task, judgments in games],
            }


def _game_v2(task: JudgeTask, judgments: list[Judgment]) -> Line | None:
    """Return a game, or None without a reply, as v2.0's gen_judgment.py stores a failed call."""
    last = judgments[-1] if judgments else None
    if last is None or last.reply is None:
        return None
    prompt: list[JsonValue] = [{"role": "user", "content": user_prompt_of(task)}]
    if task.template.system is not None:
        prompt.insert(0, {"role": "system", "content": task.template.system})
    return {"score": _label(last, task.order), "judgment": {"answer": last.reply}, "prompt": prompt}


def _label(judgment: Judgment | None, order: Order | None) -> str | None:
    """Return the label as the judge saw the answers: A is the first."""
    verdict = judgment.verdict if judgment is not None else None
    if not isinstance(verdict, Preference):
        return None
    shown = verdict.value if order == "ba" else 1.0 - verdict.value
    return LABELS.get((shown, verdict.strength))
