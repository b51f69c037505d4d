"""A RUN as the command line names it: a run's folder, its card, or a model's name where that is unambiguous."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .errors import ConfigError
from .records import Answer, Judgment
from .store import JsonlRows, find_cards, read_card


def find_run(name: str, results: Path, suites: Collection[str] = ()) -> Path:
    """The folder of the run, which holds a card.

    `suites`: only runs of these count where a model is named; empty: of any. Raises ConfigError for a name that is no
    run, or is several.
    """
    path = Path(name)
    if path.name == "card.json" and path.is_file():
        return path.parent
    if (path / "card.json").is_file():
        return path
    found = []
    for file in find_cards(results):
        card = read_card(file)
        if name in (card.model, file.parents[2].name) and (not suites or card.suite in suites):
            found.append(file.parent)
    if len(found) == 1:
        return found[0]
    kind = f" of {' or '.join(sorted(suites))}" if suites else ""
    if not found:
        raise ConfigError(f"no run{kind} named {name!r}: give its folder, its card.json, or a model under {results}")
    listed = ", ".join(str(folder) for folder in found[:8])
    raise ConfigError(f"{name!r} has {len(found)} runs{kind}; name one folder of: {listed}")


def read_rows(folder: Path) -> tuple[list[Answer], list[Judgment]]:
    """A run's answers and judgments, the last row of each key; nothing is locked or mended."""
    answers, judgments = JsonlRows(folder / "answers.jsonl", Answer), JsonlRows(folder / "judgments.jsonl", Judgment)
    return answers.read(), judgments.read()
