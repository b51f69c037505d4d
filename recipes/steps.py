"""One step of a recipe: files into a folder of its own, once, restartable.

`step.json` is written last and says what the step was made from and what it made; a folder without it is unfinished,
and the same command goes on in it. `begun.json` is written first: a folder begun with other settings is not gone on
with. The work itself resumes by its own rows or checkpoints.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from harness.digests import file_sha256
from harness.errors import ConfigError, IncompleteError, UsageError
from harness.provenance import packages
from harness.records import Record, digest
from harness.store import FolderLock, dump_json, set_aside, write_atomic

log = logging.getLogger(__name__)

DONE, BEGUN, CARD = "step.json", "begun.json", "README.md"
Counts = dict[str, JsonValue]
"""What a step says of what it did: prompts kept and dropped, answers, seconds of training."""


Origin = dict[str, dict[str, JsonValue]]
"""What a step is made from: its settings, and the digests of its inputs."""


class Output(Record):
    size: int
    sha256: str


class StepRecord(Record):
    """`step.json`."""

    stage: str
    settings: dict[str, JsonValue]
    inputs: dict[str, str]
    """Name of an earlier step -> its digest."""
    outputs: dict[str, Output]
    """File, relative to the folder."""
    counts: Counts = {}
    seconds: float
    """Wall time of the session that finished it."""
    packages: dict[str, JsonValue] = {}

    @property
    def digest(self) -> str:
        """Over what was made and from what; 16 hex characters. Neither time nor versions nor counts are part of it."""
        facts = self.model_dump(mode="json", include={"stage", "settings", "inputs", "outputs"})
        return digest(facts)[:16]


@dataclass(frozen=True)
class Step:
    """`work(folder)` makes the outputs, resuming what it finds there, and returns counts."""

    stage: str
    name: str
    """For messages and for later steps' inputs: unique in a recipe, e.g. `sources/qwen`."""
    folder: Path
    settings: dict[str, JsonValue]
    """All that decides what is made, inputs aside."""
    work: Callable[[Path], Counts] = field(compare=False)
    inputs: tuple[Step, ...] = ()
    keep: tuple[str, ...] = ("*.jsonl", "*.json", "*.safetensors", "*.jinja", "*.model", "*.md", "*.svg")
    """Patterns of the files that count as made; checkpoints of training and logs do not."""
    always: bool = False
    """A summary of what is there: made anew each time, whatever it was made from before."""
    alone: bool = False
    """Needs the machine to itself: no other step runs beside it (`--jobs`)."""


@dataclass(frozen=True)
class Outcome:
    """A step after its turn."""

    step: Step
    record: StepRecord
    skipped: bool
    """It was done already."""


def finished(step: Step) -> StepRecord | None:
    """What `step.json` says, None where there is none. Raises ConfigError where it cannot be read."""
    path = step.folder / DONE
    try:
        return StepRecord.model_validate_json(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} cannot be read: {reason}; move {step.folder} away") from None


def is_done(step: Step) -> bool:
    """Whether the step was finished from these settings and inputs, its files still there. Raises ConfigError where it
    was finished or begun from others."""
    if step.always:
        return False
    record = finished(step)
    if record is None:
        _check_begun(step)
        return False
    wanted = _origin(step)
    recorded: Origin = {"settings": record.settings, "inputs": dict(record.inputs)}
    if wanted != recorded:
        raise ConfigError(_mismatch(step, recorded, wanted))
    altered = [name for name, out in record.outputs.items() if _size(step.folder / name) != out.size]
    if altered:
        raise ConfigError(
            f"{step.folder / altered[0]} is not as the step {step.name!r} left it; restore it, or make it anew with "
            f"--from {step.stage}"
        )
    return True


def run_step(step: Step) -> StepRecord:
    """Does the step where it is not done; a later reader finds all of it or `step.json` missing.

    Raises RunLockedError where another process works in the folder.
    """
    if is_done(step):
        earlier = finished(step)
        assert earlier is not None
        return earlier
    with FolderLock(step.folder):
        started = time.monotonic()
        write_atomic(step.folder / BEGUN, dump_json(_origin(step)))
        log.info("%s", step.name)
        counts = _work(step)
        record = StepRecord(
            stage=step.stage,
            settings=_plain(step.settings),
            inputs=input_digests(step),
            outputs=_outputs(step),
            counts=counts,
            seconds=round(time.monotonic() - started, 3),
            packages=packages(),
        )
        write_atomic(step.folder / DONE, record.model_dump_json(indent=2) + "\n")
    return record


def _work(step: Step) -> Counts:
    try:
        return step.work(step.folder)
    except UsageError:
        # the recipe must be mended: what was begun with it, and made nothing, must not stand in the way
        if not any(path.stat().st_size for path in _made(step)):
            (step.folder / BEGUN).unlink(missing_ok=True)
        raise


def undo(step: Step) -> Path | None:
    """Moves a step's folder aside (`--from`); nothing is deleted."""
    return set_aside(step.folder)


def input_digests(step: Step) -> dict[str, str]:
    digests = {}
    for earlier in step.inputs:
        record = finished(earlier)
        if record is None:
            raise IncompleteError(f"step {step.name!r} needs {earlier.name!r}, which is not finished")
        digests[earlier.name] = record.digest
    return digests


def _check_begun(step: Step) -> None:
    path = step.folder / BEGUN
    try:
        recorded = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; move {step.folder} away") from None
    wanted = _origin(step)
    if recorded != wanted:
        raise ConfigError(_mismatch(step, recorded, wanted))


def _origin(step: Step) -> Origin:
    return {"settings": _plain(step.settings), "inputs": dict(input_digests(step))}


def _mismatch(step: Step, recorded: Origin, wanted: Origin) -> str:
    changed = []
    for part in ("settings", "inputs"):
        before, now = _flat(recorded[part]), _flat(wanted[part])
        keys = sorted(key for key in before | now if before.get(key) != now.get(key))
        changed += [f"{key} = {before.get(key)!r}, now {now.get(key)!r}" for key in keys]
    shown = changed[0] if len(changed[0]) < 200 else changed[0].partition(" = ")[0]
    return (
        f"{step.folder} was made with {shown}; restore that, or use --from {step.stage} to set it aside and make it "
        "anew, or give another output_dir"
    )


def _flat(settings: JsonValue, at: str = "") -> dict[str, JsonValue]:
    """Keys of nested settings with dots between them."""
    if not isinstance(settings, dict) or not settings:
        return {at: settings}
    return {
        key: leaf for name, nested in settings.items() for key, leaf in _flat(nested, f"{at}.{name}".strip(".")).items()
    }


def _outputs(step: Step) -> dict[str, Output]:
    return {
        str(path.relative_to(step.folder)): Output(size=path.stat().st_size, sha256=file_sha256(path))
        for path in _made(step)
    }


def _made(step: Step) -> list[Path]:
    return sorted({path for pattern in step.keep for path in step.folder.glob(pattern)} - _own(step))


def _own(step: Step) -> set[Path]:
    """Not outputs: the records, and the model card, which the report writes anew."""
    return {step.folder / DONE, step.folder / BEGUN, step.folder / CARD}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _plain(settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """As it is read back from JSON: lists for tuples, strings for paths."""
    plain: dict[str, JsonValue] = json.loads(json.dumps(settings))
    return plain
