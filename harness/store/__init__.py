"""Write results, as the only room that does: a folder per run, append-only JSONL, atomic whole files.

    results/runs/<model>/<suite>@<version>/<run-id>/
        manifest.json     what the run is; written before the first row
        answers.jsonl     one Answer per line, appended as it arrives
        judgments.jsonl   one Judgment per line, likewise
        anchors.jsonl     one Judgment per line, of recorded answers judged again; only if the run has anchors
        baseline.jsonl    one Answer per line, of an imported run that compares with another baseline than the suite's
        sessions.jsonl    seconds and tokens of each process that worked here and ended
        served.jsonl      what an endpoint: showed of its model when a session began; only there
        card.json         the ScoreCard; written last

Rows are looked up by key and byte offset, so only keys are in memory, never texts. If a key occurs twice, the last row
wins. A row with a failure is not done: the same command asks again.
"""

from .files import (
    LOCK,
    LOCK_FILES,
    FolderLock,
    archive_run,
    dump_json,
    find_cards,
    locked,
    make_folder,
    read_card,
    run_dir,
    write_atomic,
    write_bytes,
    write_lines,
)
from .runs import JsonlRows, Row, RunStore

__all__ = [
    "LOCK",
    "LOCK_FILES",
    "FolderLock",
    "JsonlRows",
    "Row",
    "RunStore",
    "archive_run",
    "dump_json",
    "find_cards",
    "locked",
    "make_folder",
    "read_card",
    "run_dir",
    "write_atomic",
    "write_bytes",
    "write_lines",
]
