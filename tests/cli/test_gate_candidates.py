"""The gate on several candidates: Holm over them, and which of those that pass may be the best."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from harness.analysis.gate.candidates import gate_candidates
from harness.analysis.gate.evidence import GateOptions
from harness.analysis.gate.policy import GateCheck, GatePolicy
from harness.pages.gate_text import candidates_markdown, shipping_line
from harness.records.errors import ConfigError
from tests.fakes.commands import Done
from tests.fakes.deciding import LOSS, WIN, mixed, toy_run, write_run

POLICY = GatePolicy(checks=(GateCheck(suite="arena_hard", margin=10.0),))


def write_runs(results: Path) -> None:
    """A baseline of 50 wins and 50 losses, and candidates with more, as many, or fewer wins."""
    write_run(results, toy_run("base", mixed(50, 50)))
    write_run(results, toy_run("strong", mixed(80, 20)))
    write_run(results, toy_run("alike", mixed(50, 50)))
    write_run(results, toy_run("weak", mixed(10, 90)))


def test_the_best_of_those_that_pass_is_named(tmp_path: Path) -> None:
    write_runs(tmp_path)
    report = gate_candidates(["strong", "alike", "weak"], "base", POLICY, GateOptions(results=tmp_path))

    assert [row.outcome for row in report.reports] == ["pass", "pass", "fail"]
    assert (report.outcome, report.exit_code, report.shippable) == ("pass", 0, ("strong",))
    assert [row.model for row in report.best[0].models] == ["strong", "alike"]  # weak does not pass
    assert shipping_line(report).startswith(
        "PASS (exit 0): strong and alike of 3 candidates pass against base; ship strong"
    )


def test_equal_candidates_are_tied(tmp_path: Path) -> None:
    write_runs(tmp_path)
    write_run(tmp_path, toy_run("twin", mixed(80, 20)))
    report = gate_candidates(["strong", "twin"], "base", POLICY, GateOptions(results=tmp_path))

    assert report.shippable == ("strong", "twin")
    assert "strong and twin are not shown to be worse than the best: ship any" in shipping_line(report)


@pytest.mark.slow
def test_a_candidate_that_passes_only_alone_is_inconclusive(tmp_path: Path) -> None:
    # 5 lost and 3 won of 100: -2 with an error of 100 * sqrt((8 - 0.04) / 99) / 10 = 2.84. With a margin of 7,
    # t = 5 / 2.84 = 1.76 and p is 0.04: enough alone, not as one of two (0.08)
    write_runs(tmp_path)
    write_run(tmp_path, toy_run("near", [LOSS] * 5 + [WIN] * 45 + [WIN] * 3 + [LOSS] * 47))
    policy = GatePolicy(checks=(GateCheck(suite="arena_hard", margin=7.0),))
    alone = gate_candidates(["near", "strong"], "base", policy, GateOptions(results=tmp_path))
    near, strong = alone.reports

    # Holm: the smaller p is doubled, the larger kept, so it passes beside one that certainly does
    assert (near.outcome, strong.outcome) == ("pass", "pass")
    assert near.p_pass == pytest.approx(0.04, abs=0.005)

    beside = gate_candidates(["near", "weak"], "base", policy, GateOptions(results=tmp_path)).reports[0]
    assert beside.outcome == "inconclusive"
    assert beside.p_pass == pytest.approx(0.08, abs=0.01)
    assert beside.reasons[0].startswith("passes alone, but not as one of 2 candidates: p 0.08")


def test_a_floor_counts_as_one_of_the_candidates_tests(tmp_path: Path) -> None:
    # 53 of 100 won: 53 with an error of 100 * sqrt(0.53 * 0.47 / 99) = 5.02, so t above a floor of 44 is about 1.79 and
    # p 0.038: enough alone, not as one of two (0.077). The drop from 50 is nil.
    write_runs(tmp_path)
    write_run(tmp_path, toy_run("near", [WIN] * 53 + [LOSS] * 47))
    policy = GatePolicy(checks=(GateCheck(suite="arena_hard", margin=10.0, floor=44.0),))
    near = gate_candidates(["near", "weak"], "base", policy, GateOptions(results=tmp_path)).reports[0]

    assert near.checks[0].above_floor is True
    assert near.checks[0].p_floor == pytest.approx(0.038, abs=0.002)
    assert near.outcome == "inconclusive"
    assert near.p_pass == pytest.approx(0.077, abs=0.004)


def test_without_a_pass_the_worst_news_first(tmp_path: Path) -> None:
    write_runs(tmp_path)
    write_run(tmp_path, toy_run("lower", mixed(20, 80)))
    report = gate_candidates(["weak", "lower"], "base", POLICY, GateOptions(results=tmp_path))

    assert (report.outcome, report.exit_code, report.best, report.shippable) == ("fail", 1, (), ())
    assert shipping_line(report) == "FAIL (exit 1): none of 2 candidates passes against base"


def test_names_are_checked(tmp_path: Path) -> None:
    write_runs(tmp_path)
    with pytest.raises(ConfigError, match="names alike twice"):
        gate_candidates(["alike", "alike"], "base", POLICY, GateOptions(results=tmp_path))
    with pytest.raises(ConfigError, match="takes two or more names"):
        gate_candidates(["alike"], "base", POLICY, GateOptions(results=tmp_path))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_runs(tmp_path)
    write_run(tmp_path, toy_run("<b>x", mixed(50, 50)))
    report = gate_candidates(["<b>x", "alike"], "base", POLICY, GateOptions(results=tmp_path))

    assert "<b>" not in candidates_markdown(report)


@pytest.mark.slow
def test_the_command_writes_every_file(harness: Callable[..., Done], tmp_path: Path) -> None:
    write_runs(tmp_path / "results")
    policy = tmp_path / "gate.yaml"
    policy.write_text("checks: [{suite: arena_hard, margin: 10}]\n")
    command = ["gate", "--candidates", "strong,alike,weak", "--baseline", "base", "--policy", policy]
    shown = harness(
        *command, "--junit", tmp_path / "g.xml", "--json-file", tmp_path / "g.json", "--summary", tmp_path / "g.md"
    )

    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[-1].startswith("PASS (exit 0): strong and alike of 3 candidates pass")
    assert [suite.get("name") for suite in etree.parse(tmp_path / "g.xml").getroot()] == [
        "harness gate strong base",
        "harness gate alike base",
        "harness gate weak base",
    ]
    assert json.loads((tmp_path / "g.json").read_text())["shippable"] == ["strong"]
    assert (tmp_path / "g.md").read_text().startswith("# Gate of 3 candidates: PASS")
    assert harness(*command, "--live").code == 2
    assert harness(*command, "--candidate", "strong").code == 2
