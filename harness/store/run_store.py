"""One run's folder while it is open: locked, checked against its manifest, its rows and its card."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from ..errors import ConfigError, StoreError
from ..records import Answer, Judgment, ScoreCard
from .files import dump_json, set_aside, write_atomic
from .lock import LOCK, FolderLock
from .rows import JsonlRows

log = logging.getLogger(__name__)


class RunStore:
    """One run's folder, locked while open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: JsonlRows[Answer] = JsonlRows(folder / "answers.jsonl", Answer)
        self.judgments: JsonlRows[Judgment] = JsonlRows(folder / "judgments.jsonl", Judgment)
        self.anchors: JsonlRows[Judgment] = JsonlRows(folder / "anchors.jsonl", Judgment)
        self._lock = FolderLock(folder)

    def open(self, manifest: dict[str, JsonValue], *, fresh: bool = False) -> Self:
        """Locks the folder and writes the manifest, or checks that the one there is the same. `fresh` moves an earlier
        run out of the way; nothing is deleted.

        Raises RunLockedError when another process works here, ConfigError when the manifest is another run's.
        """
        self._lock.take()
        if fresh and (self.folder / "manifest.json").exists():
            set_aside(self.folder)
            self._lock.release()
            self._lock.take()
        try:
            self._check_manifest(manifest)
            self.answers.open()
            self.judgments.open()
        except BaseException:
            self.close()
            raise
        return self

    def _check_manifest(self, manifest: dict[str, JsonValue]) -> None:
        path = self.folder / "manifest.json"
        if not path.exists():
            write_atomic(path, dump_json(manifest))
            return
        there = json.loads(path.read_text("utf-8"))
        manifest = json.loads(dump_json(manifest))  # what is read back: lists for tuples
        changed = sorted(key for key in manifest | there if there.get(key) != manifest.get(key))
        if changed:
            raise ConfigError(f"{path} belongs to a run with another {', '.join(changed)}; use --fresh to start anew")

    def close(self) -> None:
        """Unlocks; a run that has no row yet (a checkpoint that would not start) leaves no folder behind."""
        opened = self.answers.is_open and self.judgments.is_open
        self.answers.close()
        self.judgments.close()
        self.anchors.close()
        if self._lock.held:
            rows = len(self.answers) + len(self.judgments) + len(self.anchors)
            if opened and not (rows or (self.folder / "card.json").exists()):
                self._remove_empty()
            self._lock.release()

    def _remove_empty(self) -> None:
        for name in ("answers.jsonl", "judgments.jsonl", "anchors.jsonl", "manifest.json", LOCK):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder, *list(self.folder.parents)[:2]):
            try:
                folder.rmdir()
            except OSError:
                return  # something else lives there

    def every_judgment(self) -> Iterator[Judgment]:
        """All that this run was told, anchors too, rows that a later one replaced included."""
        for rows in (self.judgments, self.anchors):
            if rows.is_open:
                yield from rows.every()

    def end_session(self, usage: dict[str, JsonValue]) -> None:
        """Appends what this process spent here."""
        try:
            with (self.folder / "sessions.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(usage, sort_keys=True) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {self.folder}/sessions.jsonl: {error.strerror}") from error

    def sessions(self) -> list[dict[str, float]]:
        """Earlier `end_session` records; a torn or foreign line is passed over, since no score depends on them."""
        path = self.folder / "sessions.jsonl"
        found = []
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                log.warning("%s: passed over a torn line", path)
        return found

    def write_card(self, card: ScoreCard) -> Path:
        path = self.folder / "card.json"
        write_atomic(path, dump_json(card.model_dump(mode="json")))
        return path
