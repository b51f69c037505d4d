"""Which machines a run has, by Slurm's and torchrun's variables, and the job that a user submits."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.records.errors import ConfigError
from recipes.spec import CONFIGS
from recipes.training.launch import Machines, claimed_machines, of_machines

SLURM = {"SLURM_NNODES": "3", "SLURM_NODEID": "2", "SLURM_JOB_NODELIST": "n[05,07-08]", "SLURM_JOB_ID": "123456"}


def test_one_machine_needs_no_others() -> None:
    assert of_machines({}) is None
    assert of_machines(SLURM | {"SLURM_NNODES": "1"}) is None
    assert of_machines(SLURM | {"SLURM_STEP_NUM_NODES": "1"}) is None  # srun --nodes=1 in a job of three
    assert of_machines({"RANK": "0", "WORLD_SIZE": "1"}) is None


def test_slurms_machines() -> None:
    assert of_machines(SLURM) == Machines(count=3, rank=2, address="n05", port=23456)


def test_torchruns_machines_come_before_slurms() -> None:
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29400", "LOCAL_WORLD_SIZE": "1"}

    assert of_machines(SLURM | torchrun) == Machines(count=2, rank=1, address="a", port=29401)


def test_what_this_process_starts_knows_the_machines_but_is_no_rank_of_torchruns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HARNESS_MACHINES", "")
    monkeypatch.delenv("HARNESS_MACHINES")  # so that it is taken away again after the test
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29400"}.items():
        monkeypatch.setenv(name, value)

    machines = claimed_machines()

    assert machines == of_machines() == Machines(count=2, rank=1, address="a", port=29401)
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="use --nproc_per_node=1"):
        of_machines({"RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "LOCAL_WORLD_SIZE": "8"})
    with pytest.raises(ConfigError, match="2 machines, but MASTER_ADDR does not name the first one"):
        of_machines({"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match="2 machines, but SLURM_JOB_NODELIST does not name the first one"):
        of_machines({"SLURM_NNODES": "2"})


def test_the_launcher_gets_the_whole_number_of_processes() -> None:
    words = Machines(count=2, rank=1, address="a", port=1).arguments(8, 555)

    assert " ".join(words) == (
        "--num_machines 2 --machine_rank 1 --num_processes 16 --main_process_ip a --main_process_port 555 "
        "--deepspeed_multinode_launcher standard"
    )


def test_the_slurm_job_passes_its_words_on_and_asks_to_be_requeued_before_its_end(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, does in {"srun": "sleep 5", "scontrol": "true"}.items():
        (commands / name).write_text(f'#!/bin/bash\necho {name} "$@" >> log\necho $$ > started.{name}\n{does}\n')
        (commands / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    words = ["bash", str(CONFIGS / "slurm" / "train.sbatch"), "mine.yaml", "--from", "sft"]

    job = subprocess.Popen(words, env=environ, cwd=tmp_path, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not (tmp_path / "started.srun").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    job.wait(60)

    assert (tmp_path / "log").read_text().splitlines() == [
        "srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 harness train mine.yaml --from sft",
        "scontrol requeue 7",
    ]
