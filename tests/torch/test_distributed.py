"""Two processes train what one does: data-parallel and FSDP2, on this machine's processors (gloo)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("torch")
pytest.importorskip("trl")

pytestmark = pytest.mark.slow


def work(out: Path, *, processes: int, fsdp: bool = False, resume: bool = False, bf16: bool = False) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    sharding = {
        "FSDP_ON_CPU": "1",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [
            *launch,
            "-m",
            "tests.fakes.distributed_worker",
            str(out),
            str(8 // processes),
            *(["resume"] if resume else []),
            *(["bf16"] if bf16 else []),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(sharding if fsdp else {})},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((out / "log.json").read_text())
    return found


def distance(one: Path, other: Path, name: str = "final") -> float:
    from safetensors.torch import load_file

    a, b = (load_file(out / name / "model.safetensors") for out in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


Note = Callable[[str, object], None]


def measured(one: list[float], other: list[float], weights: float) -> str:
    losses = max(abs(a - b) for a, b in zip(one, other, strict=True))
    return f"losses {losses:.1e}, weights {weights:.1e} apart"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("alone")
    return out, work(out, processes=1)


@pytest.mark.parametrize("fsdp", [False, True], ids=["data-parallel", "fsdp2"])
def test_two_processes_train_what_one_does(
    alone: tuple[Path, dict[str, Any]], tmp_path: Path, fsdp: bool, record_property: Note
) -> None:
    out, single = alone
    both = work(tmp_path, processes=2, fsdp=fsdp)

    assert both["sharded"] is fsdp
    record_property("measured", measured(both["loss"], single["loss"], distance(out, tmp_path)))
    assert both["loss"] == pytest.approx(single["loss"], abs=1e-6)
    assert distance(out, tmp_path) < 2e-6
    if fsdp:
        assert both["reference_sharded"]  # the reference's weights as well
        parts = list((tmp_path / "checkpoint-2").glob("pytorch_model_fsdp_0/*.distcp"))
        assert len(parts) == 2  # each process wrote its part of the intermediate checkpoint
    flat = [value for row in both["reference"] for value in row]
    assert flat == pytest.approx([value for row in single["reference"] for value in row], abs=1e-4)
    resumed = work(tmp_path, processes=2, fsdp=fsdp, resume=True)
    assert resumed["loss"] == pytest.approx(single["loss"], abs=1e-6)
    assert distance(out, tmp_path) < 2e-6


@pytest.mark.parametrize("fsdp", [False, True], ids=["data-parallel", "fsdp2"])
def test_log_probabilities_stay_in_float32_under_bf16(tmp_path: Path, fsdp: bool) -> None:
    facts = work(tmp_path, processes=2, fsdp=fsdp, bf16=True)

    assert facts["sharded"] is fsdp
    assert {facts["policy"], facts["reference"], facts["live_reference"]} == {"torch.float32"}


PROCESSORS = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: 'no'
num_machines: 1
num_processes: 2
"""
ZERO_3 = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
deepspeed_config:
  zero_stage: 3
  zero3_init_flag: true
  zero3_save_16bit_model: true
  offload_optimizer_device: none
  offload_param_device: none
"""


@pytest.mark.parametrize("launched", [PROCESSORS, ZERO_3], ids=["data-parallel", "zero-3"])
def test_a_launched_variant_is_the_one_trained_here(
    tmp_path: Path, launched: str, monkeypatch: pytest.MonkeyPatch, record_property: Note
) -> None:
    """`launch:` with two processes: reference in shares, training data-parallel or sharded by DeepSpeed, the checkpoint
    by the main one."""
    if launched is ZERO_3:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make test-deepspeed")
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from recipes.steps import run_step
    from tests.fakes.training_steps import QUICK, aligned, losses, made, pairs_of, sft_of, target_folder

    target = target_folder(tmp_path / "target")
    config = tmp_path / "two.yaml"
    config.write_text(launched)
    one = {**QUICK, "beta": 0.1, "alpha": 0.3}
    here = made(tmp_path / "here", target, training=one)
    there = made(tmp_path / "there", target, training={**one, "per_device_train_batch_size": 2}, launch=str(config))
    sft = sft_of(here)
    run_step(sft)
    alone, both = (aligned(recipe, sft, pairs_of(recipe))[0] for recipe in (here, there))
    run_step(alone)
    record = run_step(both)
    references = [
        json.loads(next(recipe.seed(42).glob("rows/*/reference-*.json")).read_text()) for recipe in (here, there)
    ]

    record_property("measured", measured(losses(both), losses(alone), distance(alone.folder, both.folder, name=".")))

    assert (record.counts["processes"], record.counts["batch"], record.counts["steps"]) == (2, 4, 6)
    assert losses(both) == pytest.approx(losses(alone), abs=1e-6)
    assert distance(alone.folder, both.folder, name=".") < 2e-6
    flat = [[value for row in rows for value in row] for rows in references]
    assert flat[1] == pytest.approx(flat[0], abs=1e-4)
