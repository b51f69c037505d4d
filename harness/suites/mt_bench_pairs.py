"""MT-Bench pairwise: two answers compared in both orders; two games that disagree are a tie. Pure.

Source: FastChat show_result.py, display_result_pairwise: a row counts only if both games have a winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import Preference, Prompt, Score, SuiteScores
from ..scoring import Unit, categories, mean_score, unscored_note


@dataclass(frozen=True)
class Games:
    """One turn of a question judged in both orders; preferences are the candidate's (1 win, 0.5 tie, 0 loss)."""

    prompt_id: str
    turn: int
    first: Preference | None
    """None: no verdict."""
    second: Preference | None

    @property
    def outcome(self) -> float | None:
        """Return 1 if the candidate wins both games, 0 if it loses both, else 0.5; None if one game failed."""
        if self.first is None or self.second is None:
            return None
        return self.first.value if self.first.value == self.second.value else 0.5


def score_pairs(
    prompts: Sequence[Prompt], games: Sequence[Games], expected: int, *, seed: int = 0, intervals: bool = True
) -> SuiteScores:
    """Return `win_rate` (wins over all) and `win_rate_adjusted` (a tie is half a win), in percent of `expected`
    pairs."""

    def of(part: Sequence[Games], expected_pairs: int) -> dict[str, Score]:
        outcomes = [(pair.prompt_id, pair.outcome) for pair in part]
        values = [(prompt_id, value) for prompt_id, value in outcomes if value is not None]
        wins = [Unit(prompt_id, float(value == 1)) for prompt_id, value in values]
        halves = [Unit(prompt_id, value) for prompt_id, value in values]
        return {
            name: mean_score(units, expected_pairs, scale=100.0, seed=seed, intervals=intervals)
            for name, units in (("win_rate", wins), ("win_rate_adjusted", halves))
        }

    scores = of(games, expected)
    by_category = {}
    for category, ids in categories(prompts).items():
        category_games = [pair for pair in games if pair.prompt_id in ids]
        by_category[category] = of(category_games, max(len(category_games), expected * len(ids) // len(prompts)))
    notes = unscored_note(scores["win_rate"], "pairs of games")
    return SuiteScores(scores=scores, by_category=by_category, notes=notes)
