"""gpu-check runs where TRL, datasets and vLLM are not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("torch")

WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trl", "datasets", "vllm", "deepspeed"):
            return None  # as if it were not installed: libraries only ask whether it is
        return self._finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


@pytest.mark.slow
def test_every_section_runs_without_trl_datasets_and_vllm(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
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
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", "import recipes.training.trainer"], cwd=ROOT, env=environment, check=True)
