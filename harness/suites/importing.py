"""Import rows of the original tools' files as answers and judgments of one model, for the prompts of one suite.

Each format's own reader interprets verdicts; a verdict that it rejects becomes a failure here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import JsonValue

from ..records import Answer, Failure, Finish, Judgment, Order, Preference, Prompt, Rating
from ..records.errors import ConfigError
from .alpaca_eval.rows import stored_preference
from .arena_hard.rows import ERROR, ArenaQuestion, read_answers, read_questions
from .files import SourceFile
from .mt_bench.rows import is_single, judge_name, question_of, read_rating, turn_of

Row = dict[str, JsonValue]
ORDERS: tuple[Order, Order] = ("ab", "ba")
"""Orders of Arena-Hard's two games."""


@dataclass(frozen=True)
class Imported:
    """The files' content about one model."""

    answers: dict[str, Answer]
    """By prompt id."""
    judgments: tuple[Judgment, ...]
    baseline: str | None = None
    """None if the files do not name it."""


@dataclass(frozen=True)
class ImportRequest:
    """The request: one model's rows by one judge, about these prompts."""

    prompts: Sequence[Prompt]
    model: str
    """The model's name in the results. If no row has that name, the files' only model is used."""
    judge: str | None = None
    """None: the only judge in the files."""
    baseline: str | None = None
    """For pair files: the other model; None: the only opponent of this model."""


Reader = Callable[[Sequence[SourceFile], ImportRequest], Imported]


def only(kind: str, candidates: Iterable[str], wanted_name: str | None) -> str:
    """Return the wanted_name name, or the only one there is; raise ConfigError if there are several."""
    names = sorted(set(candidates))
    if wanted_name in names or not names:
        return wanted_name or ""
    if len(names) == 1 and (kind == "model" or wanted_name is None):
        return names[0]
    raise ConfigError(f"the files contain {len(names)} {kind}s, none named {wanted_name!r}: {', '.join(names[:10])}")


def check_questions(ids: Iterable[str], prompts: Sequence[Prompt]) -> None:
    """Raise ConfigError if an id is not that of a prompt."""
    known = {prompt.id for prompt in prompts}
    strange = [question_id for question_id in dict.fromkeys(ids) if question_id not in known]
    if strange:
        shown = ", ".join(repr(question_id[:40]) for question_id in strange[:3])
        raise ConfigError(
            f"{len(strange)} questions of the files are not the suite's, e.g. {shown}; another --edition?"
        )


def _answer(prompt_id: str, model: str, turns: Sequence[str]) -> Answer:
    """Return an answer; a failed call's mark becomes a failure."""
    if not turns or any(text.strip() == ERROR for text in turns):
        failure = Failure(reason="other", message=f"the file holds {ERROR} for an answer")
        return Answer(prompt_id=prompt_id, model=model, error=failure)
    return Answer(
        prompt_id=prompt_id, model=model, turns=tuple(turns), finish=tuple[Finish, ...]("stop" for _ in turns)
    )


def _sha(answers: dict[str, Answer], prompt_id: str) -> str | None:
    return answers[prompt_id].sha if prompt_id in answers else None


# --------------------------------------------------------------------------------------------- FastChat, Arena-Hard


def _answer_rows(files: Sequence[SourceFile]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (model, question, turns) of answer files: FastChat's, Arena-Hard v0.1's and v2.0's.

    A row without a model's name belongs to the model that the file is named after."""
    for file in files:
        for row in file.rows:
            model = row.get("model_id", row.get("model", PurePath(file.name).stem))
            match row:
                case {"question_id": question, "choices": [{"turns": [*turns]}, *_]}:
                    yield str(model), str(question), [_text(turn) for turn in turns]
                case {"uid": question, "messages": [*_, {"content": content}]}:
                    yield str(model), str(question), [_text(content)]


def _text(turn: JsonValue) -> str:
    text = turn.get("content", turn.get("answer")) if isinstance(turn, dict) else turn
    return text if isinstance(text, str) else ERROR


def answers_of(files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the model's answers by question; raise ConfigError for several models, none with its name."""
    rows = list(_answer_rows(files))
    model = only("model", (row[0] for row in rows), request.model)
    answers = {question: _answer(question, request.model, turns) for name, question, turns in rows if name == model}
    check_questions(answers, request.prompts)
    return answers


def read_fastchat(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and ratings of single answers; of several ratings of one turn the last wins."""
    answers = answers_of(files, request)
    rows = [row for file in files for row in file.rows if is_single(row) and "choices" not in row]
    model = only("model", (str(row["model"]) for row in rows), request.model)
    rows = [row for row in rows if row["model"] == model]
    judge = only("judge", map(judge_name, rows), request.judge)
    rows = [row for row in rows if judge_name(row) == judge]
    check_questions(map(question_of, rows), request.prompts)
    last = {(question_of(row), turn_of(row)): row for row in rows}
    return Imported(answers, tuple(_rating(row, request, judge, answers) for row in last.values()))


def _rating(row: Row, request: ImportRequest, judge: str, answers: dict[str, Answer]) -> Judgment:
    reading, words = read_rating(row), row.get("judgment")
    prompt_id = question_of(row)
    return Judgment(
        prompt_id=prompt_id,
        model=request.model,
        judge=judge,
        template_sha="unknown",
        answer_sha=_sha(answers, prompt_id),
        turn=turn_of(row),
        verdict=None if reading.value is None else Rating(value=reading.value),
        reply=words if isinstance(words, str) else None,
        error=Failure(reason=reading.reason, message=reading.why) if reading.value is None else None,
    )


def read_arena_hard(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and two games per question, from v0.1's or v2.0's files."""
    answers = _counted(answers_of([SourceFile(file.name, _not_games(file)) for file in files], request), files, request)
    questions = list(read_questions(files, strict=False))
    model = only("model", (question.model for question in questions), request.model)
    questions = [question for question in questions if question.model == model]
    judge = only("judge", (question.judge for question in questions), request.judge)
    last = {question.id: question for question in questions if question.judge == judge}
    check_questions(last, request.prompts)
    judgments = tuple(row for question in last.values() for row in _games(question, request, answers))
    baselines = {question.baseline for question in last.values()}
    return Imported(answers, judgments, baselines.pop() if len(baselines) == 1 else None)


def _counted(answers: dict[str, Answer], files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the answers with the token counts of their rows, which `avg_tokens` averages."""
    facts = read_answers(files)
    model_facts = facts.get(request.model) or (
        next(iter(facts.values())) if len({*map(id, facts.values())}) == 1 else {}
    )
    tokens = {name: fact.tokens for name, fact in model_facts.items() if fact.tokens is not None}
    return {
        name: answer.model_copy(update={"completion_tokens": (tokens[name],)})
        if answer.error is None and name in tokens
        else answer
        for name, answer in answers.items()
    }


def _not_games(file: SourceFile) -> tuple[Row, ...]:
    return tuple(row for row in file.rows if "games" not in row and "winner" not in row)


def _games(question: ArenaQuestion, request: ImportRequest, answers: dict[str, Answer]) -> Iterator[Judgment]:
    for order, game in zip(ORDERS, question.games, strict=False):
        failure = Failure(reason="missing" if game.reason == "missing game" else "parse", message=game.reason or "")
        verdict = None
        if game.points is not None:
            verdict = Preference(value=game.points, strength=2 if game.weight > 1 else 1)
        yield Judgment(
            prompt_id=question.id,
            model=request.model,
            baseline=question.baseline,
            judge=question.judge,
            template_sha="unknown",
            answer_sha=_sha(answers, question.id),
            order=order,
            verdict=verdict,
            error=failure if verdict is None else None,
        )


# -------------------------------------------------------------------------------------------------------- AlpacaEval


def read_alpaca_eval(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers of `model_outputs.json`, and answers with preferences of `annotations.json`, matched by
    instruction."""
    ids = {prompt.turns[0]: prompt.id for prompt in request.prompts}
    rows = [row for file in files for row in file.rows if isinstance(row.get("instruction"), str)]
    outputs = [row for row in rows if isinstance(row.get("output"), str)]
    annotations = [row for row in rows if isinstance(row.get("output_2"), str)]
    named = [str(row["generator"]) for row in outputs if "generator" in row]
    named += [str(row.get("generator_2")) for row in annotations]
    model = only("model", named, request.model)
    judge = only("judge", (str(row.get("annotator", "unknown")) for row in annotations), request.judge)
    outputs = [row for row in outputs if row.get("generator", model) == model]
    annotations = [row for row in annotations if row.get("generator_2") == model]
    annotations = [row for row in annotations if str(row.get("annotator", "unknown")) == judge]
    instructions = [str(row["instruction"]) for row in (*outputs, *annotations)]
    check_questions((ids.get(text, text) for text in instructions), request.prompts)
    texts = {ids[str(row["instruction"])]: str(row.get("output", row.get("output_2"))) for row in outputs + annotations}
    answers = {prompt_id: _answer(prompt_id, request.model, [text]) for prompt_id, text in texts.items()}
    last = {ids[str(row["instruction"])]: row for row in annotations}
    judgments = tuple(_preference(prompt_id, row, request, judge, answers) for prompt_id, row in last.items())
    baselines = {str(row.get("generator_1")) for row in annotations}
    return Imported(answers, judgments, baselines.pop() if len(baselines) == 1 else None)


def _preference(prompt_id: str, row: Row, request: ImportRequest, judge: str, answers: dict[str, Answer]) -> Judgment:
    value = stored_preference(row.get("preference"))
    return Judgment(
        prompt_id=prompt_id,
        model=request.model,
        baseline=str(row.get("generator_1")),
        judge=judge,
        template_sha="unknown",
        answer_sha=_sha(answers, prompt_id),
        verdict=None if value is None else Preference(value=value),
        error=Failure(reason="parse", message="the file has no preference") if value is None else None,
    )


READERS: dict[str, Reader] = {
    "fastchat": read_fastchat,
    "alpaca_eval": read_alpaca_eval,
    "arena_hard": read_arena_hard,
}
