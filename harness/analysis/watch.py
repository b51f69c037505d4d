"""Find which checkpoints of a training folder are complete, which were evaluated, and their scores (`harness watch`).

A checkpoint is ready if it passes `check_whole` (all shards of the index exist, every safetensors file has the length
in its header) and none of its files changed for a while. Evaluated checkpoints are recorded in one JSON file beside the
results. The file only saves work, because `harness run` itself resumes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from ..records import ModelRef, Record, Score, ScoreCard, digest
from ..records.errors import CheckpointError, ConfigError, one_line
from ..records.facts import higher_is_better
from ..store import dump_json, write_atomic
from ..store.checkpoint import check_whole

MARKS = ("config.json", "adapter_config.json", "model.safetensors.index.json")
"""A folder with one of these is, or will become, a checkpoint."""


class HeadlinePoint(Record):
    """One suite's headline at one checkpoint."""

    suite: str
    metric: str
    judge: str
    protocol: str
    score: Score
    run_id: str
    higher_is_better: bool | None = Field(default=True, exclude_if=lambda direction: direction is True)
    """None: neither is, or nobody states which."""


class EvaluatedCheckpoint(Record):
    """One evaluated checkpoint."""

    checkpoint: str
    """Folder name."""
    step: int | None
    fingerprint: str
    asked: str
    """Digest of the suites and flags of the evaluation."""
    points: tuple[HeadlinePoint, ...]


class WatchState(Record):
    """The state file of one training folder."""

    folder: str
    """Name of the training folder."""
    done: tuple[EvaluatedCheckpoint, ...] = ()

    def has(self, candidate: Candidate, settings_sha: str) -> bool:
        key = (candidate.name, candidate.fingerprint, settings_sha)
        return any((entry.checkpoint, entry.fingerprint, entry.asked) == key for entry in self.done)

    def plus(self, latest: EvaluatedCheckpoint) -> WatchState:
        """Return the state with one more checkpoint, which replaces an entry for the same checkpoint and settings."""
        remaining = [
            entry for entry in self.done if (entry.checkpoint, entry.asked) != (latest.checkpoint, latest.asked)
        ]
        return self.model_copy(update={"done": (*remaining, latest)})


@dataclass(frozen=True)
class Candidate:
    """A checkpoint folder in its current state."""

    path: Path
    step: int | None
    """The number at the end of its name, or in `trainer_state.json`; None if neither exists."""
    fingerprint: str
    """Digest of its files' names, sizes and times."""
    changed: float
    """Time of the last change, seconds since 1970."""

    @property
    def name(self) -> str:
        return self.path.name

    def problem(self, settle: float, now: float | None = None) -> str | None:
        """Return one sentence on why it is not ready, or None if it is. `settle`: required seconds without a change."""
        age = (time.time() if now is None else now) - self.changed
        if age < settle:
            return f"written {max(age, 0):.0f} s ago; ready after {settle:g} s without a change"
        try:
            check_whole(self.path)
        except CheckpointError as error:
            return str(error)
        return None


def candidates(folder: Path) -> list[Candidate]:
    """Return the checkpoints of a training folder by step, then the folder itself (the final model).

    Folders named `tmp-*` or with a leading dot are still being written. Raise ConfigError if the folder does not exist.
    """
    if not folder.is_dir():
        raise ConfigError(f"no training folder {str(folder)!r}")
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "tmp-", "_"))]
    checkpoints = [checkpoint for path in inside if (checkpoint := _candidate(path)) is not None]
    # folders without a step (such as "best") come last
    checkpoints.sort(key=lambda checkpoint: (checkpoint.step is None, checkpoint.step or 0, checkpoint.name))
    final = _candidate(folder.resolve())
    return [*checkpoints, final] if final is not None else checkpoints


def _candidate(path: Path) -> Candidate | None:
    try:
        files = sorted((file.name, file.stat()) for file in path.iterdir() if file.is_file())
    except OSError:
        return None  # removed meanwhile, by a trainer that keeps only the last few
    names = {name for name, _ in files}
    if not names.intersection(MARKS) and not any(name.endswith(".safetensors") for name in names):
        return None
    # digests of the contents would read gigabytes on every look
    stamps = [[name, status.st_size, status.st_mtime_ns] for name, status in files]
    changed = max(status.st_mtime for _, status in files)
    return Candidate(path, _step(path), digest(stamps)[:16], changed)


def _step(path: Path) -> int | None:
    match = re.search(r"(\d+)$", path.name)
    if match:
        return int(match[1])
    try:
        step = json.loads((path / "trainer_state.json").read_text("utf-8"))["global_step"]
        return step if isinstance(step, int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def state_file(results: Path, folder: Path) -> Path:
    """Return `results/watch/<name>-<digest of its path>.json`, so that two folders of one name have two files."""
    slug = ModelRef(scheme="path", name=folder.resolve().name or "training").slug
    return results / "watch" / f"{slug}-{digest(str(folder.resolve()))[:8]}.json"


def read_state(file: Path, folder: Path) -> WatchState:
    try:
        return WatchState.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return WatchState(folder=folder.resolve().name)
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{file} is not a valid watch state: {one_line(error)}; remove it") from None


def write_state(file: Path, state: WatchState) -> None:
    write_atomic(file, dump_json(state.model_dump(mode="json")))


def evaluated(candidate: Candidate, settings_sha: str, cards: Iterable[ScoreCard]) -> EvaluatedCheckpoint:
    points = [
        HeadlinePoint(
            suite=card.suite,
            metric=card.headline,
            judge=card.judge,
            protocol=card.protocol_sha,
            score=card.scores[card.headline],
            run_id=str(card.provenance.get("run_id", "")),
            higher_is_better=higher_is_better(card, card.headline),
        )
        for card in cards
    ]
    return EvaluatedCheckpoint(
        checkpoint=candidate.name,
        step=candidate.step,
        fingerprint=candidate.fingerprint,
        asked=settings_sha,
        points=tuple(points),
    )


def trends(state: WatchState) -> dict[tuple[str, str, str], list[tuple[EvaluatedCheckpoint, HeadlinePoint]]]:
    """Return (suite, metric, protocol) -> its points in the order of steps: only comparable numbers form one line."""
    points_by_metric: dict[tuple[str, str, str], list[tuple[EvaluatedCheckpoint, HeadlinePoint]]] = {}
    for entry in sorted(state.done, key=lambda entry: (entry.step is None, entry.step or 0, entry.checkpoint)):
        for point in entry.points:
            points_by_metric.setdefault((point.suite, point.metric, point.protocol), []).append((entry, point))
    return points_by_metric


def settings_digest(words: Sequence[str]) -> str:
    return digest(list(words))[:16]
