"""gpu-check measures where pydantic, TRL, datasets and vLLM are not installed, and fails if it measures nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("torch")

BLOCKED = ("trl", "datasets", "vllm", "deepspeed", "pydantic", "pydantic_core")
WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            return None  # as if it were not installed: libraries only ask whether it is
        return self._finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def without(folder: Path, *packages: str) -> dict[str, str]:
    """Return the environment of a Python that finds none of the packages."""
    (folder / "sitecustomize.py").write_text(f"BLOCKED = {packages!r}\n{WITHOUT}")
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"}


def test_what_is_measured_imports_no_pydantic(tmp_path: Path) -> None:
    modules = "benchmarks.training.step, recipes.in_process.generation, recipes.rewards.armorm_model"
    subprocess.run([sys.executable, "-c", f"import {modules}"], cwd=ROOT, env=without(tmp_path, *BLOCKED), check=True)


def test_a_section_that_measures_nothing_fails_the_check() -> None:
    from benchmarks.training.gpu_check import faults_of

    missing = {"skipped": "pydantic is not installed"}
    assert faults_of("armorm", [missing]) == ["armorm: nothing was measured (pydantic is not installed)"]
    assert faults_of("armorm", []) == ["armorm: nothing was measured"]
    assert faults_of("step", [{"arm": "rows", "prompts_per_second": 2.0}, missing]) == []
    assert faults_of("parity", [{"check": "rows", "passed": False}]) == ["parity: rows does not pass"]
    assert faults_of("step", [{"arm": "rows"}, {"failed": "out of memory"}]) == ["step: out of memory"]


@pytest.mark.slow
def test_every_section_runs_without_pydantic_trl_datasets_and_vllm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.training.gpu_check", "--size", "tiny", "--out", str(tmp_path / "out")]
    environment = without(tmp_path, *BLOCKED)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    report = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert done.returncode == 0, done.stderr[-2000:] + json.dumps(report)
    assert set(report["sections"]) == {"parity", "step tiny", "generation", "armorm"}
    arms = {result["arm"]: result for result in report["sections"]["step tiny"] if "arm" in result}
    assert arms["shared + sdpa"]["first_loss"] == pytest.approx(arms["rows"]["first_loss"], abs=1e-5)
    assert report["sections"]["step tiny"][-1] == {"skipped": "datasets is not installed"}
    assert (tmp_path / "out" / "gpu_check.md").read_text().count("###") == 4


@pytest.mark.slow
def test_the_trainer_imports_without_trl_and_datasets(tmp_path: Path) -> None:
    environment = without(tmp_path, "trl", "datasets", "vllm", "deepspeed")
    subprocess.run([sys.executable, "-c", "import recipes.training.trainer"], cwd=ROOT, env=environment, check=True)
