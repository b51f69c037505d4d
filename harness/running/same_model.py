"""Tell whether the model behind a foreign server is still the one whose answers a run has.

>>> differences({"root": "ckpt-1"}, {"root": "ckpt-2", "max_model_len": 4096})
["root 'ckpt-1', now 'ckpt-2'"]

A name and an address say nothing: `vllm serve ckpt-N --served-model-name candidate` is the same for every checkpoint.
So each session asks the server what it states and for one greedy answer, and appends both to `served.jsonl` of the run.
Our own servers need none of this, as the digest of the weights is part of the run's id.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..records.errors import ConfigError, HarnessError, StoreError
from ..records.protocols import Backend, Foreign, Presented
from ..store import make_folder
from .pipeline import SuiteRun

FILE = "served.jsonl"
NOISE = 0.05
"""Nats by which a greedy token's log-probability varies on one server: other requests in its batch change the order of
sums in bfloat16."""
ADVICE = "use --fresh to ask this one, or --assume-same if it is the same model"
log = logging.getLogger(__name__)


async def ask_foreign(backend: Backend, *, needed: bool) -> Presented | None:
    """Return what a foreign server shows of its model now, or None for a server of ours.

    Raise ServerError or ConfigError if it is gone or lacks the model and answers are `needed`; otherwise that is only
    reported, since stored answers can be judged and scored without it.
    """
    if not isinstance(backend, Foreign):
        return None
    try:
        return await backend.presented()
    except HarnessError as error:
        if needed:
            raise
        log.warning("no answer is missing, and the server cannot show whether its model is still the same: %s", error)
        return None


async def check_same_model(backend: Backend, runs: Sequence[SuiteRun], *, assume_same: bool) -> Presented | None:
    """Return what a foreign server shows, compared with the runs' earlier sessions and stored with each of them.

    Raise ConfigError, before anything is stored, if it states another model and not `assume_same`.
    """
    presented = await ask_foreign(backend, needed=any(run.answers_open for run in runs))
    if presented is not None:
        # two loops: nothing may be recorded for one suite if another one's check fails
        for run in runs:
            if run.store.answers.count_succeeded:
                check_served(run.store.folder, presented, assume_same=assume_same)
        for run in runs:
            record_served(run.store.folder, presented)
    return presented


def check_served(folder: Path, presented: Presented, *, assume_same: bool = False, advice: str = ADVICE) -> None:
    """Raise ConfigError if the folder's last session was served by a model that stated something else.

    Warn if only its canary answer differs, since not every server is deterministic.
    """
    last = last_session(folder)
    if last is None:
        return
    when = last.get("at", "an earlier session")
    changed = differences(last.get("metadata"), presented.metadata)
    if changed and not assume_same:
        raise ConfigError(
            f"{folder} has answers of {when} from another model: the server states {'; '.join(changed)}; {advice}"
        )
    if changed:
        log.warning("%s: taken for the model of %s, although the server states %s", folder, when, "; ".join(changed))
    elif canary_differs(last.get("canary"), presented.canary):
        log.warning(
            "%s: the server's answer to the canary prompt is not that of %s: another model may stand behind its name, "
            "or it is not deterministic; if another, %s",
            folder,
            when,
            advice.partition(",")[0],
        )


def differences(before: object, current: Mapping[str, JsonValue]) -> list[str]:
    """Return what a server states otherwise than before, for what it states at both times. Pure."""
    if not isinstance(before, dict):
        return []
    return [
        f"{key} {before[key]!r}, now {value!r}" for key, value in current.items() if before.get(key, value) != value
    ]


def canary_differs(before: object, current: Mapping[str, JsonValue] | None) -> bool:
    """Return whether two canary answers differ in words, or by more than NOISE in a log-probability. Pure."""
    if not isinstance(before, dict) or current is None:
        return False
    if any(before.get(key) != current.get(key) for key in ("text", "reasoning")):
        return True
    # servers may state different numbers of log-probabilities; the common ones are enough
    pairs = zip(_logprobs(before), _logprobs(current), strict=False)
    return any(abs(earlier - later) > NOISE for earlier, later in pairs)


def _logprobs(canary: Mapping[str, Any]) -> list[float]:
    tokens = canary.get("logprobs")
    values = [float(token[1]) for token in tokens] if isinstance(tokens, list) else []
    return [value for value in values if math.isfinite(value)]


def last_session(folder: Path) -> dict[str, Any] | None:
    """Return the last whole line of `served.jsonl`, or None without one. Raise StoreError if it cannot be read."""
    path = folder / FILE
    try:
        lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    for line in reversed(lines):
        try:
            session = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if isinstance(session, dict):
            return session
    return None


def record_served(folder: Path, presented: Presented) -> None:
    """Append what the server shows now. Raise StoreError if it cannot be written."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    make_folder(folder)
    path = folder / FILE
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": stamp, **asdict(presented)}, sort_keys=True) + "\n")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def earlier_answers(run: SuiteRun) -> str | None:
    """Return a sentence if every answer of a run exists already, with when its last answering session ended."""
    if run.answers_open or not run.store.answers.count_succeeded:
        return None
    ends = [session.get("ended") for session in run.store.sessions() if session.get("answer_rows")]
    when = ends[-1] if ends else time.strftime("%Y-%m-%d", time.gmtime(run.store.answers.path.stat().st_mtime))
    name, count = run.plan.suite.name, run.store.answers.count_succeeded
    return f"{name}: all {count} answers are of an earlier session ({when}); none is asked again without --fresh"
