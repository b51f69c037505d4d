"""FastChat's pair files -> our judgments of one model against one baseline, two games a turn.

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
from .import_rows import Imported, Wanted, answers_of, check_questions, only

GAMES: tuple[Literal[1, 2], ...] = (1, 2)


def read_pairs(files: Sequence[SourceFile], wanted: Wanted) -> Imported:
    """Answers, and both games of each turn against one baseline; of several rows of one turn the last wins.

    Raises ConfigError where the model or its baseline is not clear from the files.
    """
    rows: list[Row] = [row for file in files for row in file.rows if is_pair(row)]
    if not rows:
        return Imported(answers_of(files, wanted), ())
    model = only("model", paired_models(files) - {wanted.baseline}, wanted.model)
    rows = [row for row in rows if model in _models(row)]
    baseline = _baseline(model, rows, wanted)
    rows = [row for row in rows if sorted(_models(row)) == sorted((model, baseline))]
    judge = only("judge", map(judge_name, rows), wanted.judge)
    rows = [row for row in rows if judge_name(row) == judge]
    check_questions(map(question_of, rows), wanted.prompts)
    last = {(question_of(row), turn_of(row)): row for row in rows}
    _check_sides(rows, len(last), model, baseline)
    answers = _answers_of_exactly(model, files, wanted)
    texts = read_answers(files)
    judgments = (
        _judgment(row, game, (model, baseline, judge), wanted, answers, failed=judged_failure(row, texts))
        for row in last.values()
        for game in GAMES
    )
    return Imported(answers, tuple(judgments), baseline)


def paired_models(files: Sequence[SourceFile]) -> set[str]:
    """Every model of a pair."""
    return {name for file in files for row in file.rows if is_pair(row) for name in _models(row)}


def _models(row: Row) -> tuple[str, str]:
    return str(row["model_1"]), str(row["model_2"])


def _baseline(model: str, rows: Sequence[Row], wanted: Wanted) -> str:
    """The other model of all rows, or the one asked for."""
    met = sorted({second if first == model else first for first, second in map(_models, rows)})
    if wanted.baseline in met:
        return wanted.baseline or ""
    if wanted.baseline is None and len(met) == 1:
        return met[0]
    shown = ", ".join(met[:10])
    if wanted.baseline is None:
        raise ConfigError(f"{model!r} is compared with {len(met)} models; give --baseline, one of: {shown}")
    raise ConfigError(f"no row compares {model!r} with {wanted.baseline!r}; compared with: {shown}")


def _check_sides(rows: Sequence[Row], turns: int, model: str, baseline: str) -> None:
    """Raises ConfigError where one of a run's two games of a turn would stand for two."""
    strange = sorted({turn_of(row) for row in rows} - {1, 2})
    if strange:
        raise ConfigError(f"turn {strange[0]} in the files: MT-Bench has turns 1 and 2")
    if len({(question_of(row), turn_of(row), _models(row)) for row in rows}) > turns:
        raise ConfigError(
            f"the files compare {model!r} with {baseline!r} and the other way round on the same turn; "
            "import one of the two files"
        )


def _answers_of_exactly(model: str, files: Sequence[SourceFile], wanted: Wanted) -> dict[str, Answer]:
    """The model's answers where the files hold any: the baseline's, alone there, are not taken for them."""
    if model not in read_answers(files):
        return {}
    answers = answers_of(files, Wanted(wanted.prompts, model))
    return {name: answer.model_copy(update={"model": wanted.model}) for name, answer in answers.items()}


def _judgment(
    row: Row,
    game: Literal[1, 2],
    named: tuple[str, str, str],
    wanted: Wanted,
    answers: dict[str, Answer],
    *,
    failed: bool,
) -> Judgment:
    """One game. `named`: model, baseline and judge, as the file has them."""
    model, baseline, judge = named
    reading = Reading(reason="answer", why=f"an answer judged is {FAILED_CALL}") if failed else read_game(row, game)
    is_first = _models(row)[0] == model
    # game 1 shows model_1 as A, game 2 shows model_2 as A
    order: Order = "ba" if is_first == (game == 1) else "ab"
    points, words, prompt_id = reading.value, row.get(f"g{game}_judgment"), question_of(row)
    return Judgment(
        prompt_id=prompt_id,
        model=wanted.model,
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
