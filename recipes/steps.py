"""Run one step of a recipe: it writes files into its own folder, once, and can be resumed.

`begun.json` is written first, so that a folder started with other settings is not resumed. `step.json` is written last,
with the step's settings, inputs and outputs: a folder without it is unfinished, and the same command resumes it. The
work itself resumes from its own rows or checkpoints.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from harness.records.errors import ConfigError, IncompleteError, UsageError
from harness.store import FolderLock, archive_run, dump_json, write_atomic
from harness.store.files import file_sha256
from harness.store.provenance import packages

from .estimate import Estimator, Gpus, PlanItem
from .layout import DONE, Counts, Output, StepRecord, flat, record_in

log = logging.getLogger(__name__)


def log_to_terminal() -> None:
    """Log to the standard error of this process, with the time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


BEGUN, CARD = "begun.json", "README.md"
Origin = dict[str, dict[str, JsonValue]]
"""What decides a step's outputs: its settings, and the digests of its inputs."""


@dataclass(frozen=True)
class Step:
    """One step. `work(folder)` resumes in the folder, writes the outputs and returns counts."""

    stage: str
    name: str
    """Unique in a recipe, e.g. `sources/qwen`; used in messages and as the key of an input."""
    folder: Path
    settings: dict[str, JsonValue]
    """Everything that decides the outputs, except the inputs."""
    work: Callable[[Path], Counts] = field(compare=False)
    inputs: tuple[Step, ...] = ()
    keep: tuple[str, ...] = ("*.jsonl", "*.json", "*.safetensors", "*.jinja", "*.model", "*.md", "*.svg")
    """Patterns of output files. Training checkpoints and logs are not outputs."""
    always: bool = False
    """Whether to run the step every time, as for a summary of the current files."""
    alone: bool = False
    """Whether no other step may run at the same time."""
    one_core: bool = False
    """Whether --jobs may nevertheless run it beside others: it starts no server and loads its models itself."""
    gpus: Gpus = field(default=Gpus(), compare=False)
    """How many GPUs the step can use."""
    seed: int | None = None
    """The seed that the step belongs to. It decides the outputs only if `settings` has it too."""
    estimate: Callable[[Estimator, PlanItem], Iterable[PlanItem]] = field(
        default=lambda estimator, item: [item], compare=False
    )
    """Return what `work` still has to do, for --dry-run. The default: too little to count."""


@dataclass(frozen=True)
class Outcome:
    """A finished step and its record."""

    step: Step
    record: StepRecord
    skipped: bool
    """Whether the step was already done."""


def finished(step: Step) -> StepRecord | None:
    """Return the step's record, or None if it is unfinished. Raise ConfigError if `step.json` cannot be read."""
    return record_in(step.folder)


def is_done(step: Step) -> bool:
    """Return whether the step is finished and its files are still there.

    Raise ConfigError if it was started or finished with other settings or inputs, if an output has changed, or if its
    folder has files of the user.
    """
    check_unowned(step)
    if step.always:
        return False
    record = finished(step)
    if record is None:
        _check_begun(step)
        return False
    origin = _origin(step)
    recorded = _deciding({"settings": record.settings, "inputs": dict(record.inputs)})
    if origin != recorded:
        raise ConfigError(_mismatch(step, recorded, origin))
    altered = [name for name, out in record.outputs.items() if _size(step.folder / name) != out.size]
    if altered:
        raise ConfigError(
            f"{step.folder / altered[0]} has changed since the step {step.name!r} wrote it; restore it, or write it "
            f"again with --from {step.stage}"
        )
    return True


def remaining(estimator: Estimator, steps: Iterable[Step]) -> dict[str, tuple[PlanItem, ...]]:
    """Return what each step still has to do."""
    return {
        step.name: tuple(
            step.estimate(
                estimator,
                PlanItem(stage=step.stage, name=step.name, seed=step.seed, done=estimator.done(step.name, step.folder)),
            )
        )
        for step in steps
    }


def gpu_hours(work: Mapping[str, Iterable[PlanItem]]) -> dict[str, float]:
    """Return the GPU-hours of each step whose speed is known."""
    hours = {name: [item.gpu_hours for item in items] for name, items in work.items()}
    return {name: sum(filter(None, values)) for name, values in hours.items() if None not in values}


def run_step(step: Step) -> StepRecord:
    """Run the step unless it is done, and return its record. `step.json` exists only if all outputs do.

    Raise RunLockedError if another process works in the folder.
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
            settings=_as_json(step.settings),
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
        # The user must fix the recipe. A start that wrote nothing must not block the fixed settings.
        if not any(path.stat().st_size for path in _output_files(step)):
            (step.folder / BEGUN).unlink(missing_ok=True)
        raise


def undo(step: Step) -> Path | None:
    """Archive a step's folder (`--from`) and return its new path, None if no step wrote there. Nothing is deleted."""
    # a folder without our records holds the user's files, if any: run_step refuses it instead
    return archive_run(step.folder) if _is_ours(step) else None


def input_digests(step: Step) -> dict[str, str]:
    """Return the digest of each input by name. Raise IncompleteError if one is unfinished."""
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
    origin, recorded = _origin(step), _deciding(recorded)
    if recorded != origin:
        raise ConfigError(_mismatch(step, recorded, origin))


def check_unowned(step: Step) -> None:
    """Raise ConfigError if the folder of a step that never started has files that the step could overwrite."""
    if _is_ours(step):
        return
    unowned = next((path for path in [*_output_files(step), step.folder / CARD] if _size(path) > 0), None)
    if unowned is not None:
        raise ConfigError(
            f"{unowned} was not written by harness train, and step {step.name!r} could overwrite it; move it away, or "
            "give another output_dir"
        )


def _is_ours(step: Step) -> bool:
    return any((step.folder / name).exists() for name in (DONE, BEGUN))


def _origin(step: Step) -> Origin:
    return _deciding({"settings": _as_json(step.settings), "inputs": dict(input_digests(step))})


def _deciding(origin: Origin) -> Origin:
    """Return what decides the outputs: not how many failed answers are tolerated, which may be raised to continue."""
    settings = {key: value for key, value in origin["settings"].items() if key != "max_failed"}
    return {**origin, "settings": settings}


def _mismatch(step: Step, recorded: Origin, origin: Origin) -> str:
    changed = []
    for section in ("settings", "inputs"):
        before, now = flat(recorded[section]), flat(origin[section])
        keys = sorted(key for key in before | now if before.get(key) != now.get(key))
        changed += [f"{key} = {before.get(key)!r}, now {now.get(key)!r}" for key in keys]
    change = changed[0] if len(changed[0]) < 200 else changed[0].partition(" = ")[0]
    return (
        f"{step.folder} was made with {change}; restore the old value, use --from {step.stage} to archive the folder "
        "and start it over, or choose another output_dir"
    )


def _outputs(step: Step) -> dict[str, Output]:
    return {
        str(path.relative_to(step.folder)): Output(size=path.stat().st_size, sha256=file_sha256(path))
        for path in _output_files(step)
    }


def _output_files(step: Step) -> list[Path]:
    # not outputs: the records, and the model card, which every report rewrites
    bookkeeping = {step.folder / name for name in (DONE, BEGUN, CARD)}
    return sorted({path for pattern in step.keep for path in step.folder.glob(pattern)} - bookkeeping)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _as_json(settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the settings as they read back from JSON, e.g. with lists instead of tuples."""
    read_back: dict[str, JsonValue] = json.loads(json.dumps(settings))
    return read_back
