"""Find the RUN that the command line names: a run's folder, its card, or an unambiguous model name."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from .errors import ConfigError
from .records import Answer, Judgment
from .store import JsonlRows, Row, find_cards, read_card


def find_run(name: str, results: Path, suites: Collection[str] = ()) -> Path:
    """Return the folder of the run, which contains a card.

    `suites`: if `name` is a model, consider only its runs on these suites; empty: on any. Raise ConfigError if no run
    or several runs match.
    """
    path = Path(name)
    if path.name == "card.json" and path.is_file():
        return path.parent
    if (path / "card.json").is_file():
        return path
    folders = []
    for file in find_cards(results):
        card = read_card(file)
        if name in (card.model, file.parents[2].name) and (not suites or card.suite in suites):
            folders.append(file.parent)
    if len(folders) == 1:
        return folders[0]
    kind = f" of {' or '.join(sorted(suites))}" if suites else ""
    if not folders:
        raise ConfigError(f"no run{kind} named {name!r}: give its folder, its card.json, or a model under {results}")
    listed = ", ".join(str(folder) for folder in folders[:8])
    raise ConfigError(f"{name!r} has {len(folders)} runs{kind}; name one folder of: {listed}")


def read_rows(folder: Path) -> tuple[list[Answer], list[Judgment]]:
    """Return a run's answers and judgments, the last row of each key, without locking or changing the files."""
    answers, judgments = JsonlRows(folder / "answers.jsonl", Answer), JsonlRows(folder / "judgments.jsonl", Judgment)
    return answers.read(), judgments.read()


def read_question(folder: Path, prompt_id: str) -> tuple[list[Answer], list[Judgment]]:
    """Return one question's answers and judgments, without reading the other rows."""
    answers = _rows_about(folder / "answers.jsonl", Answer, prompt_id)
    return answers, _rows_about(folder / "judgments.jsonl", Judgment, prompt_id)


def _rows_about(path: Path, row_type: type[Row], prompt_id: str) -> list[Row]:
    """Return the last row of every key of one prompt. For speed, lines without its id are not parsed."""
    name = json.dumps(prompt_id, ensure_ascii=False).encode()
    wanted = (b'"prompt_id":' + name, b'"prompt_id": ' + name)
    rows: dict[str, Row] = {}
    with path.open("rb") if path.exists() else io.BytesIO() as file:
        for line in file:
            if line.endswith(b"\n") and any(start in line for start in wanted):
                try:
                    row = row_type.model_validate_json(line)
                except ValidationError as error:
                    raise ConfigError(
                        f"{path}: a row of {prompt_id!r} is not a valid {row_type.__name__}: {error}"
                    ) from error
                if row.prompt_id == prompt_id:
                    rows[row.key] = row
    return list(rows.values())
