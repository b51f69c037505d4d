"""Two models by games against each other, or of both against a third: how many questions either design needs.

GPT-4's published pairwise verdicts on MT-Bench, both orders of both turns, of six models: 60 triples.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from itertools import combinations

import numpy as np

from harness.pages.text import markdown_table
from harness.stats.paired import paired_difference, ratio_estimate
from harness.suites.scoring import QuestionSums, Unit, common, sums_of_units

from .published import published_root

HEAD = ("points of the weaker model", "triples", "questions head to head, of those over a third model")
BANDS = ((35.0, 50.0), (20.0, 35.0), (0.0, 20.0))
"""Percent of the points of the direct games: close pairs first."""
Games = dict[tuple[str, str], QuestionSums]


def direct(_: int) -> list[str]:
    games = read_games()
    models = sorted({model for model, _ in games})
    ratios: dict[tuple[float, float], list[float]] = {band: [] for band in BANDS}
    for first, other in combinations(models, 2):
        share = games[first, other].value
        assert share is not None
        band = next(band for band in BANDS if band[0] <= min(share, 100 - share) <= band[1])
        ratios[band] += [
            _questions_ratio(games, first, other, third) for third in models if third not in (first, other)
        ]
    rows = [
        [f"{low:g} to {high:g} %", str(len(values)), f"{np.median(values):.0%}"]
        for (low, high), values in ratios.items()
    ]
    return markdown_table(HEAD, rows, HEAD[:1])


def _questions_ratio(games: Games, first: str, other: str, third: str) -> float:
    """Return (se / difference)^2 of the direct games over that of the games with the third model."""
    points = games[other, first]
    straight = ratio_estimate(points.above - points.below / 2, points.below, scale=points.scale)
    over = common([games[first, third], games[other, third]])
    around = paired_difference((over[1].above, over[1].below), (over[0].above, over[0].below), scale=over[0].scale)
    assert straight is not None
    assert around is not None
    if around.value == 0:
        return 0.0  # no number of questions shows a difference there
    return float((straight.se / straight.value) ** 2 / (around.se / around.value) ** 2)


def read_games() -> Games:
    """Return (model, opponent) -> the model's points per question; a tie, or two orders that disagree, is half."""
    points: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    with lzma.open(published_root() / "mt_bench/human/gpt4_pair.jsonl.xz", "rt") as lines:
        for row in map(json.loads, lines):
            winner = row.get(row["winner"])
            for model, opponent in ((row["model_a"], row["model_b"]), (row["model_b"], row["model_a"])):
                value = 0.5 if winner is None else float(winner == model)
                points[model, opponent].append(Unit(str(row["question_id"]), value))
    return {pair: sums_of_units("win_rate", 100.0, units) for pair, units in points.items()}
