"""The measurements behind docs/judging_speed.md run, in small; their figures are for `make bench-judging`."""

from __future__ import annotations

import pytest

from benchmarks.judging.__main__ import BEGIN
from benchmarks.judging.measure import Promise, client_alone, pipeline, token_bucket, wide
from benchmarks.judging.sides import Side
from benchmarks.judging.tables import peers_table
from tests import ROOT


def by_name(promises: list[Promise], word: str) -> float:
    [value] = [promise.value for promise in promises if word in promise.name]
    return value


@pytest.mark.slow
def test_every_measurement_runs_and_the_pipeline_keeps_to_its_connections() -> None:
    measured = pipeline(200, times=1)

    assert by_name(measured, "connections") <= 128
    assert {promise.value > 0 for promise in (*measured, *client_alone(200, 50))} == {True}
    assert by_name(wide(60, places=20, latency=0.1, times=1), "in flight there") == 20
    assert by_name(token_bucket(60), "rate") > 0


def test_a_peer_that_is_missing_is_said_to_be_and_ratios_are_per_call() -> None:
    ours = Side("ours", calls=1610, wall=3.0, cpu_per_call=0.5, memory=100, connections=128)
    half = Side("half", calls=805, wall=3.0, cpu_per_call=5.0, memory=300, connections=64)

    text = peers_table([ours, half, Side("third", missing="not installed")])

    assert "| half | 805 | 3.0 | 2.0 x | 5.00 | 10.0 x | 300 | 3.0 x | 64 |" in text
    assert "| third | not installed |" in text


def test_the_docs_hold_the_table() -> None:
    assert "805 answers judged" in (ROOT / "docs" / "judging_speed.md").read_text("utf-8").split(BEGIN)[1]
