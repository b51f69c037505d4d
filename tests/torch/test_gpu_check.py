"""gpu-check runs where TRL, datasets and vLLM are not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("torch")

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trl", "datasets", "vllm", "deepspeed"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_every_section_runs_without_trl_datasets_and_vllm(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    command = [sys.executable, "-m", "benchmarks.training.gpu_check", "--size", "tiny", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
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
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", "import recipes.training.trainer"], cwd=ROOT, env=environment, check=True)
