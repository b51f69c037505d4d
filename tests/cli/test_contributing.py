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

import pytest

from harness.records.protocols import installed
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


@pytest.mark.slow
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


def test_a_package_that_is_installed_meanwhile_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "shout" not in installed("suites")

    install(tmp_path)

    assert "shout" in installed("suites")


def harness(folder: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run the command with the printed package installed, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "harness.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=60)
    assert done.returncode in codes, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_printed_facts_make_the_suite_a_citizen_like_ours(tmp_path: Path) -> None:
    """Columns, comparison, default margins, export and import of a suite from another package."""
    install(tmp_path)
    for model in ("first", "second"):
        harness(
            tmp_path, "run", "--model", f"./{model}", *["--suite", "shout", "--judge", "exact", "--backend", "upper"]
        )

    (table,) = json.loads(harness(tmp_path, "leaderboard", "--format", "json"))["tables"]
    assert table["rows"][0]["others"]["mean_short"]["value"] == 10.0
    assert r"| mean\_short |" in harness(tmp_path, "leaderboard", "--format", "md")

    (compared,) = json.loads(harness(tmp_path, "compare", "first", "second", "--format", "json"))["comparisons"]
    overall = [difference for difference in compared["differences"] if difference["category"] is None]
    assert [(difference["metric"], difference["n"]) for difference in overall] == [
        ("mean_rating", 4),
        ("mean_short", 2),
    ]

    words = ("gate", "--candidate", "second", "--baseline", "first", "--json")
    gate = harness(tmp_path, *words, codes=(3,))  # four questions are too few to decide
    checks = {check["metric"]: (check["margin"], check["tier"]) for check in json.loads(gate)["checks"]}
    assert checks == {"mean_rating": (1.0, "critical"), "mean_short": (2.0, "supporting")}

    harness(tmp_path, "export", "first", "--format", "shouts", "--out", "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "shouts.jsonl").read_text().splitlines()]
    assert {"word": "tree", "shout": "TREE", "rating": 10.0} in rows
    changed = [{**row, "rating": 4.0} if row["word"] == "tree" else row for row in rows]
    (tmp_path / "changed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    text = harness(tmp_path, *["import", "changed.jsonl", "--format", "shouts", "--model", "third", "--json"])
    scores = json.loads(text)["cards"][0]["scores"]
    assert (scores["mean_rating"]["value"], scores["mean_short"]["value"]) == (8.5, 7.0)


ASK = """
from harness import RewardOptions
from harness.records import Prompt
from recipes.layout import PromptRow
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
