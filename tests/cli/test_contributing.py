"""The package printed in CONTRIBUTING.md, installed and run exactly as printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from tests import ROOT

PAGE = ROOT / "CONTRIBUTING.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


def install(site: Path) -> None:
    """Writes the page's files and its entry points as an installed distribution."""
    for block in blocks("python"):
        name = re.match(r"# (\S+)\n", block)
        assert name is not None
        path = site / name[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
    (site / "shout" / "__init__.py").touch()
    (toml,) = blocks("toml")
    info = site / "shout-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1.0\n")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_the_printed_suite_judge_and_backend_run(tmp_path: Path) -> None:
    install(tmp_path)
    (shown,) = blocks("sh")
    command = [sys.executable, "-m", "harness.cli.main", *shlex.split(shown)[1:], "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)

    assert done.returncode == 0, done.stderr
    (card,) = json.loads(done.stdout)["cards"]
    assert card["scores"]["mean_rating"] == {
        "value": 10.0, "ci_low": None, "ci_high": None, "se": None, "n": 4, "unscored": 0,
    }  # fmt: skip
    assert (card["suite"], card["judge"], card["complete"]) == ("shout", "exact", True)


ASK = """
from harness import RewardOptions
from harness.records import Prompt
from recipes.records import PromptRow
from recipes.rewards.scorer import RewardItem, Scorer

row = PromptRow(prompt=Prompt(id="p", turns=("shout",), category="c"), part="preference")
with Scorer(RewardOptions("loudness", params={"longest": 8})) as scorer:
    scores = scorer.score([RewardItem(row, "TREe"), RewardItem(row, "a river flows")])
    print(scorer.cacheable, [str(score) for score in scores])
"""


def test_the_printed_reward_scores(tmp_path: Path) -> None:
    install(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True ['0.75', \"reason='context' message='13 characters are more than 8'")
