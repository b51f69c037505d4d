"""Export a run of MT-Bench as FastChat's files.

These are `model_answer/NAME.jsonl` and `model_judgment/JUDGE_single.jsonl`, in pairwise mode `JUDGE_pair.jsonl`, with
rows in the form of gen_api_answer.py and gen_judgment.py. A missing verdict has score -1, which show_result.py leaves
out. A missing answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ...records import Answer, Failure, JudgeTask, Judgment, Order, Preference, Prompt, Rating
from ...records.errors import ConfigError
from ..exporting import BROKEN, FinishedRun, Line, json_lines, question_id, reply_text, slug, user_prompt_of
from ..files import SourceFile
from ..importing import Imported, ImportRequest, answers_of, check_questions, only
from .rows import (
    FAILED_CALL,
    Reading,
    Row,
    is_pair,
    judge_name,
    judged_failure,
    question_of,
    read_answers,
    read_game,
    turn_of,
)
from .suite import pair_template_name

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


# ----------------------------------------------------------------------------------------------------
# Import FastChat's pair files as judgments of one model against one baseline, two games per turn. Each game is read
# by the rules of `harness score` (fastchat_rows.read_game), so that the card has the same numbers.


GAME_NUMBERS: tuple[Literal[1, 2], ...] = (1, 2)


def read_pairs(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and both games of each turn against one baseline; of several rows of one turn the last wins.

    Raise ConfigError if the files leave the model or its baseline open.
    """
    rows: list[Row] = [row for file in files for row in file.rows if is_pair(row)]
    if not rows:
        return Imported(answers_of(files, request), ())
    model = only("model", paired_models(files) - {request.baseline}, request.model)
    rows = [row for row in rows if model in _models(row)]
    baseline = _baseline(model, rows, request)
    rows = [row for row in rows if sorted(_models(row)) == sorted((model, baseline))]
    judge = only("judge", map(judge_name, rows), request.judge)
    rows = [row for row in rows if judge_name(row) == judge]
    check_questions(map(question_of, rows), request.prompts)
    last = {(question_of(row), turn_of(row)): row for row in rows}
    _check_sides(rows, len(last), model, baseline)
    answers = _answers_of_exactly(model, files, request)
    texts = read_answers(files)
    judgments = (
        _pair_judgment(row, game, (model, baseline, judge), request, answers, failed=judged_failure(row, texts))
        for row in last.values()
        for game in GAME_NUMBERS
    )
    return Imported(answers, tuple(judgments), baseline)


def paired_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model of a pair."""
    return {name for file in files for row in file.rows if is_pair(row) for name in _models(row)}


def _models(row: Row) -> tuple[str, str]:
    return str(row["model_1"]), str(row["model_2"])


def _baseline(model: str, rows: Sequence[Row], request: ImportRequest) -> str:
    """Return the other model of all rows, or the requested one."""
    met = sorted({second if first == model else first for first, second in map(_models, rows)})
    if request.baseline in met:
        return request.baseline or ""
    if request.baseline is None and len(met) == 1:
        return met[0]
    shown = ", ".join(met[:10])
    if request.baseline is None:
        raise ConfigError(f"{model!r} is compared with {len(met)} models; pass --baseline, one of: {shown}")
    raise ConfigError(f"no row compares {model!r} with {request.baseline!r}; compared with: {shown}")


def _check_sides(rows: Sequence[Row], turns: int, model: str, baseline: str) -> None:
    """Raise ConfigError if the files contain a turn outside 1 and 2, or the same pair in both directions."""
    strange = sorted({turn_of(row) for row in rows} - {1, 2})
    if strange:
        raise ConfigError(f"turn {strange[0]} in the files: MT-Bench has turns 1 and 2")
    if len({(question_of(row), turn_of(row), _models(row)) for row in rows}) > turns:
        raise ConfigError(
            f"the files compare {model!r} with {baseline!r} and the other way round on the same turn; "
            "import one of the two files"
        )


def _answers_of_exactly(model: str, files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the model's answers if the files have any; the baseline's answers are never taken for them."""
    if model not in read_answers(files):
        return {}
    answers = answers_of(files, ImportRequest(request.prompts, model))
    return {name: answer.model_copy(update={"model": request.model}) for name, answer in answers.items()}


def _pair_judgment(
    row: Row,
    game: Literal[1, 2],
    named: tuple[str, str, str],
    request: ImportRequest,
    answers: dict[str, Answer],
    *,
    failed: bool,
) -> Judgment:
    """Return one game as a judgment. `named`: model, baseline and judge as in the file."""
    model, baseline, judge = named
    reading = Reading(reason="answer", why=f"an answer judged is {FAILED_CALL}") if failed else read_game(row, game)
    is_first = _models(row)[0] == model
    # game 1 shows model_1 as A, game 2 shows model_2 as A
    order: Order = "ba" if is_first == (game == 1) else "ab"
    points, words, prompt_id = reading.value, row.get(f"g{game}_judgment"), question_of(row)
    return Judgment(
        prompt_id=prompt_id,
        model=request.model,
        baseline=baseline,
        judge=judge,
        template_sha="unknown",
        answer_sha=answers[prompt_id].sha if prompt_id in answers else None,
        turn=turn_of(row),
        order=order,
        verdict=None if points is None else Preference(value=points if is_first else 1.0 - points),
        reply=words if isinstance(words, str) else None,
        error=Failure(reason=reading.reason, message=reading.why) if points is None else None,
    )
