"""`harness watch`: which checkpoints of a training folder are whole, which were evaluated, and what came out.

A checkpoint is ready when it passes `check_whole` (all shards of the index there, every safetensors file as long as its
header says) and no file of it changed for a while. What was done is kept in one JSON file beside the results; it only
saves work, for `harness run` itself resumes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from .errors import CheckpointError, ConfigError
from .records import ModelRef, Record, Score, ScoreCard, digest
from .store import dump_json, write_atomic
from .weights import check_whole

MARKS = ("config.json", "adapter_config.json", "model.safetensors.index.json")
"""A folder with one of these is, or will be, a checkpoint."""


class Point(Record):
    """One suite's headline at one checkpoint."""

    suite: str
    metric: str
    judge: str
    protocol: str
    score: Score
    run_id: str


class Done(Record):
    """One evaluated checkpoint."""

    checkpoint: str
    """Folder name."""
    step: int | None
    fingerprint: str
    asked: str
    """Digest of the suites and flags it was evaluated with."""
    points: tuple[Point, ...]


class Watched(Record):
    """The state file."""

    folder: str
    """Name of the training folder."""
    done: tuple[Done, ...] = ()

    def has(self, candidate: Candidate, asked: str) -> bool:
        wanted = (candidate.name, candidate.fingerprint, asked)
        return any((one.checkpoint, one.fingerprint, one.asked) == wanted for one in self.done)

    def plus(self, done: Done) -> Watched:
        """With one more; an earlier state of the same checkpoint makes room."""
        kept = [one for one in self.done if (one.checkpoint, one.asked) != (done.checkpoint, done.asked)]
        return self.model_copy(update={"done": (*kept, done)})


@dataclass(frozen=True)
class Candidate:
    """A checkpoint folder as it is now."""

    path: Path
    step: int | None
    """The number its name ends in, or that `trainer_state.json` gives; None: neither does."""
    fingerprint: str
    """Of its files' names, sizes and times."""
    changed: float
    """When a file last changed, seconds since 1970."""

    @property
    def name(self) -> str:
        return self.path.name

    def problem(self, settle: float, now: float | None = None) -> str | None:
        """Why it is not ready, one sentence; None where it is. `settle`: seconds without a change."""
        age = (time.time() if now is None else now) - self.changed
        if age < settle:
            return f"written {max(age, 0):.0f} s ago; ready after {settle:g} s without a change"
        try:
            check_whole(self.path)
        except CheckpointError as error:
            return str(error)
        return None


def candidates(folder: Path) -> list[Candidate]:
    """Checkpoints of a training folder, by step, the folder itself last (the final model); `tmp-*` and dotted folders
    are still being written. Raises ConfigError where there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"no training folder {str(folder)!r}")
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "tmp-", "_"))]
    found = [made for path in inside if (made := _candidate(path)) is not None]
    found.sort(key=lambda one: (one.step is None, one.step or 0, one.name))
    own = _candidate(folder.resolve())
    return [*found, own] if own is not None else found


def _candidate(path: Path) -> Candidate | None:
    try:
        files = sorted((file.name, file.stat()) for file in path.iterdir() if file.is_file())
    except OSError:
        return None  # it went away, as trainers that keep the last few do
    names = {name for name, _ in files}
    if not names.intersection(MARKS) and not any(name.endswith(".safetensors") for name in names):
        return None
    stamps = [[name, status.st_size, status.st_mtime_ns] for name, status in files]
    changed = max(status.st_mtime for _, status in files)
    return Candidate(path, _step(path), digest(stamps)[:16], changed)


def _step(path: Path) -> int | None:
    match = re.search(r"(\d+)$", path.name)
    if match:
        return int(match[1])
    try:
        found = json.loads((path / "trainer_state.json").read_text("utf-8"))["global_step"]
        return found if isinstance(found, int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def state_file(results: Path, folder: Path) -> Path:
    """`results/watch/<name>-<digest of its place>.json`: two training folders of one name are two."""
    slug = ModelRef(scheme="path", name=folder.resolve().name or "training").slug
    return results / "watch" / f"{slug}-{digest(str(folder.resolve()))[:8]}.json"


def read_state(file: Path, folder: Path) -> Watched:
    try:
        return Watched.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Watched(folder=folder.resolve().name)
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{file} is no state of a watch: {str(error).splitlines()[0]}; remove it") from None


def write_state(file: Path, state: Watched) -> None:
    write_atomic(file, dump_json(state.model_dump(mode="json")))


def evaluated(candidate: Candidate, asked: str, cards: Iterable[ScoreCard]) -> Done:
    points = [
        Point(
            suite=card.suite,
            metric=card.headline,
            judge=card.judge,
            protocol=card.protocol_sha,
            score=card.scores[card.headline],
            run_id=str(card.provenance.get("run_id", "")),
        )
        for card in cards
    ]
    return Done(
        checkpoint=candidate.name,
        step=candidate.step,
        fingerprint=candidate.fingerprint,
        asked=asked,
        points=tuple(points),
    )


def trends(state: Watched) -> dict[tuple[str, str, str], list[tuple[Done, Point]]]:
    """(suite, metric, protocol) -> its points in the order of steps: only comparable numbers make one line."""
    found: dict[tuple[str, str, str], list[tuple[Done, Point]]] = {}
    for done in sorted(state.done, key=lambda one: (one.step is None, one.step or 0, one.checkpoint)):
        for point in done.points:
            found.setdefault((point.suite, point.metric, point.protocol), []).append((done, point))
    return found


def asked_digest(words: Sequence[str]) -> str:
    return digest(list(words))[:16]
