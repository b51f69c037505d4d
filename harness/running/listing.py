"""The runs of a results folder, finished or not, from their manifests and cards: no row is parsed, so it is quick.

[run for run in list_runs(Path("results")) if run.state == "unfinished"]
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..records.errors import ConfigError
from ..store import read_card
from ..store.files import is_hidden

State = Literal["finished", "incomplete", "unfinished", "unreadable"]
"""finished: a complete card. incomplete: a card with under 90 % scored. unfinished: rows, but no card yet."""


@dataclass(frozen=True)
class ListedRun:
    model: str
    suite: str
    """`SUITE@VERSION`."""
    run_id: str
    state: State
    score: str
    """The headline, or a dash."""
    answers: int
    judgments: int
    """Lines of the files: rows that were retried count again."""
    changed: str
    """UTC, YYYY-MM-DD HH:MM, of the newest file."""
    folder: str

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


def list_runs(results: Path) -> list[ListedRun]:
    """Return every run under `results/runs`, the one that changed last at the end; without archived ones."""
    folders = {
        path.parent
        for name in ("manifest.json", "card.json")
        for path in (results / "runs").glob(f"*/*@*/*/{name}")
        if not is_hidden(path.relative_to(results))
    }
    return [run for _, run in sorted(((_changed(folder), _listed(folder)) for folder in folders), key=_by_time)]


def _by_time(item: tuple[float, ListedRun]) -> tuple[float, str]:
    return item[0], item[1].folder


def _listed(folder: Path) -> ListedRun:
    model, score = folder.parents[1].name, "-"
    state: State = "unfinished"
    if (folder / "card.json").exists():
        try:
            card = read_card(folder / "card.json")
        except ConfigError:
            state = "unreadable"
        else:
            value = card.scores[card.headline].value
            model, score = card.model, "-" if value is None else f"{value:.2f}"
            state = "finished" if card.complete else "incomplete"
    return ListedRun(
        model=model,
        suite=folder.parent.name,
        run_id=folder.name,
        state=state,
        score=score,
        answers=_lines(folder / "answers.jsonl"),
        judgments=_lines(folder / "judgments.jsonl"),
        changed=time.strftime("%Y-%m-%d %H:%M", time.gmtime(_changed(folder))),
        folder=str(folder),
    )


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    except OSError:
        return 0


def _changed(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.iterdir() if file.is_file()), default=0.0)
