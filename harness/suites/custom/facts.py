"""State what the product knows about suites that users write as data: each file is a suite, `custom:NAME`."""

from __future__ import annotations

from ...records.facts import Facts, Metric, QuestionRule

WIN_RATE, CONTROLLED, STYLED = "win_rate", "lc_win_rate", "style_win_rate"
"""The headlines of games against a baseline: plain, length-controlled, style-controlled."""
RATING, RUBRIC, PASSED = "rating", "rubric", "pass_rate"
"""The headlines of ratings, rubrics and checks."""

CUSTOM = Facts(
    name="custom",
    title="custom suite",
    headline=WIN_RATE,
    metrics=(
        Metric(WIN_RATE, "percent", "win rate against the baseline"),
        Metric(CONTROLLED, "percent", "length-controlled win rate against the baseline"),
        Metric(STYLED, "percent", "style-controlled win rate against the baseline"),
        Metric(RATING, "points", "mean rating"),
        Metric(RUBRIC, "percent", "share of the rubric's points"),
        Metric(PASSED, "percent", "share of the checks passed"),
        Metric("avg_length", "characters", "mean length of an answer", higher_is_better=None),
    ),
    columns=("avg_length",),
    rules_by_headline={
        WIN_RATE: (QuestionRule(WIN_RATE, 100.0),),
        CONTROLLED: (QuestionRule(WIN_RATE, 100.0),),
        STYLED: (QuestionRule(WIN_RATE, 100.0),),
        RATING: (QuestionRule(RATING, 1.0),),
        RUBRIC: (QuestionRule(RUBRIC, 1.0),),
        PASSED: (QuestionRule(PASSED, 1.0),),
    },
    argument="FILE.yaml",
    aliases=("pairs",),
    suffixes=(".yaml", ".yml", ".jsonl"),
    judge_of="harness.suites.custom.definition:judge_of",
    by_argument=True,
)
