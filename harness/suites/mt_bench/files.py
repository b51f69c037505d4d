"""Export a run as FastChat's files, and import one model's rows from them; `file_scores.py` scores them.

Export: `model_answer/NAME.jsonl` and `model_judgment/JUDGE_single.jsonl`, in pairwise mode `JUDGE_pair.jsonl`, in the
form of gen_api_answer.py and gen_judgment.py. A missing verdict has score -1, which show_result.py leaves out.
A missing answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...records import Answer, Failure, JudgeTask, Judgment, Order, Preference, Prompt, Rating
from ...records.errors import ConfigError
from ..exchange import (
    FinishedRun,
    Imported,
    ImportRequest,
    Line,
    answer_notes,
    answers_of,
    check_questions,
    json_lines,
    only,
    question_id,
    reply_text,
    sha_of,
    slug,
    user_prompt_of,
)
from ..files import FAILED_CALL, ScoreOptions, SourceFile
from .file_scores import (
    Collected,
    PairedTurn,
    RatedTurn,
    collect,
    current_pairs,
    current_ratings,
    pair_readings,
    score_paired,
    score_ratings,
)
from .rows import Reading, Row, is_pair, is_single, read_answers
from .suite import pair_template_name, single_template_name

# --------------------------------------------------------------------------------------------------------------- export

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
    return answer.turns if answer.error is None else (FAILED_CALL,) * len(prompt.turns)


def _judgments(run: FinishedRun) -> Iterator[Line]:
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            for task, judgments in run.judged(prompt, answer):
                yield from (_judgment_line(run, prompt, task, row) for row in judgments)
    for prompt, rows in run.judged_unseen():
        yield from (_judgment_line(run, prompt, None, row) for row in rows)


def _judgment_line(run: FinishedRun, prompt: Prompt, task: JudgeTask | None, row: Judgment) -> Line:
    turn = row.turn or 1
    return {
        "question_id": question_id(prompt),
        "model": run.card.model,
        "judge": [run.card.judge, task.template.name if task else single_template_name(prompt, turn)],
        "user_prompt": user_prompt_of(task) if task else None,
        "judgment": reply_text(row),
        "score": row.verdict.value if isinstance(row.verdict, Rating) else UNRATED,
        "turn": task.turn if task else turn,
        "tstamp": None,
    }


# ------------------------------------------------------------------------------------------------------ export of pairs


def export_pairs(run: FinishedRun) -> dict[str, str]:
    """Return the same for pairs, without the judge's prompts, because the run's folder lacks the baseline's answers."""
    return {
        f"model_answer/{slug(run.card.model)}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{slug(run.card.judge)}_pair.jsonl": json_lines(_pairs(run)),
    }


def _pairs(run: FinishedRun) -> Iterator[Line]:
    prompts = {prompt.id: prompt for prompt in run.suite.prompts()}
    games: dict[tuple[str, int, int, int], dict[Order | None, Judgment]] = {}
    for row in run.judgments:
        games.setdefault((row.prompt_id, row.turn or 1, row.index, row.repeat), {})[row.order] = row
    # rows arrive in an order that no two runs share, and an export should not depend on it
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
            "g1_judgment": reply_text(first) if first else FAILED_CALL,
            "g2_user_prompt": None,
            "g2_judgment": reply_text(second) if second else FAILED_CALL,
            "turn": turn,
            "tstamp": None,
        }


def _winner(game: Judgment | None) -> str:
    points = game.verdict.value if game is not None and isinstance(game.verdict, Preference) else None
    return NO_WINNER if points is None else WINNERS[points]


# ------------------------------------------------------------------------------------------------------ import of pairs


def read_pairs(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and both games of each turn against one baseline; of several rows of one turn the last wins.

    Rows are read and scored as by `harness score`. Raise ConfigError if the files leave the model or its baseline open.
    """
    collected = collect(files, mirror=request.mirror, replies=True)
    if not collected.pairs:
        return Imported(answers_of(files, request), (), notes=answer_notes(files, request))
    # a pair does not say which of its models is the baseline
    named = {model for row in collected.pairs for model in row.models}
    model = only("model", named - {request.baseline}, request.model)
    pairs = [row for row in collected.pairs if model in row.models]
    baseline = _baseline(model, pairs, request)
    pairs = [row for row in pairs if sorted(row.models) == sorted((model, baseline))]
    judge = only("judge", (row.judge for row in pairs), request.judge)
    pairs = [row for row in pairs if row.judge == judge]
    check_questions((row.question for row in pairs), request.prompts)
    _check_sides(pairs, model, baseline)
    answers = _answers_of_exactly(model, files, request)
    judgments = (
        _pair_judgment(row, game, (model, baseline), request, answers, collected)
        for row in current_pairs(pairs)
        for game in (0, 1)
    )
    scores = score_paired(model, pairs, collected, ScoreOptions(mirror=request.mirror))
    notes = answer_notes(files, ImportRequest(request.prompts, model)) if answers else ()
    return Imported(answers, tuple(judgments), baseline, scores=scores, notes=notes)


def rated_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model with a rating."""
    return {str(row["model"]) for file in files for row in file.rows if is_single(row)}


def paired_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model of a pair."""
    return {str(row[side]) for file in files for row in file.rows if is_pair(row) for side in ("model_1", "model_2")}


def content_of(row: Row) -> str:
    """Return what a row of FastChat's files is, or nothing for any other row."""
    if is_pair(row):
        return "FastChat's pairs of games"
    if is_single(row) and "games" not in row:
        return "FastChat's ratings of single answers"
    return ""


def _baseline(model: str, rows: Sequence[PairedTurn], request: ImportRequest) -> str:
    met = sorted({row.model_2 if row.model_1 == model else row.model_1 for row in rows})
    if request.baseline in met:
        return request.baseline or ""
    if request.baseline is None and len(met) == 1:
        return met[0]
    shown = ", ".join(met[:10])
    if request.baseline is None:
        raise ConfigError(f"{model!r} is compared with {len(met)} models; pass --baseline, one of: {shown}")
    raise ConfigError(f"no row compares {model!r} with {request.baseline!r}; compared with: {shown}")


def _check_sides(rows: Sequence[PairedTurn], model: str, baseline: str) -> None:
    """Raise ConfigError if the files contain a turn outside 1 and 2, or the same pair in both directions."""
    strange = sorted({row.turn for row in rows} - {1, 2})
    if strange:
        raise ConfigError(f"turn {strange[0]} in the files: MT-Bench has turns 1 and 2")
    if len({(row.question, row.turn, row.models) for row in rows}) > len({(row.question, row.turn) for row in rows}):
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
    row: PairedTurn,
    game: int,
    names: tuple[str, str],
    request: ImportRequest,
    answers: dict[str, Answer],
    collected: Collected,
) -> Judgment:
    """Return one game, the first (0) or second (1), as a judgment. `names`: model and baseline as in the file."""
    model, baseline = names
    reading = pair_readings(row, collected)[game]
    is_first = row.model_1 == model
    # the first game shows model_1 as A, the second model_2
    order: Order = "ba" if is_first == (game == 0) else "ab"
    points = reading.value
    return Judgment(
        prompt_id=row.question,
        model=request.model,
        baseline=baseline,
        judge=row.judge,
        template_sha="unknown",
        answer_sha=sha_of(answers, row.question),
        turn=row.turn,
        order=order,
        verdict=None if points is None else Preference(value=points if is_first else 1.0 - points),
        reply=row.replies[game],
        error=Failure(reason=reading.reason, message=reading.why) if points is None else None,
    )


# ---------------------------------------------------------------------------------------------------- import of ratings


def read_ratings(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and ratings of single answers; of several ratings of one turn the last wins.

    Rows are read and scored as by `harness score`."""
    answers, notes = answers_of(files, request), answer_notes(files, request)
    collected = collect(files, mirror=request.mirror, replies=True)
    model = only("model", (row.model for row in collected.ratings), request.model)
    ratings = [row for row in collected.ratings if row.model == model]
    judge = only("judge", (row.judge for row in ratings), request.judge)
    ratings = [row for row in ratings if row.judge == judge]
    check_questions((row.question for row in ratings), request.prompts)
    if not ratings:
        return Imported(answers, (), notes=notes)
    judgments = [
        _rating(row, reading, request, answers) for row, reading in current_ratings(ratings, collected.is_failed)
    ]
    scores = score_ratings(model, ratings, collected.is_failed, ScoreOptions(mirror=request.mirror))
    return Imported(answers, tuple(judgments), scores=scores, notes=notes)


def _rating(row: RatedTurn, reading: Reading, request: ImportRequest, answers: dict[str, Answer]) -> Judgment:
    return Judgment(
        prompt_id=row.question,
        model=request.model,
        judge=row.judge,
        template_sha="unknown",
        answer_sha=sha_of(answers, row.question),
        turn=row.turn,
        verdict=None if reading.value is None else Rating(value=reading.value),
        reply=row.reply,
        error=Failure(reason=reading.reason, message=reading.why) if reading.value is None else None,
    )
