"""Train in several processes: start `accelerate launch` with the recipe's configuration, and run one of its processes.

The job is passed as a file, and the main process writes the checkpoint. A process that fails with one of our errors
writes it to `failed.json`, so that the caller can raise it again; everything else goes to the log.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CheckpointError, ConfigError, HarnessError, IncompleteError, StoreError
from harness.store import make_folder, write_atomic

from .job import TrainingJob

if TYPE_CHECKING:
    from .run import Trained

log = logging.getLogger(__name__)
FAILED = "failed.json"
SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "FSDP_CPU_RAM_EFFICIENT_LOADING")
"""Variables that make a process shard the model. The reference runs unsharded: one forward pass needs little memory."""
RAISED: dict[str, type[HarnessError]] = {kind.__name__: kind for kind in (ConfigError, CheckpointError, StoreError)}


def launch(job: TrainingJob, config: Path) -> Trained:
    """Train a job with `accelerate launch` and return its record, or the existing record if the job is finished.

    Raise the HarnessError that ended a process, or IncompleteError if the processes failed in another way.
    """
    from .run import trained

    if (before := trained(job)) is not None:
        return before
    if not config.is_file():
        raise ConfigError(
            f"launch: there is no accelerate configuration {str(config)!r}; give a file or a shipped name"
        )
    make_folder(job.checkpoints)
    path = job.checkpoints / "job.json"
    write_atomic(path, job.model_dump_json(indent=2) + "\n")
    if job.reference is not None and not job.reference.is_file():
        _launch(job, config, "reference", path)
    _launch(job, config, "train", path)
    done = trained(job)
    if done is None:
        raise IncompleteError(f"{job.name}: the launched processes left no {job.checkpoints / 'trained.json'}")
    return done


def _launch(job: TrainingJob, config: Path, task: str, path: Path) -> None:
    failed, printed = job.checkpoints / FAILED, job.checkpoints / f"{task}.log"
    failed.unlink(missing_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    if "main_process_port" not in config.read_text("utf-8"):
        command += ["--main_process_port", "0"]  # any free port, so that two recipes can train on one machine
    command += ["-m", "recipes.training.launch", task, str(path)]
    log.info("%s: accelerate launch with %s (%s)", job.name, config.name, task)
    with printed.open("ab") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if ended.returncode == 0:
        return
    try:
        failure = json.loads(failed.read_text("utf-8"))
    except (OSError, ValueError):
        message = f"{job.name}: accelerate launch exited with code {ended.returncode}; see {printed}"
        raise IncompleteError(message) from None
    raise RAISED.get(failure["error"], IncompleteError)(failure["message"])


def main(task: str, path: Path) -> int:
    """Run one launched process and return its exit code. `task` is `reference` or `train`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if task == "reference":
        for name in SHARDING:
            os.environ.pop(name, None)
    from .run import store_reference, train

    job = TrainingJob.model_validate_json(path.read_text("utf-8"))
    try:
        (store_reference if task == "reference" else train)(job)
    except HarnessError as error:
        log.error("%s", error)
        facts = {"error": type(error).__name__, "message": str(error)}
        write_atomic(job.checkpoints / FAILED, json.dumps(facts) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
