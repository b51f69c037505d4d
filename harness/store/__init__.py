"""The only writer of results: one folder a run, append-only JSONL, atomic whole files, one process at a time.

    results/runs/<model>/<suite>@<version>/<run-id>/
        manifest.json     what the run is; written before the first row
        answers.jsonl     one Answer a line, appended as it arrives
        judgments.jsonl   one Judgment a line, likewise
        anchors.jsonl     one Judgment a line, of recorded answers judged again; only where a run has anchors
        sessions.jsonl    seconds and tokens of each process that worked here and ended
        card.json         the ScoreCard; written last

Rows are found again by key and byte offset, so memory holds keys, never texts. Where a key occurs twice the last row
wins. A row that holds a failure is not done: the same command asks again.
"""

from .files import (
    dump_json,
    find_cards,
    make_folder,
    read_card,
    run_dir,
    set_aside,
    write_atomic,
    write_bytes,
    write_lines,
)
from .lock import LOCK, FolderLock
from .rows import JsonlRows, Row
from .run_store import RunStore

__all__ = [
    "LOCK",
    "FolderLock",
    "JsonlRows",
    "Row",
    "RunStore",
    "dump_json",
    "find_cards",
    "make_folder",
    "read_card",
    "run_dir",
    "set_aside",
    "write_atomic",
    "write_bytes",
    "write_lines",
]
