"""The sections of `make bench-stats`: the tables of docs/statistics.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.sections import Section

from .coverage import COVERAGE, Share, false_alarms, look_errors, margin_errors, rank_coverage
from .crossed import crossed_lines
from .few import grid_lines
from .population import population_lines
from .timing import timing_lines

SIZES = (80, 500)
"""Questions of MT-Bench and of Arena-Hard."""


def coverage(sets: int) -> list[str]:
    return table([share for study in COVERAGE for size in SIZES for share in study(sets, size)])


def early_looks(sets: int) -> list[str]:
    return table(look_errors(sets, 500))


def ranks(sets: int) -> list[str]:
    return table([share for size in (20, *SIZES) for share in rank_coverage(max(50, sets // 10), size)])


def alarms(sets: int) -> list[str]:
    return table([share for size in SIZES for share in false_alarms(sets, size)])


def margins(sets: int) -> list[str]:
    return table([share for size in SIZES for share in margin_errors(sets, size)])


def few_questions(sets: int) -> list[str]:
    return list(grid_lines(sets))


def time_taken(_: int) -> list[str]:
    return timing_lines()


def table(shares: Sequence[Share]) -> list[str]:
    head = ["| what | questions | share | its 95 % interval |", "| --- | ---: | ---: | --- |"]
    return head + [share.line() for share in shares]


SECTIONS = {
    "coverage": Section("Share of 95 % intervals that contain the truth", coverage),
    "looks": Section("Looking early, true drop = margin", early_looks),
    "ranks": Section("Ranks of ten models", ranks),
    "alarms": Section("False alarms at 5 %", alarms),
    "margins": Section("Gate, at the margin (5 % each)", margins),
    "few": Section("Few questions, rows or labels", few_questions),
    "population": Section("These questions, or all", population_lines),
    "crossed": Section("Questions and training seeds at once", crossed_lines),
    "time": Section("Time", time_taken),
}
