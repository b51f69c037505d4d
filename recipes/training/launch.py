"""A job in several processes: `accelerate launch` with the recipe's configuration, and what each process runs.

The job passes through a file; the main process writes the checkpoint. A sentence that ends a process comes back in
`failed.json`, everything else in the log.
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
"""What makes a process shard a model; the reference is whole in each, as it only goes forward once."""
RAISED: dict[str, type[HarnessError]] = {kind.__name__: kind for kind in (ConfigError, CheckpointError, StoreError)}


def launch(job: TrainingJob, config: Path) -> Trained:
    """Trains by `accelerate launch`; raises what the processes ended with."""
    from .run import trained

    if (before := trained(job)) is not None:
        return before
    if not config.is_file():
        raise ConfigError(f"launch: no accelerate configuration {str(config)!r}")
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
        command += ["--main_process_port", "0"]  # a free one: two recipes on one machine do not meet
    command += ["-m", "recipes.training.launch", task, str(path)]
    log.info("%s: accelerate launch with %s (%s)", job.name, config.name, task)
    with printed.open("ab") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if ended.returncode == 0:
        return
    try:
        failure = json.loads(failed.read_text("utf-8"))
    except (OSError, ValueError):
        raise IncompleteError(f"{job.name}: accelerate launch ended with {ended.returncode}; see {printed}") from None
    raise RAISED.get(failure["error"], IncompleteError)(failure["message"])


def main(task: str, path: Path) -> int:
    """One process of the launch; `what`: reference or train."""
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
