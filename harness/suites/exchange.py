"""Exchange runs with other tools: what the formats share when a run becomes files, or rows become a run.

>>> prompts = [Prompt(id="1", turns=("Hi",), category="all")]
>>> answers_of_rows([{"id": 1, "answer": "Hello", "model": "m"}], prompts, "answers.jsonl")["1"].turns
('Hello',)

Each suite's `files.py` reads and writes its own formats; its facts name the functions. A verdict that the suite's own
reader rejects becomes a failure here too.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePath
from typing import Literal

from pydantic import JsonValue

from ..records import Answer, Failure, Finish, JudgeTask, Judgment, Prompt, ScoreCard, SuiteScores
from ..records.errors import ConfigError, did_you_mean, first_names
from ..records.facts import Facts, FileFormat, all_facts, load_function
from ..records.protocols import Suite
from ..records.reasoning import split_reasoning
from .files import FAILED_CALL, SourceFile, read_files

Row = dict[str, JsonValue]
Line = dict[str, JsonValue]
Use = Literal["score", "read", "numbers", "export"]
"""What can be done with a format: the names of the functions in `FileFormat`."""


def formats(*uses: Use) -> tuple[str, ...]:
    """Return the names of the formats that can be used in any of these ways, those of `--suite all` first."""
    return tuple(
        dict.fromkeys(
            file_format.name
            for use in uses
            for facts in all_facts()
            for file_format in facts.formats
            if getattr(file_format, use)
        )
    )


def with_format(name: str, *uses: Use) -> list[tuple[Facts, FileFormat]]:
    """Return the suites that can use a format in any of these ways. Raise ConfigError if there is none."""
    matches = [(facts, file_format) for facts in all_facts() if (file_format := facts.format(name))]
    matches = [match for match in matches if any(getattr(match[1], use) for use in uses)]
    if not matches:
        known = formats(*uses)
        raise ConfigError(f"no format {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    return matches


def detected_format(files: Iterable[SourceFile]) -> str:
    """Return the format of the files' first rows. Raise ConfigError if they have none or several."""
    detected: dict[str, str] = {}
    contents = FirstRows(files)
    for file in contents:
        row = next(iter(file.rows), None)
        for name in formats("read") if row is not None else ():
            if row is not None and _kind_of(row, name):
                detected.setdefault(name, file.name)
    if len(detected) > 1:
        listed = ", ".join(f"{name} in {file}" for name, file in detected.items())
        raise ConfigError(f"the files have several formats ({listed}); import each with its own --format")
    if not detected:
        needs = "; ".join(f"{name}: {need}" for name, need in _needs().items())
        raise ConfigError(
            f"{contents.first_keys()}, which no format of judgments has ({needs}); of answers, pass --format"
        )
    return next(iter(detected))


def _needs() -> dict[str, str]:
    return {
        file_format.name: file_format.needs
        for facts in all_facts()
        for file_format in facts.formats
        if file_format.needs
    }


class FirstRows:
    """Stream files and remember each first row, so that an error can describe an unrecognised file."""

    def __init__(self, files: Iterable[SourceFile]) -> None:
        self._files = files
        self._rows: dict[str, Row | None] = {}

    def __iter__(self) -> Iterator[SourceFile]:
        for file in self._files:
            rows = iter(file.rows)
            first = next(rows, None)
            self._rows[file.name] = first
            yield file if first is None else replace(file, rows=chain([first], rows))

    def first_keys(self) -> str:
        """Return the first file's name with the keys of its first row."""
        for name, row in self._rows.items():
            if row is not None:
                return f"{name}: the first row has the keys {first_names(row)}"
        return f"{', '.join(self._rows) or 'no file'}: no row"

    def described(self, file_format: str) -> str:
        """Return the files' names, with the content of the first file that has another format."""
        names = ", ".join(self._rows) or "no file"
        for name, row in self._rows.items():
            for other_format in formats("score", "read"):
                kind = "" if row is None or other_format == file_format else _kind_of(row, other_format)
                if kind:
                    return f"{names}: {name} has {kind}, which --format {other_format} reads"
        return names


def _kind_of(row: Row, file_format: str) -> str:
    functions = [load_function(match.names) for _, match in with_format(file_format, "score", "read") if match.names]
    return next((str(kind) for function in functions if (kind := function(row))), "")


# --------------------------------------------------------------------------------------------------------------- import


@dataclass(frozen=True)
class Imported:
    """The files' content about one model."""

    answers: dict[str, Answer]
    """By prompt id."""
    judgments: tuple[Judgment, ...]
    baseline: str | None = None
    """None if the files do not name it."""
    baseline_answers: Mapping[str, Answer] = field(default_factory=dict)
    """The baseline's answers that the files contain, by prompt id."""
    scores: SuiteScores | None = None
    """The rows' scores by the function behind `harness score`, if it has more to say than the suite's own scorer."""
    notes: tuple[str, ...] = ()
    """What else should be known about the files."""


@dataclass(frozen=True)
class ImportRequest:
    """The request: one model's rows by one judge, about these prompts."""

    prompts: Sequence[Prompt]
    model: str
    """The model's name in the results. If no row has that name, the files' only model is used."""
    judge: str | None = None
    """None: the only judge in the files."""
    baseline: str | None = None
    """The model that this one is compared with; None: the only one in the files."""
    mirror: str | None = None
    """Folder or URL of the pinned files."""


def only(kind: str, candidates: Iterable[str], wanted_name: str | None) -> str:
    """Return the wanted name, or the only one there is. Raise ConfigError if there are several."""
    names = sorted(set(candidates))
    if wanted_name in names or not names:
        return wanted_name or ""
    if len(names) == 1 and (kind == "model" or wanted_name is None):
        return names[0]
    near = did_you_mean(wanted_name or "", names)
    contained = f"the files contain {len(names)} {kind}{'s' if len(names) > 1 else ''}"
    if wanted_name is None:
        raise ConfigError(f"{contained}: {first_names(names)}; pass --{kind}")
    raise ConfigError(f"{contained}, none named {wanted_name!r}{near}: {first_names(names)}")


def plain_text(text: str) -> str:
    """Return a text without differences of white space and Unicode form (NFC), which copies of a file may have."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class TextIndex:
    """Texts of a benchmark, found even if a file has them with other white space or in another Unicode form."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = set(texts)

    @cached_property
    def _by_plain(self) -> dict[str, str]:
        return {plain_text(text): text for text in self._texts}

    def find(self, text: str) -> str | None:
        """Return the benchmark's text, or None if it has no such text."""
        return text if text in self._texts else self._by_plain.get(plain_text(text))


def same_baseline(baseline: Mapping[str, Answer], answers: Mapping[str, Answer]) -> bool:
    """Return whether these are the baseline's answers, except for white space and Unicode form."""
    pairs = [(baseline.get(prompt_id), answer) for prompt_id, answer in answers.items()]
    return all(
        counterpart is not None
        and counterpart.model == answer.model
        and [*map(plain_text, counterpart.turns)] == [*map(plain_text, answer.turns)]
        for counterpart, answer in pairs
    )


def respelled_note(count: int, kind: str) -> tuple[str, ...]:
    """Return one sentence if texts were found only by `plain_text`."""
    return (f"{count} {kind} are the benchmark's but for white space or Unicode form",) if count else ()


def differing_answers(texts: Iterable[tuple[str, object]]) -> tuple[str, ...]:
    """Return a note if some questions have answers that differ, or nothing. `texts`: a question's id and a text.

    >>> differing_answers([("a", "yes"), ("b", "no"), ("a", "yes"), ("b", "maybe")])
    ('1 question has several answers that differ: the last one counts',)
    """
    answers: dict[str, object] = {}
    differing = {question for question, text in texts if answers.setdefault(question, text) != text}
    if not differing:
        return ()
    subject = "1 question has" if len(differing) == 1 else f"{len(differing)} questions have"
    return (f"{subject} several answers that differ: the last one counts",)


def check_questions(ids: Iterable[str], prompts: Sequence[Prompt]) -> None:
    """Raise ConfigError if an id is not that of a prompt."""
    known = {prompt.id for prompt in prompts}
    strange = [question_id for question_id in dict.fromkeys(ids) if question_id not in known]
    if strange:
        shown = ", ".join(repr(question_id[:40]) for question_id in strange[:3])
        raise ConfigError(
            f"{len(strange)} questions of the files are not the suite's, e.g. {shown}; another --edition?"
        )


def answer_of(prompt_id: str, model: str, turns: Sequence[str]) -> Answer:
    """Return an answer; a failed call's mark becomes a failure."""
    if not turns or any(text.strip() == FAILED_CALL for text in turns):
        failure = Failure(reason="other", message=f"the file holds {FAILED_CALL} for an answer")
        return Answer(prompt_id=prompt_id, model=model, error=failure)
    return Answer(
        prompt_id=prompt_id, model=model, turns=tuple(turns), finish=tuple[Finish, ...]("stop" for _ in turns)
    )


def sha_of(answers: dict[str, Answer], prompt_id: str) -> str | None:
    return answers[prompt_id].sha if prompt_id in answers else None


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
    text = _answer_text(turn)
    return FAILED_CALL if text is None else text


def answers_of(files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the model's answers by question. Raise ConfigError for several models, none with its name."""
    rows = list(_answer_rows(files))
    model = only("model", (row[0] for row in rows), request.model)
    answers = {question: answer_of(question, request.model, turns) for name, question, turns in rows if name == model}
    check_questions(answers, request.prompts)
    return answers


def answer_notes(files: Sequence[SourceFile], request: ImportRequest) -> tuple[str, ...]:
    """Return what should be known about the answers that `answers_of` returns."""
    rows = list(_answer_rows(files))
    model = only("model", (row[0] for row in rows), request.model)
    return differing_answers((question, turns) for name, question, turns in rows if name == model)


# --------------------------------------------------------------------------------------------------------------- export


Exporter = Callable[["FinishedRun"], dict[str, str]]
"""Turns a run into the text of each file, by path below the output folder."""


def exporter(file_format: str, suite: str) -> Exporter:
    """Return the exporter of a suite. Raise ConfigError if the format has no files for it."""
    for facts, match in with_format(file_format, "export"):
        if facts.name == suite:
            return load_function(match.export)
    fits = [match.name for facts in all_facts() if facts.name == suite for match in facts.formats if match.export]
    raise ConfigError(f"a run of {suite!r} has no {file_format} files; formats for it: {', '.join(fits) or 'none'}")


@dataclass(frozen=True)
class FinishedRun:
    """A run from its folder, with its suite."""

    card: ScoreCard
    suite: Suite
    answers: tuple[Answer, ...]
    judgments: tuple[Judgment, ...]
    """Judgments of these answers only."""

    def prompts(self) -> Iterator[Prompt]:
        """Return the prompts with an answer row, in the suite's order."""
        answered = {answer.prompt_id for answer in self.answers}
        return (prompt for prompt in self.suite.prompts() if prompt.id in answered)

    def answers_to(self, prompt: Prompt) -> list[Answer]:
        """Return the answers to a prompt, by draw."""
        return sorted((row for row in self.answers if row.prompt_id == prompt.id), key=lambda row: row.index)

    def judged_unseen(self) -> Iterator[tuple[Prompt, list[Judgment]]]:
        """Yield the prompts whose answers the run lacks, with their judgments: an imported file may have only these."""
        answered = {answer.prompt_id for answer in self.answers}
        rows: dict[str, list[Judgment]] = {}
        for row in sorted(self.judgments, key=lambda row: (row.index, row.turn or 1, row.repeat)):
            if row.prompt_id not in answered:
                rows.setdefault(row.prompt_id, []).append(row)
        return ((prompt, rows[prompt.id]) for prompt in self.suite.prompts() if prompt.id in rows)

    def judged(self, prompt: Prompt, answer: Answer) -> list[tuple[JudgeTask, list[Judgment]]]:
        """Return the judge tasks of an answer with their judgments: none, or one per repeat.

        Imported rows of a suite with one task per answer may not state which answer was shown first."""
        of_answer = [row for row in self.judgments if (row.prompt_id, row.index) == (prompt.id, answer.index)]
        return [
            (task, [row for row in of_answer if row.turn == task.turn and row.order in (None, task.order)])
            for task in self.suite.tasks(prompt, answer)
        ]


def question_id(prompt: Prompt) -> int | str:
    """Return a number if the id is one, as in the official MT-Bench files."""
    return int(prompt.id) if prompt.id.isascii() and prompt.id.isdigit() else prompt.id


def slug(name: str) -> str:
    """Return a file name for a model's or judge's name."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip(".") or "model"


def user_prompt_of(task: JudgeTask) -> str:
    """Return the judge prompt's user text. Raise ConfigError if the task's fields do not fill the template."""
    try:
        return task.template.user.format(**task.fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"judge template {task.template.name!r} cannot be filled: {error!r}") from None


def reply_text(judgment: Judgment) -> str | None:
    """Return the judge's reply, None if only its verdict is known, or the mark of a failed call."""
    if judgment.reply is not None or judgment.verdict is not None:
        return judgment.reply
    return FAILED_CALL


def json_lines(rows: Iterable[Mapping[str, JsonValue]]) -> str:
    """Return ASCII JSON lines: a model's text may contain any character, even a lone surrogate."""
    return "".join(json.dumps(row) + "\n" for row in rows)


# ------------------------------------------------------------------------------------------------- a baseline's answers
# A user's file may have answers to any suite's questions. Known forms of a row: ours (`prompt_id` and `turns`, or `id`
# and `answer`), FastChat's and Arena-Hard's answer files, and AlpacaEval's (`instruction`, `output`, `generator`),
# whose questions are known by their text.


def read_answer_file(path: Path, prompts: Sequence[Prompt]) -> dict[str, Answer]:
    """Return prompt id -> answer. Raise ConfigError if a row has another form, or if there are several models."""
    rows = [row for file in read_files([path]) for row in file.rows]
    return answers_of_rows(rows, prompts, path.name)


def answers_of_rows(rows: Iterable[Mapping[str, JsonValue]], prompts: Sequence[Prompt], name: str) -> dict[str, Answer]:
    """Return prompt id -> answer; answers to other questions and failed ones are left out."""
    by_id = {prompt.id: prompt for prompt in prompts}
    by_text = {prompt.turns[0]: prompt.id for prompt in prompts}
    texts = TextIndex(by_text)
    answers: dict[str, Answer] = {}
    models: set[str] = set()
    for number, row in enumerate(rows, start=1):
        prompt_id, turns, model = _content(row)
        instruction = row.get("instruction")
        if prompt_id is None and isinstance(instruction, str):
            prompt_id = by_text.get(texts.find(instruction) or "")
            if prompt_id is None:
                continue
        if prompt_id is None or turns is None:
            raise ConfigError(
                f"{name}, row {number} is not an answer: expected id and answer (or turns), or instruction and output"
            )
        if prompt_id not in by_id or row.get("index", 0) != 0 or any(turn == FAILED_CALL for turn in turns):
            continue
        if len(turns) != len(by_id[prompt_id].turns):
            raise ConfigError(
                f"{name}, row {number}: {len(turns)} turns, but question {prompt_id} has {len(by_id[prompt_id].turns)}"
            )
        models.add(model or Path(name).name.split(".")[0])
        answers[prompt_id] = Answer(
            prompt_id=prompt_id,
            model=model or Path(name).name.split(".")[0],
            turns=tuple(split_reasoning(turn).visible for turn in turns),
            finish=tuple("stop" for _ in turns),
        )
    if len(models) > 1:
        raise ConfigError(f"{name} has answers of {len(models)} models ({', '.join(sorted(models)[:5])}); give one's")
    return answers


def _content(row: Mapping[str, JsonValue]) -> tuple[str | None, list[str] | None, str | None]:
    """Return a row's question id, turns and model, or None for what it does not state."""
    question = next((row[key] for key in ("prompt_id", "id", "question_id", "uid") if row.get(key) is not None), None)
    model = next((row[key] for key in ("model", "model_id", "generator") if isinstance(row.get(key), str)), None)
    turns: JsonValue = row.get("turns", row.get("answer", row.get("output")))
    match row:
        case {"choices": [{"turns": [*turns]}, *_]}:
            pass
        case {"messages": [*_, {"content": content}]}:
            turns = [content]
    listed = turns if isinstance(turns, list) else [turns]
    texts = [_answer_text(turn) for turn in listed]
    present = [text for text in texts if text is not None]
    complete = present if present and len(present) == len(texts) else None
    return None if question is None else str(question), complete, model if isinstance(model, str) else None


def _answer_text(turn: JsonValue) -> str | None:
    """Return the text of a turn, which some tools wrap in an object."""
    text = turn.get("content", turn.get("answer")) if isinstance(turn, dict) else turn
    return text if isinstance(text, str) else None
