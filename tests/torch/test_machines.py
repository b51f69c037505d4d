"""Two machines train what one process does; they are two process groups of this one (gloo).

Each starts its own share under every accelerate configuration, DeepSpeed's included.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("torch")
pytest.importorskip("trl")

from recipes.spec import CONFIGS
from recipes.steps import run_step
from recipes.training.launch import Machines
from tests.fakes.machine import ROWS, TRAINING
from tests.fakes.training_steps import aligned, distance, losses, made, pairs_of, sft_of, target_folder

EACH = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: 'no'
num_machines: 1
num_processes: 1
"""
EACH_ZERO_3 = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
mixed_precision: 'no'
num_machines: 1
num_processes: 1
use_cpu: true
deepspeed_config:
  zero_stage: 3
  zero3_init_flag: true
  zero3_save_16bit_model: true
  offload_optimizer_device: none
  offload_param_device: none
"""
PDSH = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
num_machines: 2
num_processes: 16
deepspeed_config:
  zero_stage: 3
  deepspeed_multinode_launcher: pdsh
"""


def slurm(rank: int, restarts: int) -> dict[str, str]:
    job = str(os.getpid() + restarts)  # a port of its own, as after a requeue the old one may linger
    return {
        "SLURM_NNODES": "2",
        "SLURM_NODEID": str(rank),
        "SLURM_JOB_NODELIST": "localhost,b[1-3]",
        "SLURM_JOB_ID": job,
    }


def torchrun(rank: int, restarts: int) -> dict[str, str]:
    port = str(20000 + (os.getpid() + 77 + restarts) % 10000)
    return {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port}


def start(out: Path, words: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    environ = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.fakes.machine", *words]
    with (out / f"machine-{variables.get('RANK') or variables['SLURM_NODEID']}.log").open("ab") as log:
        return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the machine: the process and the trainings that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("config", [*sorted(path.name for path in (CONFIGS / "accelerate").iterdir()), PDSH])
def test_each_machine_starts_its_own_share(tmp_path: Path, config: str) -> None:
    """A machine must not start processes on the others, as accelerate does under DeepSpeed by pdsh and a host file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    file = CONFIGS / "accelerate" / config
    if config == PDSH:
        file = tmp_path / "pdsh.yaml"
        file.write_text(PDSH)
    words = Machines(count=2, rank=1, address="gpu07", port=20000).arguments(8, 20005)
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(file), *words, "-m", "recipes.training.launch"])
    )
    args.deepspeed_fields_from_accelerate_config = ""
    if args.use_deepspeed:
        command, _ = prepare_deepspeed_cmd_env(args)
        assert command is None  # no command of DeepSpeed's: torchrun gets these options
    else:
        prepare_multi_gpu_env(args)

    assert (args.nnodes, args.node_rank, args.nproc_per_node) == ("2", 1, "8")
    assert args.rdzv_endpoint == "gpu07:20005"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "each"),
    [(slurm, EACH), (torchrun, EACH), (slurm, EACH_ZERO_3)],
    ids=["slurm", "torchrun", "slurm-zero-3"],
)
def test_two_machines_train_what_one_does_and_resume_after_a_kill(
    tmp_path: Path, variables: object, each: str, monkeypatch: pytest.MonkeyPatch, record_property: object
) -> None:
    assert callable(variables)
    assert callable(record_property)
    if each is EACH_ZERO_3:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make test-deepspeed")
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    target = target_folder(tmp_path / "target")
    config = tmp_path / "each.yaml"
    config.write_text(each)
    here = made(tmp_path / "here", target, training=TRAINING)
    sft = sft_of(here)
    run_step(sft)
    alone = aligned(here, sft, pairs_of(here, ROWS))[0]
    run_step(alone)

    words = [str(tmp_path / "there"), str(target), str(config)]
    align = tmp_path / "there" / "seed-42" / "align"
    machines = [start(tmp_path, words, variables(rank, 0)) for rank in (0, 1)]
    limit = time.monotonic() + 900
    while not list(align.glob("*/checkpoints/checkpoint-*/whole.json")) and time.monotonic() < limit:
        assert machines[0].poll() is None, (tmp_path / "machine-0.log").read_text()[-3000:]
        time.sleep(0.02)
    for machine in machines:
        kill(machine)
    assert not list(align.glob("*/step.json"))

    machines = [start(tmp_path, words, variables(rank, 1)) for rank in (0, 1)]
    codes = [machine.wait(900) for machine in machines]

    assert codes == [0, 0], (tmp_path / "machine-0.log").read_text()[-3000:]
    there = made(
        tmp_path / "there", target, training={**TRAINING, "per_device_train_batch_size": 2}, launch=str(config)
    )
    both = aligned(there, sft_of(there), pairs_of(there, ROWS))[0]
    record = json.loads((both.folder / "step.json").read_text())
    assert (record["counts"]["processes"], record["counts"]["batch"], record["counts"]["steps"]) == (2, 4, 24)
    log = (both.folder / "checkpoints" / "train.log").read_text()
    assert log.count("step 1 of 24,") == log.count("step 24 of 24,") == 1  # the second run did not start over
    apart = distance(alone.folder, both.folder)
    record_property("measured", f"weights {apart:.1e} apart")
    assert losses(both) == pytest.approx(losses(alone), abs=1e-6)
    assert apart < 2e-6
