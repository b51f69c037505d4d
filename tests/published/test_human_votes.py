"""`harness elo` on MT-Bench's real votes, with GPT-4's recorded verdicts as the judge's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.commands import Done, run_command

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
pytestmark = pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")),
    reason="set HARNESS_PUBLISHED and HARNESS_MIRROR to the folders of published judgments and pinned files",
)
BY_VOTES = ["gpt-4", "claude-v1", "gpt-3.5-turbo", "vicuna-13b-v1.2", "alpaca-13b", "llama-13b"]


def record(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    parsed: dict[str, Any] = json.loads(done.out)
    return parsed


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    human = Path(str(PUBLISHED)) / "mt_bench" / "human"
    words = ("--votes", str(human / "human.jsonl.xz"), "--verdicts", str(human / "gpt4_pair.jsonl.xz"))
    return record(run_command("elo", *words, "--json", cwd=tmp_path_factory.mktemp("elo")))


@pytest.mark.slow
def test_people_rank_the_six_models_and_gpt_4_is_too_sure(real: dict[str, Any]) -> None:
    assert (real["votes"], real["ties"], real["questions"], real["verdicts"]) == (3355, 780, 80, 2400)
    assert [model["model"] for model in real["models"]] == BY_VOTES
    assert 0.55 < real["slope"]["ci_low"] < real["slope"]["value"] < real["slope"]["ci_high"] < 0.8
    assert 15 < real["misplaced"] < 45


def test_gpt_4_puts_itself_higher_than_people_do(real: dict[str, Any]) -> None:
    itself = real["models"][0]

    assert itself["by_judge"]["value"] > itself["elo"]["ci_high"] + 20


def test_gpt_4_predicts_held_out_votes_as_well_as_people_do(real: dict[str, Any]) -> None:
    held_out = real["held_out_shared"]
    losses = {name: part["log_loss"] for name, part in held_out.items()}

    assert list(held_out) == ["coin", "people_elo", "judge_elo", "judge_verdict", "other_people"]
    assert losses["coin"]["value"] == pytest.approx(0.693, abs=1e-3)
    assert all(loss["ci_high"] < 0.6 for name, loss in losses.items() if name != "coin")
    assert losses["other_people"]["value"] < losses["judge_verdict"]["value"]
    assert all(0.9 < part["slope"] < 1.1 for name, part in held_out.items() if name != "coin")


@pytest.mark.slow
def test_a_calibration_has_both_votes_and_verdicts(tmp_path: Path) -> None:
    words = ("judge", "calibrate", "--judge", "recorded", "--suite", "mt_bench", "--json")
    record(run_command(*words, cwd=tmp_path))
    (folder,) = (tmp_path / "results/calibrations/recorded").iterdir()

    result = record(run_command("elo", "--votes", str(folder), "--verdicts", str(folder), "--json", cwd=tmp_path))

    assert (result["votes"], result["verdicts"], result["judge"]) == (2668, 2400, "recorded")  # experts' votes alone
    assert [model["model"] for model in result["models"]] == BY_VOTES
    assert result["held_out"]["judge_verdict"]["log_loss"]["n"] == 2668
    (folder / "votes.jsonl").unlink()
    done = run_command("elo", "--votes", str(folder), cwd=tmp_path)
    assert done.code == 2
    assert "has no votes.jsonl: an earlier version made this calibration" in done.err
