"""Read a baseline's answers from a user's file, for any suite's questions.

>>> prompts = [Prompt(id="1", turns=("Hi",), category="all")]
>>> answers_of_rows([{"id": 1, "answer": "Hello", "model": "m"}], prompts, "answers.jsonl")["1"].turns
('Hello',)

Known forms of a row: ours (`prompt_id` and `turns`, or `id` and `answer`), FastChat's and Arena-Hard's answer files,
and AlpacaEval's (`instruction`, `output`, `generator`), whose questions are known by their text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from ..records import Answer, Prompt
from ..records.errors import ConfigError
from ..records.reasoning import split_reasoning
from .exchange import TextIndex
from .files import FAILED_CALL, read_files


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
    """Return a row's question id, turns and model; None for what it does not state."""
    question = next((row[key] for key in ("prompt_id", "id", "question_id", "uid") if row.get(key) is not None), None)
    model = next((row[key] for key in ("model", "model_id", "generator") if isinstance(row.get(key), str)), None)
    turns: JsonValue = row.get("turns", row.get("answer", row.get("output")))
    match row:
        case {"choices": [{"turns": [*turns]}, *_]}:
            pass
        case {"messages": [*_, {"content": content}]}:
            turns = [content]
    listed = turns if isinstance(turns, list) else [turns]
    texts = [_text(turn) for turn in listed]
    known = None if any(text is None for text in texts) or not texts else [text for text in texts if text is not None]
    return None if question is None else str(question), known, model if isinstance(model, str) else None


def _text(turn: JsonValue) -> str | None:
    """Return the text of a turn, which some tools wrap in an object."""
    text = turn.get("content", turn.get("answer")) if isinstance(turn, dict) else turn
    return text if isinstance(text, str) else None
