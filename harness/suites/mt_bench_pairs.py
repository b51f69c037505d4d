"""MT-Bench pairwise: two answers compared in both orders; a disagreement of the two games is a tie. Pure.

Source: FastChat show_result.py, display_result_pairwise: a row counts only where both games have a winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import Preference, Prompt, Score, SuiteScores
from ..scoring import Unit, categories, mean_score, unscored_note


@dataclass(frozen=True)
class Games:
    """One question's turn judged in both orders; preferences are the candidate's (1 win, 0.5 tie, 0 loss)."""

    prompt_id: str
    turn: int
    first: Preference | None
    """None: no verdict."""
    second: Preference | None

    @property
    def outcome(self) -> float | None:
        """1 where both games go to the candidate, 0 where both go to the other, else 0.5; None where one failed."""
        if self.first is None or self.second is None:
            return None
        return self.first.value if self.first.value == self.second.value else 0.5


def score_pairs(
    prompts: Sequence[Prompt], games: Sequence[Games], expected: int, *, seed: int = 0, intervals: bool = True
) -> SuiteScores:
    """`win_rate` (wins over all) and `win_rate_adjusted` (a tie is half a win), percent, of `expected` games pairs."""

    def of(some: Sequence[Games], asked: int) -> dict[str, Score]:
        outcomes = [(one.prompt_id, one.outcome) for one in some]
        values = [(prompt_id, value) for prompt_id, value in outcomes if value is not None]
        wins = [Unit(prompt_id, float(value == 1)) for prompt_id, value in values]
        halves = [Unit(prompt_id, value) for prompt_id, value in values]
        return {
            name: mean_score(units, asked, scale=100.0, seed=seed, intervals=intervals)
            for name, units in (("win_rate", wins), ("win_rate_adjusted", halves))
        }

    scores = of(games, expected)
    by_category = {}
    for category, ids in categories(prompts).items():
        some = [one for one in games if one.prompt_id in ids]
        by_category[category] = of(some, max(len(some), expected * len(ids) // len(prompts)))
    notes = unscored_note(scores["win_rate"], "pairs of games")
    return SuiteScores(scores=scores, by_category=by_category, notes=notes)
