"""Import FastChat's pair files as judgments of one model against one baseline, two games per turn.

Each game is read by the rules of `harness score` (fastchat_rows.read_game), so that the card has the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import ConfigError
from ..records import Answer, Failure, Judgment, Order, Preference
from .fastchat_answers import judged_failure, read_answers
from .fastchat_rows import FAILED_CALL, Reading, Row, is_pair, judge_name, question_of, read_game, turn_of
from .files import SourceFile
from .import_rows import Imported, ImportRequest, answers_of, check_questions, only

GAMES: tuple[Literal[1, 2], ...] = (1, 2)


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
        _judgment(row, game, (model, baseline, judge), request, answers, failed=judged_failure(row, texts))
        for row in last.values()
        for game in GAMES
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


def _judgment(
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
